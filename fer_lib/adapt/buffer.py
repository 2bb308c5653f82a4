"""The way back from a live session into training: a manifest of the faces that may be learned from (SPEC 10).

What is kept of a frame is the surroundings of its scored face as a PNG, with the box in it: the face contract cuts
from there the very pixels that the session saw (the video is lossless, PNG too), whatever the contract's size and, up
to ``context``, its margin.  The whole frame would hold nothing more that a contract reads, at ten times the bytes.

All rows are train.  Their labels are the model's own answers, on which that model is always right, so that as val rows
they would choose the epoch that learned nothing and fit a temperature to certainty: whoever trains on a buffer takes
val from an annotated manifest.
"""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from fer_lib.adapt.selection import NONE, Chosen, choose
from fer_lib.datasets.manifest import Manifest, content_id, sample_id
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError
from fer_lib.faces.contract import Box
from fer_lib.live import session_files
from fer_lib.live.recording import open_recorded_frames, raw_video_folder, replay_origin
from fer_lib.live.score import read_truth
from fer_lib.live.sessions import session_id
from fer_lib.params import BufferParams
from fer_lib.storage.atomic import fresh_folder, readable, write_json, write_synced

SOURCE = "live"
REPORT, TABLE = "buffer.json", "buffer.csv"
TABLE_COLUMNS = ("frame_index", "time_sec", "kind", "label", "neg_label", "p", "sample_id")


def buffer(
    session: Path | str, out: Path | str, p: BufferParams, progress: Callable[[int, int], None] | None = None
) -> Manifest:
    """Write the manifest of what may be learned from the recorded session in ``session`` to the folder ``out``.

    There: ``manifest.parquet`` (``weight`` 1 and no ``neg_label``: a positive; ``weight`` 0 and a ``neg_label``: for
    negative learning alone), ``faces/``, ``buffer.json`` (counts by kind and class, why frames were left out) and
    ``buffer.csv`` (a line a row).  The same session and parameters give the same rows.  ``progress(done, total)``
    counts pictures of the video.
    DataError when the session was not recorded raw, when nothing of it may be learned from, or when ``out`` holds
    something else than a buffer.
    """
    session, out = Path(session), Path(out)
    about, frames, faces = (
        session_files.read_session(session),
        session_files.read_frames(session),
        session_files.read_faces(session),
    )
    pictures, truth = pictures_of(session, about), read_truth(session, frames)
    recorded = session_files.read_recorded(pictures)
    try:
        with fresh_folder(out, may_replace=_is_ours) as work:
            while True:
                usable = np.isin(frames.frame_index, list(faces.keys() & set(recorded)))
                chosen = choose(frames, truth, usable, p)
                if not len(chosen.position):
                    raise DataError(_nothing(session, chosen, p))
                wanted = frames.frame_index[chosen.position].tolist()
                cut, read = _cut(pictures, work / "faces", {i: faces[i].box for i in wanted}, p.context, progress)
                if len(cut) == len(wanted):
                    break
                recorded = recorded[:read]  # of a killed session the list may be longer than the video
            drawn = bool(about.get("drawn"))
            manifest = _manifest(session, frames, faces, chosen, cut, drawn, p, work)
            _write_table(work / TABLE, frames, chosen, manifest)
            report = _report(session, out, about, frames, chosen, manifest, p)
            write_json(work / REPORT, report)
            ids = {"manifest_sha256": manifest.sha256}
            write_json(work / "outputs.json", {"ids": ids, "headline": {"rows": len(manifest)}})
    except FileExistsError as error:
        raise DataError(f"{out} exists and is no buffer: it is left alone; give another --out") from error
    return Manifest.read(out / "manifest.parquet")


def read_report(folder: Path | str) -> dict[str, Any]:
    """``buffer.json`` of a folder that :func:`buffer` wrote, ``session`` made absolute; DataError where there is none.

    ``session_sha256`` names the session by its log: a copy of it elsewhere has the same.
    """
    file = Path(folder) / REPORT
    if not file.is_file():
        raise DataError(f"{folder} is no buffer ({REPORT} is missing): make one with fer live buffer SESSION")
    with readable(file):
        report = json.loads(file.read_text(encoding="utf-8"))
    return report | {"session": os.path.normpath(Path(folder).absolute() / report["session"])}


def pictures_of(session: Path, about: dict[str, Any]) -> Path:
    """The folder that holds the session's video (:func:`raw_video_folder`); DataError when there is none, and what to
    do."""
    if (folder := raw_video_folder(session, about)) is not None:
        return folder
    original = replay_origin(session, about)
    where = f" and {original} has none either" if original != session else ""
    raise DataError(
        f"{session} holds no pictures to learn from ({session_files.RAW_VIDEO} is missing{where}): record it with "
        "fer live --record raw"
    )


