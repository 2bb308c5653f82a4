"""Whole sessions for tests: over a file, or over pictures that are handed in one by one."""

import time

import cv2

from fer_lib.live.capture import Picture
from fer_lib.live.replay import replay
from fer_lib.live.session import Session, until_end
from fer_lib.models.bundle import read_bundle
from fer_lib.params import LiveParams, SmoothingParams
from fer_lib.tracking.registry import resolve

QUICK = SmoothingParams(ema_alpha=0.5, hysteresis_delta=0.02, vote_window=5, vote_min_count=3)
PLAIN = dict(detector="haar", detect_every=1, smoothing=QUICK)


def session_of(p, folder, source=None):
    """A session of the model that ``p`` names."""
    return Session(p, read_bundle(resolve(p.model)), folder, source)


def replayed(session, model, *others):
    """The folder of a replay by the model of this name."""
    return replay(session, read_bundle(resolve(model)), model, *others)


def lived(folder, source="0", **changes):
    """A whole session; its summary."""
    session = session_of(LiveParams(**PLAIN | changes, source=str(source)), folder)
    session.start()
    return until_end(session)


class Handed:
    """A source that gives a picture once the one before was judged, so that a test decides what holds for which."""

    is_camera, paced, fps, dropped, trouble, name = False, False, 25.0, 0, "", "handed"

    def __init__(self, images, before=lambda index: None):
        self.images, self.before, self.closed = images, before, False
        self.size = images[0].shape[1], images[0].shape[0]

    def __iter__(self):
        for i, image in enumerate(self.images):
            until = time.monotonic() + 20
            while self.session.pace.frames < i and not self.closed:
                assert time.monotonic() < until
                time.sleep(0.001)
            if self.closed:
                return
            self.before(i)
            yield Picture(i, i / 25, image, time.perf_counter())

    def close(self):
        self.closed = True


def handed(folder, images, before=lambda session, index: None, **changes):
    """A session over these pictures, ``before(session, index)`` called before each; its summary."""
    source = Handed(images)
    session = session_of(LiveParams(**PLAIN | changes), folder, source)
    source.session, source.before = session, lambda index: before(session, index)
    session.start()
    return until_end(session)


def write_video(file, images, fps=25.0, code="FFV1"):
    """uint8 RGB pictures of one size as a video."""
    height, width = images[0].shape[:2]
    video = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*code), fps, (width, height))
    assert video.isOpened()
    for image in images:
        video.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    video.release()
    return file
