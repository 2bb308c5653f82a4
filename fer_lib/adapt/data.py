"""What a model is adapted on: rows of live buffers, rows of before that are replayed, and val rows that people
labelled."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fer_lib.adapt.buffer import buffer, read_report
from fer_lib.datasets.curate import merge
from fer_lib.datasets.manifest import Manifest
from fer_lib.emotions import NUM_CLASSES
from fer_lib.errors import DataError
from fer_lib.live.session_files import read_frames
from fer_lib.live.sessions import same_source, session_id
from fer_lib.models.bundle import Bundle
from fer_lib.params import AdaptParams, BufferParams
from fer_lib.storage.atomic import fresh_folder

DRAWN_ROUNDS = 2  # of the seven expressions, in each drawn session
DRAWN_GAP = 4  # frames; a drawn session is short


@dataclass(frozen=True)
class Material:
    """``buffers`` folders; ``session`` that gates, None where none does; ``learned`` whether it was learned from too;
    ``drawn`` whether all of it is drawn faces."""

    buffers: list[Path]
    session: Path | None
    learned: bool
    drawn: bool


def material(p: AdaptParams, buffers: Sequence[str], gate_session: str, base: Bundle, out: Path) -> Material:
    """The buffers and the session that gates.  Without buffers: two drawn sessions, of two people, written to ``out``;
    ``base`` judges the first, which is learned from, and the second gates.

    DataError for a folder that is no buffer, and for a session that is not there.
    """
    folders = [Path(folder) for folder in buffers] or [_drawn(out, base, p.seed)]
    reports = [read_report(folder) for folder in folders]
    if p.offline_only:
        return Material(folders, None, False, not buffers)
    if gate_session:
        session = Path(gate_session)
    elif buffers:
        session = Path(reports[0]["session"])
    else:
        session = _drawn_session(out / "gate_session", p.seed + 1)
    if not session.is_dir():
        raise DataError(
            f"the session {session}, that is to gate, is not there: name one by gate_session, or set offline_only: true"
        )
    learned = session_id(session) in {report["session_sha256"] for report in reports}
    there = [report["session"] for report in reports if Path(report["session"]).is_dir()]
    return Material(folders, session, learned or any(same_source(session, s) for s in there), not buffers)


def _drawn_session(folder: Path, seed: int) -> Path:
    from fer_lib.live.synthetic_session import write_synthetic_session

    return folder if folder.is_dir() else write_synthetic_session(folder, seed, DRAWN_ROUNDS)


def _drawn(out: Path, base: Bundle, seed: int) -> Path:
    """The buffer of a drawn session that ``base`` judged; what is there already is taken, for a fit that goes on."""
    from fer_lib.live.replay import replay

    session, judged = _drawn_session(out / "session", seed), out / "session-judged"
    if not judged.is_dir():
        replay(session, base, str(base.path), judged)
    if not (judged / "buffer").is_dir():
        buffer(judged, judged / "buffer", _drawn_params(judged))
    return judged / "buffer"


def _drawn_params(session: Path) -> BufferParams:
    """Thresholds at a third and two thirds of the session's own probabilities: it is there to show the way, with any
    base, and few bases are ever sure of drawn faces."""
    probs = read_frames(session).probs
    largest = np.nanmax(probs[~np.isnan(probs).any(axis=1)], axis=1)
    negative, positive = np.quantile(largest, [1 / 3, 2 / 3])
    return BufferParams(positive=float(positive), negative=float(negative), min_gap=DRAWN_GAP)


def training_set(p: AdaptParams, buffers: Sequence[Path], offline: Manifest, base: Bundle, out: Path) -> Manifest:
    """Rows of the buffers and replayed train rows of ``offline`` as train, its val rows as val; written to ``out``.

    ``round(replay x rows of the buffers)`` train rows are replayed, the classes in equal shares as far as they go, by
    the order of a hash of the seed and their ids.  DataError when the base's contract wants more context round a face
    than a buffer kept, and when nothing could be learned.
    """
    parts = [Manifest.read(folder / "manifest.parquet") for folder in buffers]
    for folder, part in zip(buffers, parts, strict=True):
        _check_context(folder, part, base)
    rows = sum(map(len, parts))
    val = offline.rows(split="val").frame
    replayed = _replayed(offline.frame[offline.frame["split"] == "train"], round(p.replay * rows), p.seed)
    kept = Manifest(pd.concat([replayed, val]).reset_index(drop=True), offline.meta, offline.path)
    merged, _ = merge([*parts, kept])
    created = {"buffers": sorted(part.sha256 for part in parts), "offline": offline.sha256, "replay": p.replay}
    with fresh_folder(out) as work:
        Manifest(merged.frame, {**merged.meta, "created": created}).write(work / "manifest.parquet")
    # its root is written relative to the folder that it was made in, which lay beside this one
    return Manifest.read(out / "manifest.parquet")


def _replayed(train: pd.DataFrame, wanted: int, seed: int) -> pd.DataFrame:
    if not wanted or train.empty:
        return train[:0]
    order = [hashlib.sha256(f"replay:{seed}:{s}".encode()).hexdigest() for s in train["sample_id"]]
    train = train.assign(order=order).sort_values("order")
    rank = train.groupby("label").cumcount()
    most = -(-wanted // NUM_CLASSES)
    chosen = train[rank < most] if (rank < most).sum() <= wanted else train[rank < most].iloc[:wanted]
    return chosen.drop(columns="order")


def _check_context(folder: Path, part: Manifest, base: Bundle) -> None:
    kept = float(part.meta.get("created", {}).get("context", 0.0))
    turned = 2**0.5 if base.contract.align == "eyes" else 1.0  # the square may stand on a corner
    needed = ((1 + 2 * base.contract.margin) * turned - 1) / 2
    if needed > kept + 1e-9:
        raise DataError(
            f"{folder} keeps {kept:g} of a box's side round each face, the contract of {base.name} reads {needed:.2f}: "
            f"make the buffer again with -p context={min(1.0, needed + 0.05):.2f}"
        )


def counts_table(buffers: Sequence[Path], training: Manifest) -> pd.DataFrame:
    """Rows of train by where they come from and what they teach, and of val, a column a class."""
    from fer_lib.emotions import EMOTIONS

    lines: dict[str, dict[str, Any]] = {}
    for folder in buffers:
        for kind, counts in read_report(folder)["counts"].items():
            line = lines.setdefault(f"buffered, {kind}", dict.fromkeys(EMOTIONS, 0))
            for name, n in counts.items():
                line[name] += n
    frame = training.frame
    others = {"replayed": (frame["split"] == "train") & (frame["source"] != "live"), "val": frame["split"] == "val"}
    for name, mask in others.items():
        lines[name] = {e: int((frame.loc[mask, "label"] == i).sum()) for i, e in enumerate(EMOTIONS)}
    return pd.DataFrame(lines).T.assign(total=lambda table: table.sum(axis=1))
