"""A synthetic session: a drawn person shows one expression after another, the packaged model predicts them.

It has the files of ``fer live --record raw``, so scoring and its notebook work without a camera.  Accuracy on drawn
faces says nothing about accuracy on photos.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from fer_lib.emotions import EMOTIONS
from fer_lib.faces.detectors import Face
from fer_lib.live.log import SessionLog
from fer_lib.live.recording import VideoFile
from fer_lib.live.session_files import NO_LABEL, RAW_VIDEO, FrameRecord, write_session
from fer_lib.live.smoothing import Smoother
from fer_lib.params import SmoothingParams
from fer_lib.storage.atomic import fresh_folder
from fer_lib.synthetic import drawing, features
from fer_lib.synthetic.dataset import draw_face

FPS = 15.0
SIZE = (208, 160)  # of a frame, width and height in pixels
SIDE, HEAD = 136, 120  # pixels of the drawn square in the frame, and of the head in the square
JITTER = 0.02 * HEAD  # standard deviation of the box edges in pixels, as of a detector
REST, MOVE, HOLD = 0.6, 0.3, 3.0  # seconds: neutral, onset or offset of an expression, at its apex
REACTION = 0.2  # seconds by which the manual label lags
MIN_STRENGTH = 0.75  # of a drawn expression


@dataclass(frozen=True)
class Moment:
    """One frame of the script: ``label`` shown with ``strength`` 0..1, or no face; and its ``manual`` label."""

    label: int
    strength: float
    manual: int
    face: bool = True


def make_script(seed: int, rounds: int = 1) -> list[Moment]:
    """A script: all seven expressions in random order, ``rounds`` times, with one gap without a face."""
    rng, script = np.random.default_rng([seed, 1]), []
    for turn in range(rounds):
        for label in map(int, rng.permutation(len(EMOTIONS))):
            script += [Moment(label, 0.0, NO_LABEL)] * round(REST * FPS)
            rise, hold, late = round(MOVE * FPS), round(HOLD * FPS), round(REACTION * FPS)
            strengths = [*np.linspace(0, 1, rise + 1)[1:], *np.ones(hold), *np.linspace(1, 0, rise + 1)[1:]]
            labelled = range(late, late + rise + hold)
            script += [Moment(label, float(s), label if i in labelled else NO_LABEL) for i, s in enumerate(strengths)]
        if turn == 0:
            script += [Moment(0, 0.0, NO_LABEL, face=False)] * round(REST * FPS)
    return script


def render_frames(seed: int, script: list[Moment]) -> tuple[list[np.ndarray], list[Face | None]]:
    """A uint8 RGB image [H, W, 3] per moment, and its face, with the jitter of a detector; None without a face."""
    rng = np.random.default_rng([seed, 2])
    person, background = features.Person(rng), int(rng.integers(2**31))
    units_by_label = {label: _units(seed, label) for label in {m.label for m in script}}
    width, height = SIZE
    images, faces = [], []
    for i, moment in enumerate(script):
        t = i / FPS
        if not moment.face:
            images.append(np.full((height, width, 3), 96, np.uint8))
            faces.append(None)
            continue
        scene = drawing.Scene(
            yaw=7 * np.sin(t / 1.3), pitch=3 * np.sin(t / 1.9), roll=3 * np.sin(t / 0.9), gaze=0.3 * np.sin(t),
            scale=HEAD / SIDE, light=(0.25, 0.1), seed=background,
        )  # fmt: skip
        units = {name: value * moment.strength for name, value in units_by_label[moment.label].items()}
        face = drawing.draw(person, units, scene, SIDE)
        left = round((width - SIDE) / 2 + 12 * np.sin(t / 2.3))
        top = round((height - SIDE) / 2 + 6 * np.sin(t / 1.7))
        edges = (top, height - SIDE - top, left, width - SIDE - left)
        images.append(cv2.copyMakeBorder(face, *edges, cv2.BORDER_REPLICATE))
        down, right, growth = rng.normal(0.0, JITTER, 3)
        y, x, half = top + SIDE / 2 + down, left + SIDE / 2 + right, HEAD / 2 + growth
        faces.append(Face((float(y - half), float(x - half), float(y + half), float(x + half)), 1.0))
    return images, faces


def _units(seed: int, label: int) -> dict[str, float]:
    """The action units of one clear expression."""
    if EMOTIONS[label] == "Neutral":
        return {}
    faces = (draw_face(seed, index, label, size=8) for index in range(10_000))
    return next(face.units for face in faces if face.strength >= MIN_STRENGTH)


def write_synthetic_session(folder: Path, seed: int = 42, rounds: int = 1, record: bool = True) -> Path:
    """Write the session to ``folder``, replacing an existing one; returns ``folder``.  Equal seeds give equal images.

    ``record``: with the raw video.  FerError without a packaged model, DataError when the disk refuses.
    """
    from fer_lib.deploy.packaged import packaged_bundle
    from fer_lib.deploy.predict import Predictor

    script, p = make_script(seed, rounds), SmoothingParams()
    images, faces = render_frames(seed, script)
    bundle, visible = packaged_bundle(), [i for i, face in enumerate(faces) if face is not None]
    visible_probs = Predictor(bundle).probs([images[i] for i in visible], [faces[i].box for i in visible])
    probs = dict(zip(visible, visible_probs, strict=True))
    head = {"input": "drawn faces", "detector": "drawn", "ckpt": bundle.weights_sha256[:12], "model": bundle.name}
    with fresh_folder(folder) as work:
        log, smoother = SessionLog(work, head, "2026-01-01T00:00:00+00:00", p, True), Smoother(p)
        video = VideoFile(work, RAW_VIDEO, SIZE, FPS, lossless=True) if record else None
        try:
            for i, moment in enumerate(script):
                row = probs.get(i)
                pred = smoother.step(row).label
                log.add(FrameRecord(i, i / FPS, moment.manual, "file", pred, row, faces[i]))
                if video is not None:
                    video.add(i, images[i])
        finally:
            log.close()
            if video is not None:
                video.close()
        source = {"name": head["input"], "is_camera": False, "fps": FPS, "fingerprint": f"drawn-{seed}-{rounds}"}
        info = {**head, "drawn": True, "seed": seed, "source": source, "size": list(SIZE), "dropped": 0,
                 "smoothing": p.model_dump()}  # fmt: skip
        write_session(work, info)
    return folder
