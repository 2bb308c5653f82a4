"""Training data of an adaptation: rows of live buffers, replayed train rows and annotated val rows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fer_lib.adapt.buffer import read_report, write_buffer
from fer_lib.datasets.curate import merge
from fer_lib.datasets.manifest import Manifest
from fer_lib.emotions import EMOTIONS, NUM_CLASSES
from fer_lib.errors import DataError
from fer_lib.live.session_files import read_frames
from fer_lib.live.sessions import same_source, session_id
from fer_lib.models.bundle import Bundle
from fer_lib.params import AdaptParams, BufferParams
from fer_lib.storage.atomic import fresh_folder

DRAWN_ROUNDS = 2  # of the seven expressions per drawn session
DRAWN_GAP = 4  # frames; drawn sessions are short


@dataclass(frozen=True)
class AdaptData:
    """``buffers`` (folders), the gate ``session`` or None, and whether it is ``trained_on``."""

    buffers: list[Path]
    session: Path | None
    trained_on: bool


def find_data(p: AdaptParams, buffers: Sequence[str], gate_session: str, base: Bundle, out: Path) -> AdaptData:
    """The buffers to train on and the session for the gate.

    Without ``buffers``, two sessions of two drawn people are written to ``out``: ``base`` predicts on the first, which
    becomes the buffer, and the second is the gate session.
    Raises DataError for a folder that is no buffer and for a missing session.
    """
    folders = [Path(folder) for folder in buffers] or [_drawn_buffer(out, base, p.seed)]
    reports = [read_report(folder) for folder in folders]
    if p.offline_only:
        return AdaptData(folders, None, False)
    if gate_session:
        session = Path(gate_session)
    elif buffers:
        session = Path(reports[0]["session"])
    else:
        session = _drawn_session(out / "gate_session", p.seed + 1)
    if not session.is_dir():
        raise DataError(f"the gate session {session} is not there: name one by gate_session, or set offline_only: true")
    trained_on = session_id(session) in {report["session_sha256"] for report in reports}
    existing = [report["session"] for report in reports if Path(report["session"]).is_dir()]
    return AdaptData(folders, session, trained_on or any(same_source(session, s) for s in existing))


def _drawn_session(folder: Path, seed: int) -> Path:
    from fer_lib.live.synthetic_session import write_synthetic_session

    return folder if folder.is_dir() else write_synthetic_session(folder, seed, DRAWN_ROUNDS)


def _drawn_buffer(out: Path, base: Bundle, seed: int) -> Path:
    """The buffer of a drawn session replayed by ``base``; existing folders are reused by a resumed fit."""
    from fer_lib.live.replay import replay

    session, replayed = _drawn_session(out / "session", seed), out / "session-judged"
    if not replayed.is_dir():
        replay(session, base, str(base.path), replayed)
    if not (replayed / "buffer").is_dir():
        write_buffer(replayed, replayed / "buffer", _drawn_params(replayed))
    return replayed / "buffer"


def _drawn_params(session: Path) -> BufferParams:
    """Thresholds at the tertiles of the session's own probabilities: few models are confident of drawn faces."""
    probs = read_frames(session).probs
    largest = np.nanmax(probs[~np.isnan(probs).any(axis=1)], axis=1)
    negative, positive = np.quantile(largest, [1 / 3, 2 / 3])
    return BufferParams(positive=float(positive), negative=float(negative), min_gap=DRAWN_GAP)


def training_set(p: AdaptParams, buffers: Sequence[Path], offline: Manifest, base: Bundle, out: Path) -> Manifest:
    """Write to ``out`` a manifest: buffer rows and replayed train rows as train, val rows of ``offline`` as val.

    ``round(replay x buffer rows)`` train rows of ``offline`` are replayed, in equal class shares where possible and in
    the order of a hash of seed and sample id.
    Raises DataError when the base's contract needs more context around a face than a buffer stores.
    """
    parts = [Manifest.read(folder / "manifest.parquet") for folder in buffers]
    for folder, part in zip(buffers, parts, strict=True):
        _check_context(folder, part, base)
    rows = sum(map(len, parts))
    val = offline.rows(split="val").frame
    replayed = _replayed(offline.frame[offline.frame["split"] == "train"], round(p.replay * rows), p.seed)
    replay_and_val = Manifest(pd.concat([replayed, val]).reset_index(drop=True), offline.meta, offline.path)
    merged, _ = merge([*parts, replay_and_val])
    created = {"buffers": sorted(part.sha256 for part in parts), "offline": offline.sha256, "replay": p.replay}
    with fresh_folder(out) as work:
        Manifest(merged.frame, {**merged.meta, "created": created}).write(work / "manifest.parquet")
    return Manifest.read(out / "manifest.parquet")  # read again: its root depends on the folder


def _replayed(train: pd.DataFrame, wanted: int, seed: int) -> pd.DataFrame:
    if not wanted or train.empty:
        return train[:0]
    order = [hashlib.sha256(f"replay:{seed}:{s}".encode()).hexdigest() for s in train["sample_id"]]
    train = train.assign(order=order).sort_values("order")
    rank = train.groupby("label").cumcount()
    return train[rank < -(-wanted // NUM_CLASSES)].iloc[:wanted].drop(columns="order")


def _check_context(folder: Path, part: Manifest, base: Bundle) -> None:
    stored = float(part.meta.get("created", {}).get("context", 0.0))
    rotation = 2**0.5 if base.contract.align == "eyes" else 1.0  # alignment may rotate the square by 45 degrees
    needed = ((1 + 2 * base.contract.margin) * rotation - 1) / 2
    if needed > stored + 1e-9:
        raise DataError(
            f"{folder} keeps {stored:g} of a box's side around each face, the contract of {base.name} reads "
            f"{needed:.2f}: make the buffer again with -p context={min(1.0, needed + 0.05):.2f}"
        )


def counts_table(buffers: Sequence[Path], training: Manifest) -> pd.DataFrame:
    """Counts by class (columns): train rows by origin and kind, and val rows."""
    buffered = sum(pd.DataFrame(read_report(folder)["counts"]) for folder in buffers).add_prefix("buffered, ")
    frame = training.frame
    others = {"replayed": (frame["split"] == "train") & (frame["source"] != "live"), "val": frame["split"] == "val"}
    counts = {name: np.bincount(frame.loc[mask, "label"], minlength=NUM_CLASSES) for name, mask in others.items()}
    return buffered.reindex(EMOTIONS).assign(**counts).T.assign(total=lambda table: table.sum(axis=1))
