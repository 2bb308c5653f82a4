"""Drawn faces: the embedded default data.

Seven expressions are mixtures of action units after the prototypes of Ekman & Friesen (EMFACS, 1983).  Intensities are
random, some units are missing and others stray, so weak expressions overlap and no score is perfect.  A face is a pure
function of (seed, index, label, identity).
"""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from fer_lib.emotions import NUM_CLASSES
from fer_lib.errors import DataError
from fer_lib.params import SourceSpec
from fer_lib.storage.atomic import cached_folder, explained, fresh_folder
from fer_lib.synthetic import drawing, features
from fer_lib.synthetic.layouts import LAYOUTS
from fer_lib.synthetic.noise_injection import CONTEMPT, Record, apportion, inject_noise, truth

CLASS_SHARES = np.array([0.14, 0.03, 0.14, 0.24, 0.165, 0.115, 0.17])
"""Shares in EMOTIONS order: FER2013's, but Disgust has twice its share: a test split of 300 still has nine of it."""

# Per expression a list of (probability, {action unit: typical intensity at full strength}).
_PROTOTYPES: tuple[tuple[tuple[float, dict[str, float]], ...], ...] = (
    (  # Angry: lips pressed, or teeth bared
        (0.6, {"AU4": 1.0, "AU5": 0.35, "AU7": 0.7, "AU24": 0.9, "AU17": 0.3}),
        (0.4, {"AU4": 1.0, "AU5": 0.45, "AU7": 0.6, "AU10": 0.4, "AU15": 0.3, "AU20": 0.4, "AU25": 0.9, "AU26": 0.25}),
    ),
    (  # Disgust
        (0.6, {"AU9": 1.0, "AU10": 0.8, "AU4": 0.35, "AU7": 0.4, "AU15": 0.35, "AU17": 0.5}),
        (0.4, {"AU9": 0.9, "AU10": 1.0, "AU7": 0.4, "AU25": 0.7, "AU15": 0.3}),
    ),
    ((1.0, {"AU1": 1.0, "AU2": 0.6, "AU4": 0.55, "AU5": 0.8, "AU20": 0.9, "AU25": 0.7, "AU26": 0.3}),),  # Fear
    (  # Happy: a smile with and without teeth
        (0.65, {"AU12": 1.0, "AU6": 0.7, "AU25": 0.9, "AU26": 0.15}),
        (0.35, {"AU12": 0.95, "AU6": 0.6}),
    ),
    ((1.0, {"AU1": 0.95, "AU4": 0.45, "AU15": 1.0, "AU17": 0.6}),),  # Sad
    ((1.0, {"AU1": 1.0, "AU2": 1.0, "AU5": 0.8, "AU25": 0.6, "AU26": 0.95}),),  # Surprise
    ((1.0, {}),),  # Neutral
    ((1.0, {"AU12": 0.7}),),  # Contempt
)


@lru_cache(maxsize=4096)
def _person(seed: int, identity: int) -> features.Person:
    return features.Person(np.random.default_rng([seed, 0, identity]))


def _expression(label: int, rng: np.random.Generator) -> tuple[float, dict[str, float]]:
    """Strength and action units of one instance of expression ``label``."""
    variants = _PROTOTYPES[label]
    prototype = variants[int(rng.choice(len(variants), p=[p for p, _ in variants]))][1]
    # about one expression in five is weak, so that no model reaches a perfect score
    strength = rng.uniform(0.15, 0.5) if rng.random() < 0.22 else rng.uniform(0.5, 1.0)
    units = {}
    for name, typical in prototype.items():
        active = rng.random() > 0.08
        units[name] = float(np.clip(typical * strength * rng.uniform(0.75, 1.2), 0, 1)) if active else 0.0
    for name in rng.choice(features.ACTION_UNITS[:-2], 2, replace=False):  # the mouth does not open by chance
        units[str(name)] = max(units.get(str(name), 0.0), float(rng.uniform(0, 0.18)))
    return float(strength if prototype else 0.0), units