def surroundings(shape: tuple[int, ...], box: Box, context: float) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) in whole pixels of what is kept of a picture round ``box``.

    The square of a contract with that margin lies within it but for what lies outside the picture, so that edges are
    replicated where they are in the picture itself.
    """
    top, left, bottom, right = box
    half = max(bottom - top, right - left) * (0.5 + context)
    middle = (top + bottom) / 2, (left + right) / 2
    low = [max(0, math.floor(at - half) - 1) for at in middle]
    high = [min(size, math.ceil(at + half) + 1) for at, size in zip(middle, shape[:2], strict=True)]
    return low[0], low[1], high[0], high[1]


def _cut(
    session: Path, out: Path, boxes: dict[int, Box], context: float, progress: Callable | None
) -> tuple[dict[int, tuple[str, Box]], int]:
    """Write the PNG of each frame of ``boxes`` that the video holds: frame_index -> (its content id, the box in it).

    Also how many pictures the video holds.
    """
    shutil.rmtree(out, ignore_errors=True)  # an earlier choice's
    out.mkdir()
    cut, read, total = {}, 0, len(session_files.read_recorded(session))
    with open_recorded_frames(session) as pictures:
        for index, image in pictures:
            read += 1
            if index in boxes:
                top, left, bottom, right = surroundings(image.shape, boxes[index], context)
                done, data = cv2.imencode(".png", cv2.cvtColor(image[top:bottom, left:right], cv2.COLOR_RGB2BGR))
                if not done:
                    raise DataError(f"{session}: frame {index} cannot be written as PNG ({image.shape})")
                write_synced(out / _file(index), data.tobytes())
                box = tuple(side - edge for side, edge in zip(boxes[index], (top, left, top, left), strict=True))
                cut[index] = content_id(data.tobytes(), box), box
            if progress is not None and (read % 50 == 0 or read == total):
                progress(read, total)
    return cut, read


def _file(index: int) -> str:
    return f"{index:09d}.png"


def _manifest(session, frames, faces, chosen: Chosen, cut: dict, drawn: bool, p: BufferParams, work: Path) -> Manifest:
    name, rows = session.resolve().name, []
    for at, kind, label, negative in zip(chosen.position, chosen.kind, chosen.label, chosen.negative, strict=True):
        index = int(frames.frame_index[at])
        content, box = cut[index]
        record = f"{name}/{index:09d}"
        rows.append({
            "sample_id": sample_id(SOURCE, record, content), "content_id": content, "source": SOURCE, "record": record,
            "image_path": f"faces/{_file(index)}", "label": int(label), "split": "train", "val_role": "",
            "confidence": float(faces[index].score), "orig_image": record,
            **dict(zip(("bbox_top", "bbox_left", "bbox_bottom", "bbox_right"), box, strict=True)),
            "weight": float(kind == "positive"), "neg_label": np.nan if negative == NONE else float(negative),
            "group": f"{name}/{math.floor(frames.time_sec[at] / p.block_sec)}",
        })  # fmt: skip
    created = p.model_dump(mode="json") | {"session": name, "session_sha256": session_id(session)}
    meta = {"root": work.as_posix(), "tolerance": 0, "bad_labels": 0, "created": created, "drawn": {SOURCE: drawn}}
    return Manifest(pd.DataFrame(rows), meta).write(work / "manifest.parquet")


def _write_table(file: Path, frames, chosen: Chosen, manifest: Manifest) -> None:
    with open(file, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(TABLE_COLUMNS)
        columns = (chosen.position, chosen.kind, chosen.label, chosen.negative, chosen.p, manifest.sample_ids)
        for at, kind, label, negative, p, sample in zip(*columns, strict=True):
            named = "" if negative == NONE else EMOTIONS[negative]
            when = round(float(frames.time_sec[at]), 6)
            writer.writerow([int(frames.frame_index[at]), when, kind, EMOTIONS[label], named, float(p), sample])


def _report(session, out, about, frames, chosen: Chosen, manifest: Manifest, p: BufferParams) -> dict[str, Any]:
    try:
        place = Path(os.path.relpath(session.absolute(), out.absolute())).as_posix()
    except ValueError:  # Windows: two drives
        place = session.absolute().as_posix()
    counts = chosen.counts()
    notes = []
    if not sum(counts["positive"].values()):
        notes.append(
            f"no positive: no stable frame reached {p.positive:g}, so nothing here says what a face shows, only what "
            "it does not; adapt on it together with other buffers, or record a longer session"
        )
    if frames.truncated:
        notes.append("the session's last line was cut off and left out")
    return {
        "session": place, "session_sha256": manifest.meta["created"]["session_sha256"],
        "model": frames.model, "ckpt": frames.ckpt, "smoothing": about.get("smoothing"),
        "params": p.model_dump(mode="json"), "frames": len(frames.frame_index),
        "rows": len(manifest), "manifest_sha256": manifest.sha256,
        "counts": counts, "left_out": chosen.left_out, "notes": notes,
    }  # fmt: skip


def _nothing(session: Path, chosen: Chosen, p: BufferParams) -> str:
    why = ", ".join(f"{name} {n:,}" for name, n in chosen.left_out.items() if n)
    return (
        f"{session}: none of its frames may be learned from ({why}): a face needs a probability of {p.negative:g} or "
        f"more; record a longer session in better light, or lower it with -p negative=VALUE"
    )


def _is_ours(path: Path) -> bool:
    return path.is_dir() and ((path / REPORT).is_file() or not any(path.iterdir()))
