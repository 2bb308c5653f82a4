"""A session without a camera: a drawn person shows one expression after another, the packaged model judges them.

It leaves the files of ``fer live --record raw``, so that scoring, its notebook and their tests have a session anywhere.
What a model that learned from photos says of drawn faces tells nothing about real ones.
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
SIZE = (208, 160)  # of a picture, width and height in pixels
SIDE, HEAD = 136, 120  # of the drawn square in it, and of the head in that
UNSTEADY = 0.02 * HEAD  # pixels (standard deviation) by which a detector's boxes tremble
REST, MOVE, HOLD = 0.6, 0.3, 3.0  # seconds: at rest, into or out of an expression, in it
REACTION = 0.2  # seconds after which the hand that labels has followed
STRENGTH = 0.75  # least strength of an expression that somebody means to show


@dataclass(frozen=True)
class Moment:
    """What is to be seen at one frame: ``label`` shown with ``strength`` 0..1, or nobody; and the ``manual`` label."""

    label: int
    strength: float
    manual: int
    face: bool = True


def acted(seed: int, rounds: int = 1) -> list[Moment]:
    """The script: all seven expressions in a random order, ``rounds`` times, and once nobody is there."""
    rng, script = np.random.default_rng([seed, 1]), []
    for turn in range(rounds):
        for label in map(int, rng.permutation(len(EMOTIONS))):
            script += [Moment(label, 0.0, NO_LABEL)] * round(REST * FPS)
            rise, hold, late = round(MOVE * FPS), round(HOLD * FPS), round(REACTION * FPS)
            course = [*np.linspace(0, 1, rise + 1)[1:], *np.ones(hold), *np.linspace(1, 0, rise + 1)[1:]]
            by_hand = range(late, late + rise + hold)
            script += [Moment(label, float(s), label if i in by_hand else NO_LABEL) for i, s in enumerate(course)]
        if turn == 0:
            script += [Moment(0, 0.0, NO_LABEL, face=False)] * round(REST * FPS)
    return script


def pictures(seed: int, script: list[Moment]) -> tuple[list[np.ndarray], list[Face | None]]:
    """A uint8 RGB picture [H, W, 3] of each moment, and where a face is found in it, as unsteadily as detectors do."""
    rng = np.random.default_rng([seed, 2])
    who, background = features.person(rng), int(rng.integers(2**31))
    meant = {label: _units(seed, label) for label in {m.label for m in script}}
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
        units = {name: value * moment.strength for name, value in meant[moment.label].items()}
        face = drawing.draw(who, units, scene, SIDE)
        left = round((width - SIDE) / 2 + 12 * np.sin(t / 2.3))
        top = round((height - SIDE) / 2 + 6 * np.sin(t / 1.7))
        edges = (top, height - SIDE - top, left, width - SIDE - left)
        images.append(cv2.copyMakeBorder(face, *edges, cv2.BORDER_REPLICATE))
        down, right, grown = rng.normal(0.0, UNSTEADY, 3)
        y, x, half = top + SIDE / 2 + down, left + SIDE / 2 + right, HEAD / 2 + grown
        faces.append(Face((float(y - half), float(x - half), float(y + half), float(x + half)), 1.0))
    return images, faces


def _units(seed: int, label: int) -> dict[str, float]:
    """The action units of one clear showing of an expression."""
    if EMOTIONS[label] == "Neutral":
        return {}
    shown = (draw_face(seed, index, label, size=8) for index in range(10_000))
    return next(face.units for face in shown if face.strength >= STRENGTH)


def write_drawn_session(folder: Path, seed: int = 42, rounds: int = 1, record: bool = True) -> Path:
    """Write the session into ``folder``, in place of one that lies there; its path.  Same seed, same pictures.

    ``record``: with the raw video.  FerError when this installation has no packaged model, DataError when the disk
    refuses.
    """
    from fer_lib.deploy.packaged import packaged_bundle
    from fer_lib.deploy.predict import Predictor

    script, p = acted(seed, rounds), SmoothingParams()
    images, faces = pictures(seed, script)
    bundle, seen = packaged_bundle(), [i for i, face in enumerate(faces) if face is not None]
    found = Predictor(bundle).probs([images[i] for i in seen], [faces[i].box for i in seen])
    probs = dict(zip(seen, found, strict=True))
    head = {"input": "drawn faces", "detector": "drawn", "ckpt": bundle.weights_sha256[:12], "model": bundle.name}
    with fresh_folder(folder) as work:
        log, smoother = SessionLog(work, head, "2026-01-01T00:00:00+00:00", p, True), Smoother(p)
        video = VideoFile(work, RAW_VIDEO, SIZE, FPS, lossless=True) if record else None
        try:
            for i, moment in enumerate(script):
                row = probs.get(i)
                shown = smoother.step(row).label
                log.add(FrameRecord(i, i / FPS, moment.manual, "file", shown, row, faces[i]))
                if video is not None:
                    video.add(i, images[i])
        finally:
            log.close()
            if video is not None:
                video.close()
        source = {"name": head["input"], "is_camera": False, "fps": FPS, "fingerprint": f"drawn-{seed}-{rounds}"}
        about = {**head, "drawn": True, "seed": seed, "source": source, "size": list(SIZE), "dropped": 0,
                 "smoothing": p.model_dump()}  # fmt: skip
        write_session(work, about)
    return folder