def _scene(label: int, rng: np.random.Generator) -> drawing.Scene:
    n = rng.standard_normal(8)
    u = rng.uniform
    side = 1.0 if rng.random() < 0.5 else -1.0
    return drawing.Scene(
        yaw=float(np.clip(10 * n[0], -25, 25)), pitch=float(np.clip(6 * n[1], -15, 15)),
        roll=float(np.clip(6 * n[2], -18, 18)),
        scale=u(0.88, 1.08), shift_x=0.025 * n[3], shift_y=0.025 * n[4], gaze=float(np.clip(0.5 * n[5], -1, 1)),
        skew=side if label == CONTEMPT else float(np.clip(0.12 * n[6], -0.4, 0.4)),
        light=(u(-0.7, 0.7), u(-0.5, 0.5)), gain=u(0.65, 1.12), bias=u(-12, 18),
        blur=u(0.4, 1.0) if rng.random() < 0.3 else 0.0, noise=u(1, 9),
        occlusion=str(rng.choice(["none", "hand", "bar", "scarf"], p=[0.88, 0.04, 0.06, 0.02])),
        background=str(rng.choice(["plain", "slope", "blobs", "blocks"])), seed=int(rng.integers(2**31)),
    )  # fmt: skip


def draw_face(seed: int, index: int, label: int | None = None, size: int = 48, identity: int | None = None) -> Record:
    """Face ``index`` of the endless series ``seed``.

    ``label`` None: drawn by :data:`CLASS_SHARES`; else 0..6 or :data:`CONTEMPT`.  ``identity`` None: one of 500 people.
    """
    rng = np.random.default_rng([seed, 1, index])
    # both numbers are always taken from the generator, so the face is the same whether or not its label is passed
    random_label, random_identity = int(rng.choice(NUM_CLASSES, p=CLASS_SHARES)), int(rng.integers(500))
    label = random_label if label is None else int(label)
    identity = random_identity if identity is None else int(identity)
    strength, units = _expression(label, rng)
    image = drawing.draw(_person(seed, identity), units, _scene(label, rng), size)
    return Record(image, "", identity, label, label, strength, units)


def draw_faces(n: int, seed: int = 1337, size: int = 48, labels=None) -> tuple[np.ndarray, np.ndarray]:
    """The first ``n`` faces of series ``seed``; ``labels`` int [n] or None as in :func:`draw_face`.

    Returns (uint8 RGB [n, size, size, 3], int64 [n] labels).
    """
    images, out = np.empty((n, size, size, 3), np.uint8), np.empty(n, np.int64)
    for i in range(n):
        face = draw_face(seed, i, None if labels is None else labels[i], size)
        images[i], out[i] = face.image, face.true
    return images, out


def contact_sheet(n_per_class: int = 8, size: int = 96, seed: int = 1337) -> np.ndarray:
    """One row per class in EMOTIONS order: uint8 RGB [7 (size + 4) + 4, n_per_class (size + 4) + 4, 3], white gaps."""
    images, _ = draw_faces(NUM_CLASSES * n_per_class, seed, size, np.repeat(np.arange(NUM_CLASSES), n_per_class))
    tiles = np.pad(images, ((0, 0), (4, 0), (4, 0), (0, 0)), constant_values=255)
    rows = [np.hstack(row) for row in np.split(tiles, NUM_CLASSES)]
    return np.pad(np.vstack(rows), ((0, 4), (0, 4), (0, 0)), constant_values=255)


