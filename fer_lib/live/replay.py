"""Another model asked about a kept session: the same pictures, faces, labels and smoothing, so that the model alone
differs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fer_lib.errors import DataError
from fer_lib.faces.detectors import Face, get_detector
from fer_lib.faces.landmarks import find_points
from fer_lib.live import session_files
from fer_lib.live.live_model import LiveModel
from fer_lib.live.log import SessionLog
from fer_lib.live.recording import recorded_folder, recorded_pictures
from fer_lib.live.score import CORRECTIONS
from fer_lib.live.session_files import FrameRecord, Frames, read_faces, read_frames, read_session, write_session
from fer_lib.live.session_writer import SESSION_FORMAT, fingerprint
from fer_lib.live.smoothing import Smoother
from fer_lib.models.bundle import Bundle
from fer_lib.params import LiveParams, SmoothingParams
from fer_lib.storage.atomic import fresh_folder


def replay(
    folder: Path | str, bundle: Bundle, model: str, out: Path | str | None = None,
    smoothing: SmoothingParams | None = None,
) -> Path:  # fmt: skip
    """Write the session in ``folder`` as ``bundle`` would have judged it to ``out``; that folder.

    ``model``: what the bundle is called in the new session's files. ``out``: by default beside the session, named
    after both. ``smoothing``: by default what held when the session ended. A frame whose picture was not kept, or
    whose face a kill cost, is left out and counted in ``session.json`` (``frames_without_picture``).
    DataError when there are no pictures or ``out`` exists.
    """
    folder = Path(folder)
    frames, faces, about = read_frames(folder), read_faces(folder), read_session(folder)
    p = LiveParams(model=model, smoothing=smoothing or _smoothing(about, folder))
    out = Path(out) if out is not None else folder.with_name(f"{folder.name}-{_slug(model)}")
    if out.exists():
        raise DataError(f"{out} exists already: give another --out, or move it away")
    judge = LiveModel(bundle, p)
    with _pictures(folder, about) as pictures, fresh_folder(out) as work:
        write_session(work, _replayed(work, pictures, frames, faces, about, judge, p, folder))
        if (folder / CORRECTIONS).is_file():
            shutil.copyfile(folder / CORRECTIONS, work / CORRECTIONS)
    return out


def _replayed(
    work: Path, pictures: Iterator, frames: Frames, faces: dict[int, Face], about: dict, judge: LiveModel,
    p: LiveParams, folder: Path,
) -> dict[str, Any]:  # fmt: skip
    place = {int(index): i for i, index in enumerate(frames.frame_index)}
    head = {"input": str(about.get("input", "")), "detector": frames.detector, "ckpt": judge.bundle.weights_sha256[:12],
            "model": p.model}  # fmt: skip
    started = datetime.now().astimezone().isoformat(timespec="seconds")
    log, smoother = SessionLog(work, head, started, p.smoothing, p.show_emo_ratio), Smoother(p.smoothing)
    aligner = _aligner(judge, about)
    try:
        for index, image in pictures:
            if index not in place:
                continue  # the session ended before it was judged
            i, face = place[index], faces.get(index)
            if face is None and not np.isnan(frames.probs[i]).any():
                continue  # it had one, whose row a kill cost: without it no model is asked the same
            probs = None
            if face is not None:
                points = face.points if aligner is None else find_points(image, face.box, aligner)
                probs = judge.probs(judge.contract.batch([(image, face.box, points)]))[0]
            label = judge.label(smoother.step(probs))
            manual = int(frames.manual[i])
            log.add(FrameRecord(index, float(frames.time_sec[i]), manual, "replay", label, probs, face))
    finally:
        log.close()
    if not log.frames:
        raise DataError(f"{folder}: no frame of it has a picture: record with --record raw")
    return {
        "format": SESSION_FORMAT, "started": started, **head, "replay_of": about.get("replay_of", folder.name),
        "source": about.get("source"), "size": about.get("size"), "model_facts": judge.about(),
        "params": p.model_dump(mode="json"), "smoothing": p.smoothing.model_dump(), "frames": log.frames,
        "frames_without_picture": len(place) - log.frames, "end": "it was over",
        **({"drawn": True} if about.get("drawn") else {}),
    }  # fmt: skip


def _smoothing(about: dict[str, Any], folder: Path) -> SmoothingParams:
    """What held when the session ended."""
    try:
        return SmoothingParams(**about["smoothing"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{folder / session_files.SESSION} does not say under which smoothing it ran, as fer live writes it: "
            "record the session again"
        ) from error


def _aligner(judge: LiveModel, about: dict[str, Any]):
    """Who finds the points anew: nobody where the model turns no faces, or where the session's own did."""
    if judge.contract.align != "eyes" or about.get("points_refined"):
        return None
    return get_detector("yunet")


@contextmanager
def _pictures(folder: Path, about: dict[str, Any]) -> Iterator[Iterator[tuple[int, np.ndarray]]]:
    """The recording, else the file that the session was made from, if it still is that file."""
    if (place := recorded_folder(folder, about)) is not None:
        with recorded_pictures(place) as pictures:
            yield pictures
        return
    source = about.get("source") or {}
    if not source.get("path"):
        raise DataError(f"{folder} has no pictures to look at again: record sessions with --record raw")
    file = Path(source["path"])
    if not file.is_file() or fingerprint(file) != source.get("fingerprint"):
        raise DataError(f"{folder} was made from {file}, which is gone or another file now: put it back")
    video = cv2.VideoCapture(str(file))
    try:
        yield _of_file(video)
    finally:
        video.release()


def _of_file(video: cv2.VideoCapture) -> Iterator[tuple[int, np.ndarray]]:
    index = 0
    while True:
        done, image = video.read()
        if not done:
            return
        yield index, cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        index += 1


def _slug(model: str) -> str:
    name = model.removeprefix("models:/").rstrip("/\\")
    if "/" in name or "\\" in name:
        name = name if model.startswith("models:/") else Path(name).name
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
