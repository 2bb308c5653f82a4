"""Buffers: training manifests made from the faces of a recorded live session.

A row keeps the surroundings of its scored face as a PNG, with the face's box in it.  A face contract reads from there
the same pixels that the session scored (video and PNG are lossless), for any size and any margin up to ``context``, at
a tenth of the bytes of the whole frame.

All rows are train.  Their labels are the model's own answers: as val rows they would favour an epoch that learned
nothing and a temperature for overconfidence.  Take val rows from an annotated manifest.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from pydantic import BaseModel, NonNegativeInt, ValidationError

from fer_lib.adapt.selection import NO_CLASS, counts_by_class, select_frames
from fer_lib.datasets.manifest import BOX, Manifest, content_id, sample_id
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError
from fer_lib.faces.contract import Box
from fer_lib.live import session_files
from fer_lib.live.recording import raw_video_folder, recorded_frames
from fer_lib.live.score import read_truth
from fer_lib.live.sessions import session_id
from fer_lib.params import BufferParams
from fer_lib.params.strict import first_problem
from fer_lib.storage.atomic import fresh_folder, write_json, write_synced
from fer_lib.storage.progress import step

SOURCE = "live"
REPORT, TABLE = "buffer.json", "buffer.csv"


class BufferReport(BaseModel):
    """The part of ``buffer.json`` that an adaptation depends on; ``counts``: kind -> class -> rows."""

    session: str
    session_sha256: str
    counts: dict[str, dict[str, NonNegativeInt]]


def write_buffer(session: Path | str, out: Path | str, p: BufferParams) -> Manifest:
    """Write the manifest of the recorded ``session``'s usable faces to the folder ``out``.

    Files: ``manifest.parquet`` (``weight`` 1 and no ``neg_label`` for a positive; ``weight`` 0 and a ``neg_label`` for
    negative learning only), ``faces/``, ``buffer.json`` (counts by kind and class, reasons for frames left out) and
    ``buffer.csv`` (one line per row).  The same session and parameters give the same rows.
    Raises DataError when the session has no raw video, when no frame is usable, or when ``out`` holds something else
    than a buffer.
    """
    session, out = Path(session), Path(out)
    about, frames = session_files.read_session(session), session_files.read_frames(session)
    faces, truth = session_files.read_faces(session), read_truth(session, frames)
    if (video := raw_video_folder(session, about)) is None:
        raise DataError(
            f"{session} holds no images to learn from ({session_files.RAW_VIDEO} is missing, and it replays no session "
            "that has one): record it with fer live --record raw"
        )
    recorded = session_files.read_recorded(video)
    try:
        with fresh_folder(out, may_replace=_is_buffer) as work:
            while True:
                usable = np.isin(frames.frame_index, list(faces.keys() & set(recorded)))
                selection, left_out = select_frames(frames, truth, usable, p)
                if selection.empty:
                    raise DataError(_no_frames(session, left_out, p))
                wanted = selection["frame_index"].tolist()
                crops, read = _write_crops(video, work / "faces", {i: faces[i].box for i in wanted}, p.context)
                if len(crops) == len(wanted):
                    break
                recorded = recorded[:read]  # a killed session may list more frames than its video holds
            manifest = _write_manifest(session, faces, selection, crops, bool(about.get("drawn")), p, work)
            _write_table(work / TABLE, selection, manifest)
            write_json(work / REPORT, _report(session, out, about, frames, selection, left_out, manifest, p))
            ids = {"manifest_sha256": manifest.sha256}
            write_json(work / "outputs.json", {"ids": ids, "headline": {"rows": len(manifest)}})
    except FileExistsError as error:
        raise DataError(f"{out} exists and is no buffer: it is left alone; give another --out") from error
    return Manifest.read(out / "manifest.parquet")


def read_report(folder: Path | str) -> dict[str, Any]:
    """``buffer.json`` of a buffer folder, with ``session`` as an absolute path.  Raises DataError for another folder.

    ``session_sha256`` identifies the session by its log, so a copy has the same.
    """
    file = Path(folder) / REPORT
    if not file.is_file():
        raise DataError(f"{folder} is no buffer ({REPORT} is missing): make one with fer live buffer SESSION")
    try:
        report = json.loads(file.read_bytes())
        BufferReport.model_validate(report)
        return report | {"session": os.path.normpath(Path(folder).absolute() / report["session"])}
    except (ValueError, RecursionError) as error:
        reason = first_problem(error) if isinstance(error, ValidationError) else error
        raise DataError(f"{file} is no report of a buffer ({reason}): make it again with fer live buffer") from error


def surroundings(shape: tuple[int, ...], box: Box, context: float) -> tuple[int, int, int, int]:
    """The crop around ``box``: (top, left, bottom, right) in whole pixels.

    It holds the square of every contract with a margin up to ``context``, except what lies outside the image.
    """
    top, left, bottom, right = box
    half = max(bottom - top, right - left) * (0.5 + context)
    centre = (top + bottom) / 2, (left + right) / 2
    low = [max(0, math.floor(at - half) - 1) for at in centre]
    high = [min(size, math.ceil(at + half) + 1) for at, size in zip(centre, shape[:2], strict=True)]
    return low[0], low[1], high[0], high[1]


def _write_crops(
    session: Path, out: Path, boxes: dict[int, Box], context: float
) -> tuple[dict[int, tuple[str, Box]], int]:
    """Write a PNG per frame of ``boxes`` in the video; frame_index -> (content id, box in it), and the images read."""
    shutil.rmtree(out, ignore_errors=True)  # crops of an earlier selection
    out.mkdir()
    crops, read = {}, 0
    reading = step("reading frames", len(session_files.read_recorded(session)), unit="frames")
    with reading as counter:
        for read, (index, image) in enumerate(recorded_frames(session), 1):
            counter.update(read)
            if index in boxes:
                top, left, bottom, right = surroundings(image.shape, boxes[index], context)
                png = cv2.imencode(".png", cv2.cvtColor(image[top:bottom, left:right], cv2.COLOR_RGB2BGR))[1].tobytes()
                write_synced(out / f"{index:09d}.png", png)
                box = tuple(side - edge for side, edge in zip(boxes[index], (top, left, top, left), strict=True))
                crops[index] = content_id(png, box), box
    return crops, read


def _write_manifest(
    session: Path, faces, selection: pd.DataFrame, crops: dict, drawn: bool, p: BufferParams, work: Path
) -> Manifest:
    name, rows = session.resolve().name, []
    for row in selection.itertuples():
        content, box = crops[row.frame_index]
        record = f"{name}/{row.frame_index:09d}"
        rows.append({
            "sample_id": sample_id(SOURCE, record, content), "content_id": content, "source": SOURCE, "record": record,
            "image_path": f"faces/{row.frame_index:09d}.png", "label": row.label, "split": "train", "val_role": "",
            "confidence": float(faces[row.frame_index].score), "orig_image": record, **dict(zip(BOX, box, strict=True)),
            "weight": float(row.kind == "positive"),
            "neg_label": np.nan if row.negative == NO_CLASS else float(row.negative),
            "group": f"{name}/{math.floor(row.time_sec / p.block_sec)}",
        })  # fmt: skip
    created = p.model_dump(mode="json") | {"session": name, "session_sha256": session_id(session)}
    meta = {"root": work.as_posix(), "tolerance": 0, "bad_labels": 0, "created": created, "drawn": {SOURCE: drawn}}
    return Manifest(pd.DataFrame(rows), meta).write(work / "manifest.parquet")


def _write_table(file: Path, selection: pd.DataFrame, manifest: Manifest) -> None:
    names = {NO_CLASS: "", **dict(enumerate(EMOTIONS))}
    table = selection.assign(
        time_sec=selection["time_sec"].map(lambda seconds: round(seconds, 6)), label=selection["label"].map(names),
        neg_label=selection["negative"].map(names), sample_id=manifest.sample_ids,
    )  # fmt: skip
    columns = ["frame_index", "time_sec", "kind", "label", "neg_label", "p", "sample_id"]
    table.to_csv(file, columns=columns, index=False, lineterminator="\n")


def _report(session, out, about, frames, selection, left_out, manifest: Manifest, p: BufferParams) -> dict[str, Any]:
    try:
        relative = Path(os.path.relpath(session.absolute(), out.absolute())).as_posix()
    except ValueError:  # Windows: two drives
        relative = session.absolute().as_posix()
    counts, notes = counts_by_class(selection), []
    if not sum(counts["positive"].values()):
        notes.append(
            f"no positive: no stable frame reached {p.positive:g}, so these rows only name classes that a face does "
            "not show; adapt on them together with other buffers, or record a longer session"
        )
    if frames.truncated:
        notes.append("the session's last line was cut off and left out")
    return {
        "session": relative, "session_sha256": manifest.meta["created"]["session_sha256"],
        "model": frames.model, "ckpt": frames.ckpt, "smoothing": about.get("smoothing"),
        "params": p.model_dump(mode="json"), "frames": len(frames.frame_index),
        "rows": len(manifest), "manifest_sha256": manifest.sha256,
        "counts": counts, "left_out": left_out, "notes": notes,
    }  # fmt: skip


def _no_frames(session: Path, left_out: dict[str, int], p: BufferParams) -> str:
    reasons = ", ".join(f"{name} {n:,}" for name, n in left_out.items() if n)
    return (
        f"{session}: none of its frames can be learned from ({reasons}): a face needs a probability of {p.negative:g} "
        f"or more; record a longer session in better light, or lower it with -p negative=VALUE"
    )


def _is_buffer(path: Path) -> bool:
    return path.is_dir() and ((path / REPORT).is_file() or not any(path.iterdir()))
