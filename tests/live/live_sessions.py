"""Run whole sessions in tests: over a file, or over images one at a time."""

import time

import cv2

from fer_lib.live.capture import Frame
from fer_lib.live.replay import replay
from fer_lib.live.session import Session, wait_until_end
from fer_lib.models.bundle import read_bundle
from fer_lib.params import LiveParams, SmoothingParams
from fer_lib.tracking.registry import resolve

QUICK = SmoothingParams(ema_alpha=0.5, hysteresis_delta=0.02, vote_window=5, vote_min_count=3)
DEFAULTS = dict(detector="haar", detect_every=1, smoothing=QUICK)


def open_session(p, folder, source=None):
    """A session of the model ``p.model``."""
    return Session(p, read_bundle(resolve(p.model)), folder, source)


def run_replay(session, model, *others):
    """The folder of a replay with ``model``."""
    return replay(session, read_bundle(resolve(model)), model, *others)


def run_session(folder, source="0", **changes):
    """Run a session to its end; its summary."""
    session = open_session(LiveParams(**DEFAULTS | changes, source=str(source)), folder)
    session.start()
    return wait_until_end(session)


class SteppedSource:
    """A source that yields each image after the prediction of the one before, with a hook before each."""

    is_camera, paced, fps, dropped, failure, name = False, False, 25.0, 0, "", "images"

    def __init__(self, images, before=lambda index: None):
        self.images, self.before, self.closed = images, before, False
        self.size = images[0].shape[1], images[0].shape[0]

    def __iter__(self):
        for i, image in enumerate(self.images):
            deadline = time.monotonic() + 20
            while self.session.latency.frames < i and not self.closed:
                assert time.monotonic() < deadline
                time.sleep(0.001)
            if self.closed:
                return
            self.before(i)
            yield Frame(i, i / 25, image, time.perf_counter())

    def close(self):
        self.closed = True


def run_images(folder, images, before=lambda session, index: None, **changes):
    """Run a session over ``images``; ``before(session, index)`` is called before each one; its summary."""
    source = SteppedSource(images)
    session = open_session(LiveParams(**DEFAULTS | changes), folder, source)
    source.session, source.before = session, lambda index: before(session, index)
    session.start()
    return wait_until_end(session)


def write_video(file, images, fps=25.0, code="FFV1"):
    """Write uint8 RGB images of one size as a video; returns ``file``."""
    height, width = images[0].shape[:2]
    video = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*code), fps, (width, height))
    assert video.isOpened()
    for image in images:
        video.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    video.release()
    return file