def _records(layout: str, faces: int, seed: int, size: int) -> list[Record]:
    """The distinct faces of a dataset: the splits have the same class shares and no person in common."""
    rng = np.random.default_rng([seed, 3])
    kind = LAYOUTS[layout]
    labels, shares = list(kind.classes), CLASS_SHARES[list(kind.classes)] / CLASS_SHARES[list(kind.classes)].sum()
    if kind.contempt:
        labels, shares = [*labels, CONTEMPT], np.append(shares * (1 - kind.contempt), kind.contempt)
    sizes = apportion(faces, np.array(list(kind.splits.values()))).tolist()
    records = []
    for number, (split, n) in enumerate(zip(kind.splits, sizes, strict=True)):
        people = max(5, n // 8)
        for label in rng.permutation(np.repeat(labels, apportion(n, shares))).tolist():
            identity = len(sizes) * int(rng.integers(people)) + number
            records.append(replace(draw_face(seed, len(records), label, size, identity), split=split))
    return records


def write_raw(
    out_dir: Path | str, layout: str, faces: int = 3000, seed: int = 1337, label_noise: float = 0.0,
    duplicates: int = 0, leaks: int = 0, size: int | None = None, noise_shape: str = "symmetric",
) -> Path:  # fmt: skip
    """Write ``faces`` drawn faces in native ``layout`` (a key of LAYOUTS) and ``truth.json``; returns ``out_dir``.

    ``duplicates`` exact copies within a split, and ``leaks`` exact copies of train faces in the other splits (in turn),
    come on top of ``faces``.  Then round(``label_noise`` x records) labels are made wrong; ``noise_shape`` is symmetric
    or confusions (see :func:`inject_noise`).  ``size``: the side of a face in pixels (None: the layout's own).  The
    folder appears whole or not at all.

    Raises DataError for a number that does not fit, or an ``out_dir`` that is not empty or cannot be written.
    """
    out_dir = Path(out_dir)
    _check_request(out_dir, layout, faces, duplicates, leaks, size)
    kind, rng = LAYOUTS[layout], np.random.default_rng([seed, 4])
    # the folder is made before the faces are drawn: an unwritable one fails at once; a full disk names no file itself
    with fresh_folder(out_dir) as work, explained(out_dir):
        distinct = _records(layout, faces, seed, size or kind.size)
        records = inject_noise(distinct, rng, duplicates, leaks, label_noise, kind.classes, noise_shape)
        kind.write(work, records, rng)
        truths = {"layout": layout, "seed": seed, "records": [truth(r) for r in records]}
        (work / "truth.json").write_text(json.dumps(truths, indent=1), encoding="utf-8")
    return out_dir


def _check_request(out_dir: Path, layout: str, faces: int, duplicates: int, leaks: int, size: int | None) -> None:
    """Raise DataError for what :func:`write_raw` refuses."""
    kind = LAYOUTS[layout]
    if (least := 10 * (len(kind.classes) + (kind.contempt > 0))) > faces:
        raise DataError(f"{out_dir}: {faces} faces cannot give every split of {layout} every class: ask for >= {least}")
    if kind.fixed_size and size not in (None, kind.size):
        raise DataError(f"{out_dir}: layout {layout} has {kind.size}-pixel faces only, not {size}: leave size out")
    if leaks and len(kind.splits) == 1:
        raise DataError(f"{out_dir}: layout {layout} stores no splits, so no face can leak: use leaks=0")
    if duplicates > faces or leaks > faces // 2:
        raise DataError(f"{out_dir}: {duplicates} duplicates, {leaks} leaks do not fit {faces} faces: plant fewer")
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise DataError(f"{out_dir} exists and is not an empty folder: remove it or choose another one")


EMBEDDED = {
    "fer2013": ("fer2013_csv", ""),
    "tree": ("tree", None),
    "expw_full": ("expw", "expw"),
    "expw_hq": ("expw", "expw"),
}
"""Source -> its layout, and the name that the seed of its faces comes from (None: the dataset's own name)."""


def embedded_root(spec: SourceSpec) -> Path:
    """The raw folder of drawn faces behind ``root: embedded``, written on first use and cached in the store.

    ``spec.source``: a key of EMBEDDED; expw_full and expw_hq have the same faces, as the real ones do.  Raises
    DataError as :func:`write_raw` does.
    """
    layout, series = EMBEDDED[spec.source]
    series = spec.name or spec.source if series is None else series
    options = {"layout": layout, "seed": 1337 + zlib.crc32(series.encode())}
    options |= spec.model_dump(include={"faces", "label_noise", "duplicates", "leaks", "noise_shape"})
    # the code is part of the key: faces that are drawn otherwise are another dataset
    code = b"".join(module.read_bytes() for module in sorted(Path(__file__).parent.glob("*.py")))
    key = hashlib.sha256(json.dumps(options, sort_keys=True).encode() + code).hexdigest()[:12]
    return cached_folder(f"drawn-{key}", lambda folder: write_raw(folder, **options))
