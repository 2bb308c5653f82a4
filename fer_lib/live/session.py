"""One live session: capture, face detection and tracking, prediction, smoothing and logging.

Window, page and headless command all run this class.  Capture, detection, prediction, logs, videos and views have a
thread each, with bounded queues between them, so a slow disk or page does not delay the camera.  Frames of a camera
that arrive meanwhile are dropped before detection, and counted; frames of a file wait.  Every predicted frame is
logged.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fer_lib.errors import FerError
from fer_lib.faces.detectors import get_detector
from fer_lib.live.capture import Capture, Frame
from fer_lib.live.controls import Controls
from fer_lib.live.latency import LatencyMeter
from fer_lib.live.latest_value import LatestValue
from fer_lib.live.live_model import LiveModel
from fer_lib.live.session_files import FrameRecord
from fer_lib.live.session_writer import SessionWriter
from fer_lib.live.smoothing import Smoother
from fer_lib.live.tracker import TrackedFace, Tracker
from fer_lib.live.view import View
from fer_lib.models.bundle import Bundle
from fer_lib.params import LiveParams

MIN_FILE_SHARE = 0.98  # of the frame count in a file's header; below it the summary warns


@dataclass(frozen=True)
class DetectedFrame:
    """A frame with its faces, the largest first, and the model's input for that one, float32 [1, 3, S, S]."""

    frame: Frame
    start: float
    faces: list[TrackedFace]
    tensor: np.ndarray | None


