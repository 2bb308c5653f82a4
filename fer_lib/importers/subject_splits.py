"""Splits for raw datasets that ship none: by photo or by person, from a hash."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from fer_lib.datasets.manifest import SPLITS
from fer_lib.importers.builder import BadRecord, ImportBuilder

OPTIONS = ("split_seed", "split_fracs")


def assign_splits(units: Iterable[str], fractions: Sequence[float], seed: int) -> dict[str, str]:
    """Unit (a photo, a person) -> train, val or test: the hash order of (seed, unit), cut at ``fractions``.

    val and test get ``round(fraction * n)`` units, and at least one where the fraction is not zero and n >= 3; train
    gets the rest, or val where train's fraction is 0.  The order of the units has no effect.
    """
    order = sorted(set(units), key=lambda unit: hashlib.sha256(f"{seed}:{unit}".encode()).hexdigest())
    least = [int(share > 0 and len(order) >= len(SPLITS)) for share in fractions[1:]]
    val, test = (max(round(share * len(order)), few) for share, few in zip(fractions[1:], least, strict=True))
    train, test = max(len(order) - val - test, 0) if fractions[0] else 0, min(test, len(order) - least[0])
    return {unit: SPLITS[(i >= train) + (i >= len(order) - test)] for i, unit in enumerate(order)}


def split_photos(faces: Sequence[tuple[str, int]], builder: ImportBuilder) -> dict[str, str]:
    """Photo -> split of faces (photo, class id), stratified by the class of a photo that is rarest among all faces."""
    spec, total, split_of = builder.spec, Counter(label for _, label in faces), {}
    # of the faces of a photo the last one counts
    rarest = dict(sorted(faces, key=lambda face: (total[face[1]], face[1]), reverse=True))
    for label in total:
        photos = [photo for photo, stratum in rarest.items() if stratum == label]
        split_of |= assign_splits(photos, spec.split_fracs, spec.split_seed)
    builder.details |= {"split_fracs": list(spec.split_fracs), "seed": spec.split_seed}
    return split_of


def add_by_subject(images: Iterable[tuple[Path, int]], pattern: re.Pattern[str], builder: ImportBuilder) -> None:
    """Add rows of (image, class id); all images of a person are in one split.

    The person is the group ``subject`` of ``pattern`` in the file name; a name that does not match is a bad record.
    """
    spec, labelled = builder.spec, []
    for path, label in images:
        with builder.record():
            if (match := pattern.match(path.name)) is None:
                raise BadRecord("no person in the file name", str(path))
            labelled.append((path, label, match["subject"]))
    split_of = assign_splits((subject for *_, subject in labelled), spec.split_fracs, spec.split_seed)
    for path, label, subject in labelled:
        with builder.record():
            builder.add_image(path, split=split_of[subject], label=label, subject=subject)
    builder.details = {"subjects": len(split_of), "split_fracs": list(spec.split_fracs), "seed": spec.split_seed}
