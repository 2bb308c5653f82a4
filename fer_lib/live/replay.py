"""Replay a recorded session with another model: same frames, faces, manual labels and smoothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from fer_lib.errors import DataError
from fer_lib.faces.detector_interface import find_points
from fer_lib.faces.detectors import Face, get_detector
from fer_lib.live import session_files
from fer_lib.live.live_model import LiveModel
from fer_lib.live.log import SessionLog
from fer_lib.live.recording import raw_video_folder, read_images, recorded_frames
from fer_lib.live.score import CORRECTIONS
from fer_lib.live.session_files import FrameRecord, Frames, read_faces, read_frames, read_session, write_session
from fer_lib.live.session_writer import SESSION_FORMAT, fingerprint
from fer_lib.live.smoothing import Smoother
from fer_lib.models.bundle import Bundle
from fer_lib.params import LiveParams, SmoothingParams
from fer_lib.storage.atomic import fresh_folder
from fer_lib.storage.progress import Step, step


def replay(
    folder: Path | str, bundle: Bundle, model: str, out: Path | str | None = None,
    smoothing: SmoothingParams | None = None,
) -> Path:  # fmt: skip
    """Write the session in ``folder`` with the predictions of ``bundle`` to ``out``; returns ``out``.

    ``model``: name of the bundle in the new session's files.  ``out``: by default beside the session, named after
    session and model.  ``smoothing``: by default the session's last setting.  A frame without its image, or without its
    row in ``faces.csv`` after a kill, is left out and counted in ``session.json`` (``frames_without_picture``).
    DataError when no image is available or ``out`` exists.
    """
    folder = Path(folder)
    frames, faces, info = read_frames(folder), read_faces(folder), read_session(folder)
    p = LiveParams(model=model, smoothing=smoothing or _smoothing(info, folder))
    out = Path(out) if out is not None else folder.with_name(f"{folder.name}-{_slug(model)}")
    if out.exists():
        raise DataError(f"{out} exists already: give another --out, or move it away")
    live_model = LiveModel(bundle, p)
    replaying = step("replaying frames", len(frames.frame_index), "frames")
    images = _read_images(folder, info)
    with fresh_folder(out) as work, replaying as counter:
        write_session(work, _write_logs(work, images, frames, faces, info, live_model, p, folder, counter))
        if (folder / CORRECTIONS).is_file():
            shutil.copyfile(folder / CORRECTIONS, work / CORRECTIONS)
    return out


def _write_logs(
    work: Path, images: Iterator, frames: Frames, faces: dict[int, Face], info: dict, model: LiveModel, p: LiveParams,
    folder: Path, counter: Step,
) -> dict[str, Any]:  # fmt: skip
    """Write the logs to ``work``; returns the content of ``session.json``."""
    positions = {int(index): i for i, index in enumerate(frames.frame_index)}
    head = {"input": str(info.get("input", "")), "detector": frames.detector, "ckpt": model.bundle.weights_sha256[:12],
            "model": p.model}  # fmt: skip
    started = datetime.now().astimezone().isoformat(timespec="seconds")
    log, smoother = SessionLog(work, head, started, p.smoothing, p.show_emo_ratio), Smoother(p.smoothing)
    detector = _landmark_detector(model, info)
    try:
        for done, (index, image) in enumerate(images, 1):
            counter.update(done)
            if index not in positions:
                continue  # the session ended before its prediction
            i, face = positions[index], faces.get(index)
            if face is None and not np.isnan(frames.probs[i]).any():
                continue  # a kill lost the row of its face
            probs = None
            if face is not None:
                points = face.points if detector is None else find_points(image, face.box, detector)
                probs = model.probs(model.contract.batch([(image, face.box, points)]))[0]
            label = model.label(smoother.step(probs))
            manual = int(frames.manual[i])
            log.add(FrameRecord(index, float(frames.time_sec[i]), manual, "replay", label, probs, face))
    finally:
        log.close()
    if not log.frames:
        raise DataError(f"{folder}: none of its frames has an image: record with --record raw")
    return {
        "format": SESSION_FORMAT, "started": started, **head, "replay_of": info.get("replay_of", folder.name),
        "source": info.get("source"), "size": info.get("size"), "model_facts": model.info(),
        "params": p.model_dump(mode="json"), "smoothing": p.smoothing.model_dump(), "frames": log.frames,
        "frames_without_picture": len(positions) - log.frames, "end": "it was over",
        **({"drawn": True} if info.get("drawn") else {}),
    }  # fmt: skip


def _smoothing(info: dict[str, Any], folder: Path) -> SmoothingParams:
    """The session's last smoothing setting."""
    try:
        return SmoothingParams(**info["smoothing"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{folder / session_files.SESSION} has no valid entry 'smoothing', which fer live writes: record the "
            "session again"
        ) from error


def _landmark_detector(model: LiveModel, info: dict[str, Any]):
    """The detector for missing landmarks; None when the model does not align faces or the session stored landmarks."""
    if model.contract.align != "eyes" or info.get("points_refined"):
        return None
    return get_detector("yunet")


def _read_images(folder: Path, info: dict[str, Any]) -> Iterator[tuple[int, np.ndarray]]:
    """The (index, image) pairs of the raw video, else of the session's source file if it is unchanged."""
    if (video_folder := raw_video_folder(folder, info)) is not None:
        return recorded_frames(video_folder)
    source = info.get("source") or {}
    if not source.get("path"):
        raise DataError(f"{folder} has no images to replay: record sessions with --record raw")
    file = Path(source["path"])
    if not file.is_file() or fingerprint(file) != source.get("fingerprint"):
        raise DataError(f"{folder} was made from {file}, which is missing or has changed: restore that file")
    return enumerate(read_images(file))


def _slug(model: str) -> str:
    name = model.removeprefix("models:/").rstrip("/\\")
    if "/" in name or "\\" in name:
        name = name if model.startswith("models:/") else Path(name).name
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