class Session:
    """One session: ``start`` it, read ``latest_view``, change ``controls``, and ``wait`` for its summary.

    An OS lock protects ``folder`` while the session runs.  ``end_callbacks`` are called with the summary and the error
    or None after the logs are closed and before ``wait`` returns.
    """

    def __init__(self, p: LiveParams, bundle: Bundle, folder: Path | str, source=None):
        """Open folder, detector and source (a :class:`Capture` unless ``source`` is given); ``bundle`` predicts.

        FerError when the folder is locked or used, or when model, detector or source cannot be opened; OSError when the
        folder cannot be made.  Nothing stays open then.
        """
        self.p, self.folder = p, Path(folder)
        self.controls, self.latest_view = Controls(p.smoothing, p.show_emo_ratio), LatestValue()
        self.latency = LatencyMeter()
        self._error: BaseException | None = None
        self._source_ended = False  # the source ended before anybody ended the session
        self._writer = SessionWriter(self.folder, p)
        self._source = source
        self.end_callbacks: list[Callable[[dict[str, Any], BaseException | None], None]] = []
        try:
            self.model = LiveModel(bundle, p)
            self.detector = get_detector(p.detector, p.detector_model or None)
            refine = self.model.contract.align == "eyes"
            scale = p.detect_scale if self.detector.name == "yunet" else 1.0
            self._tracker = Tracker(self.detector, p.detect_every, scale, refine)
            if source is None:
                self._source = Capture(p.source, p.paced)
        except BaseException:
            self._writer.discard()
            raise
        self._detections = LatestValue()  # each is read before the next frame is
        self._smoother = Smoother(p.smoothing)
        self._threads: list[threading.Thread] = []
        self._ended = threading.Event()

    @property
    def ended(self) -> bool:
        """Whether its threads and files are closed."""
        return self._ended.is_set()

    def start(self) -> None:
        """Start the threads and return."""
        self._start = time.perf_counter()
        self._main = threading.Thread(target=self._run, name="fer-live", daemon=True)
        self._main.start()

    def discard(self) -> None:
        """Close everything of a session that will not start."""
        self._source.close()
        self._writer.discard()

    def wait(self, timeout: float | None = None) -> dict[str, Any] | None:
        """The summary (content of ``session.json``) once the session has ended; None after ``timeout`` seconds.

        Raises the error that ended the session early; its logs are closed nevertheless.
        """
        if not self._ended.wait(timeout):
            return None
        if self._error is not None:
            raise self._error
        return self._writer.summary

    def _run(self) -> None:
        try:
            self._writer.open(self._source, self.model, self.detector)
            tasks: list[tuple[str, Callable]] = [
                ("detect", self._detect_faces), ("predict", self._predict), ("end", self._close_source_at_end),
            ]  # fmt: skip
            self._threads = [
                threading.Thread(target=self._run_task, args=(task,), name=f"fer-{name}", daemon=True)
                for name, task in tasks
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
        failure = self._source.failure
        truncation = _truncation_note(self._source, self.latency.frames) if self._source_ended else ""
        try:
            self._source.close()
            results = {
                "fps": self.latency.fps, "latency_ms": self.latency.quantiles_ms(), "dropped": self._source.dropped,
                "seconds": time.perf_counter() - self._start, "views_skipped": self.latest_view.skipped,
            }  # fmt: skip
            self._writer.close(results, self._error, failure or truncation)
        except BaseException as error:
            self._fail(error)
        finally:
            if self._error is None and failure:
                self._error = FerError(f"{failure} The frames before it are in {self.folder}")
            for callback in self.end_callbacks:
                self._run_task(lambda callback=callback: callback(self._writer.summary, self._error))
            self._writer.release()
            self.latest_view.end()
            self._ended.set()

    def _run_task(self, task: Callable) -> None:
        try:
            task()
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Store the first error and end the session."""
        self._error = self._error or error
        self.controls.end()

    def _close_source_at_end(self) -> None:
        """Wake the thread that waits for a frame when somebody ends the session."""
        self.controls.wait()
        self._source.close()

    def _detect_faces(self) -> None:
        """Read frames and detect faces.  The latency of a file's frame starts here, because it waited on purpose."""
        live, first, frames = self._source.is_camera or self._source.paced, None, iter(self._source)
        try:
            while not self.controls.ended:
                self._detections.wait_until_read()  # a frame that is read earlier would only be older when predicted
                if (frame := next(frames, None)) is None:
                    self._source_ended = not self.controls.ended
                    break
                if self.controls.ended:
                    break
                if self._source.is_camera:  # it may have been running before the session started
                    first = first or frame
                    frame = replace(frame, index=frame.index - first.index, time=frame.time - first.time)
                start = frame.captured_at if live else time.perf_counter()
                faces = self._tracker.step(frame.image)
                tensor = None
                if faces:
                    face = faces[0].face
                    tensor = self.model.contract.batch([(frame.image, face.box, face.points)])
                self._detections.put(DetectedFrame(frame, start, faces, tensor))
        finally:
            self._detections.end()

    def _predict(self) -> None:
        try:
            while (detected := self._detections.take()) is not None:
                self._label_frame(detected)
        finally:
            self._detections.end()
            self.controls.end()  # the source ended, or something failed: nobody may wait any longer

    def _label_frame(self, detected: DetectedFrame) -> None:
        frame, face = detected.frame, detected.faces[0].face if detected.faces else None
        probs = None if detected.tensor is None else self.model.probs(detected.tensor)[0]
        setting = self.controls.now
        self._smoother.p = setting.smoothing
        smoothed = self._smoother.step(probs)
        label = self.model.label(smoothed)
        latency = time.perf_counter() - detected.start
        self.latency.add(latency)
        if self.latency.frames == 1:
            self._writer.first_frame_seconds = time.perf_counter() - self._start
        record = FrameRecord(frame.index, frame.time, setting.label, setting.label_source, label, probs, face)
        view = View(
            frame.index, frame.time, frame.image, tuple(detected.faces), probs, smoothed.probs, label, smoothed.votes,
            setting, self.latency.recent_fps, latency * 1000, self._source.dropped,
        )  # fmt: skip
        self._writer.add(record, setting, view)
        self.latest_view.put(view)


def _truncation_note(source, frames: int) -> str:
    """A warning when a file has clearly fewer frames than its header says, which may be an estimate; else blank."""
    expected = getattr(source, "expected_frames", 0)
    if frames >= MIN_FILE_SHARE * expected - 1:
        return ""
    return f"{source.name} ended after {frames:,} of the {expected:,} frames that its header gives: it may be cut short"


def wait_until_end(session: Session) -> dict[str, Any]:
    """Wait for a started session and return its summary; the first Ctrl+C ends the session."""
    while True:
        try:
            if (summary := session.wait(0.2)) is not None:
                return summary
        except KeyboardInterrupt:
            session.controls.end()
