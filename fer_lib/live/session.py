"""The one engine under window, page and headless session: capture, find and follow, judge, smooth, log.

Capture, looking for faces, judging, logs, videos and whoever looks on are threads of their own with bounded queues
between them, so a slow disk or page does not stall the camera: what a camera gives meanwhile is dropped before it is
worked on, and counted.  What was worked on is always logged.  Pictures of a file wait instead.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fer_lib.errors import FerError
from fer_lib.faces.detectors import get_detector
from fer_lib.live.capture import Capture, Picture
from fer_lib.live.controls import Controls
from fer_lib.live.latency import Pace
from fer_lib.live.live_model import LiveModel
from fer_lib.live.session_files import FrameRecord
from fer_lib.live.session_writer import SessionWriter
from fer_lib.live.smoothing import Smoother
from fer_lib.live.tracker import Tracked, Tracker
from fer_lib.live.view import LatestValue, View
from fer_lib.models.bundle import Bundle
from fer_lib.params import LiveParams

SHORT = 0.98  # of the frames that a file promises


@dataclass(frozen=True)
class Found:
    """A picture with its faces, the largest first, and that one as the model wants it, float32 [1, 3, S, S]."""

    picture: Picture
    began: float
    faces: list[Tracked]
    tensor: np.ndarray | None


class Session:
    """One session.  ``start`` it, look at ``newest``, change ``controls``, and ``wait`` for its summary.

    ``folder`` is held by an OS lock while the session lives and holds its logs afterwards.
    """

    def __init__(self, p: LiveParams, bundle: Bundle, folder: Path | str, source=None):
        """Open folder, detector and source (a :class:`Capture` unless one like it is given); ``bundle`` judges.

        FerError, and nothing is left open, when the folder is held or used, or model, detector or source refuse.
        """
        self.p, self.folder = p, Path(folder)
        self.controls, self.newest, self.pace = Controls(p.smoothing, p.show_emo_ratio), LatestValue(), Pace()
        self._error: BaseException | None = None
        self._ran_out = False  # the source was over before anybody ended the session
        self._keeper = SessionWriter(self.folder, p)
        self._source = source
        self.at_end: list[Callable[[dict[str, Any], BaseException | None], None]] = []  # told before it counts as ended
        try:
            self.judge = LiveModel(bundle, p)
            self.detector = get_detector(p.detector, p.detector_model or None)
            refine = self.judge.contract.align == "eyes"
            reduced = p.detect_scale if self.detector.name == "yunet" else 1.0
            self._tracker = Tracker(self.detector, p.detect_every, reduced, refine)
            if source is None:
                self._source = Capture(p.source, p.paced)
        except BaseException:
            self._keeper.discard()
            raise
        self._found: queue.SimpleQueue[Found | None] = queue.SimpleQueue()  # holds one: _wanted waits before another
        self._handed = self._taken = 0  # pictures: handed on to be judged, and taken up there
        self._change = threading.Condition()  # of the latter
        self._smoother = Smoother(p.smoothing)
        self._threads: list[threading.Thread] = []
        self._ended = threading.Event()

    @property
    def ended(self) -> bool:
        """Whether its threads are done and its files closed."""
        return self._ended.is_set()

    def start(self) -> None:
        """Begin; returns at once.  What a camera gave before is not counted as dropped."""
        self._started, self._dropped_before = time.perf_counter(), self._source.dropped
        self._main = threading.Thread(target=self._live, name="fer-live", daemon=True)
        self._main.start()

    def discard(self) -> None:
        """Close what was opened, of a session that is not to begin."""
        self._source.close()
        self._keeper.discard()

    def wait(self, timeout: float | None = None) -> dict[str, Any] | None:
        """The summary (content of ``session.json``) once it has ended; None when it has not within ``timeout``.

        Raises what ended it early (FerError for trouble that has a name); the logs are closed all the same.
        """
        if not self._ended.wait(timeout):
            return None
        if self._error is not None:
            raise self._error
        return self._keeper.summary

    def _live(self) -> None:
        try:
            self._keeper.begin(self._source, self.judge, self.detector)
            work: list[tuple[str, Callable]] = [("look", self._look), ("judge", self._judge), ("end", self._await_end)]
            self._threads = [
                threading.Thread(target=self._guarded, args=(task,), name=f"fer-{name}", daemon=True)
                for name, task in work
            ]
            for thread in self._threads:
                thread.start()
            for thread in self._threads:
                thread.join()
        except BaseException as error:
            self._fail(error)
        finally:
            self._finish()

    def _finish(self) -> None:
        trouble, short = self._source.trouble, self._ran_out and _short(self._source, self.pace.frames)
        try:
            self._source.close()
            facts = {
                "fps": self.pace.fps, "latency_ms": self.pace.latency_ms(), "dropped": self._dropped,
                "seconds": time.perf_counter() - self._started, "views_skipped": self.newest.skipped,
            }  # fmt: skip
            self._keeper.end(facts, self._error, trouble or short)
        except BaseException as error:
            self._fail(error)
        finally:
            if self._error is None and trouble:
                self._error = FerError(f"{trouble} What came before is in {self.folder}")
            for tell in self.at_end:
                self._guarded(lambda tell=tell: tell(self._keeper.summary, self._error))
            self._keeper.release()
            self.newest.end()
            self._ended.set()

    @property
    def _dropped(self) -> int:
        return self._source.dropped - self._dropped_before

    def _guarded(self, task: Callable) -> None:
        try:
            task()
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Remember the first error and end everything."""
        self._error = self._error or error
        self.controls.end()

    def _await_end(self) -> None:
        """Wakes whoever waits for a picture when somebody asks the session to end."""
        self.controls.wait()
        self._source.close()

    def _look(self) -> None:
        """Pictures to faces.  A file's picture counts from here on: until now it waited by choice."""
        live, first, pictures = self._source.is_camera or self._source.paced, None, iter(self._source)
        try:
            while self._wanted():
                if (picture := next(pictures, None)) is None:
                    self._ran_out = not self.controls.ended
                    break
                if self.controls.ended:
                    break
                if self._source.is_camera:  # it may have run for a while before anybody looked
                    first = first or picture
                    picture = replace(picture, index=picture.index - first.index, time=picture.time - first.time)
                began = picture.taken if live else time.perf_counter()
                faces = self._tracker.step(picture.image)
                tensor = None
                if faces:
                    face = faces[0].face
                    tensor = self.judge.contract.batch([(picture.image, face.box, face.points)])
                self._handed += 1
                self._found.put(Found(picture, began, faces, tensor))
        finally:
            self._found.put(None)

    def _wanted(self) -> bool:
        """Wait until the next picture is worth taking; False when the session ends.

        That is when the one before is being judged: taken earlier it would only be older when its turn comes.
        """
        while not self.controls.ended:
            with self._change:
                if self._change.wait_for(lambda: self._taken == self._handed, 0.2):
                    return True
        return False

    def _judge(self) -> None:
        """Faces to labels, and these to whoever wants them."""
        try:
            while (found := self._found.get()) is not None:
                with self._change:
                    self._taken += 1
                    self._change.notify_all()
                self._label(found)
        finally:
            self.controls.end()  # the source is over, or it failed: either way nobody waits any longer

    def _label(self, found: Found) -> None:
        picture, face = found.picture, found.faces[0].face if found.faces else None
        probs = None if found.tensor is None else self.judge.probs(found.tensor)[0]
        setting = self.controls.now
        self._smoother.p = setting.smoothing
        smoothed = self._smoother.step(probs)
        label = self.judge.label(smoothed)
        latency = time.perf_counter() - found.began
        self.pace.add(latency)
        if self.pace.frames == 1:
            self._keeper.first_frame = time.perf_counter() - self._started
        record = FrameRecord(picture.index, picture.time, setting.label, setting.label_source, label, probs, face)
        view = View(
            picture.index, picture.time, picture.image, tuple(found.faces), probs, smoothed.probs, label,
            smoothed.votes, setting, self.pace.lately, latency * 1000, self._dropped,
        )  # fmt: skip
        self._keeper.add(record, setting, view)
        self.newest.put(view)


def _short(source, frames: int) -> str:
    """What to say of a file that gave clearly fewer frames than its header promises, which may be an estimate."""
    promised = getattr(source, "promised", 0)
    if frames >= SHORT * promised - 1:
        return ""
    return f"{source.name} was over after {frames:,} of the {promised:,} frames that it promises: it may be cut short"


def until_end(session: Session) -> dict[str, Any]:
    """Wait for a started session; the first Ctrl+C ends it, and its summary is returned all the same."""
    while True:
        try:
            if (summary := session.wait(0.2)) is not None:
                return summary
        except KeyboardInterrupt:
            session.controls.end()
