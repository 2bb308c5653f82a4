"""The files of a running session: a lock on the folder, ``session.json``, and threads that write logs and videos."""

from __future__ import annotations

import contextlib
import hashlib
import queue
import threading
from collections.abc import Callable
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from fer_lib.errors import user_message
from fer_lib.live import session_files
from fer_lib.live.controls import Setting
from fer_lib.live.log import SessionLog, check_unused
from fer_lib.live.recording import VideoFile
from fer_lib.live.session_files import FrameRecord, write_session
from fer_lib.live.view import View
from fer_lib.params import LiveParams
from fer_lib.storage.atomic import explained

ROW_QUEUE_SIZE = 8192  # frames whose rows wait for the disk: over a minute at 100 frames per second
VIEW_QUEUE_SIZE = 16  # frames that wait for a video
IDLE_SECONDS = 0.3  # without a frame; then the log checks whether to flush
SESSION_FORMAT = 1
NORMAL_END = "it was over or ended by hand"
LOCK = ".lock"


class SessionWriter:
    """The files of one session.  The prediction thread calls ``add``; the session's main thread calls the rest."""

    def __init__(self, folder: Path, p: LiveParams):
        """Make and lock ``folder``.  FerError when a running session has locked it, DataError when it holds a session,
        OSError when it cannot be made."""
        from fer_lib.storage.locks import RunLock

        self.folder, self.p = folder, p
        self.first_frame_seconds: float | None = None  # from the start to the first label, with everything loaded
        self.summary: dict[str, Any] = {}
        self._created = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = RunLock(folder / LOCK, f"the session in {folder}")
        try:
            check_unused(folder)
        except BaseException:
            self.release()
            raise
        self._error: BaseException | None = None
        self._log: SessionLog | None = None
        self._rows: queue.Queue[tuple[FrameRecord, Setting] | None] = queue.Queue(ROW_QUEUE_SIZE)
        self._views: queue.Queue[View | None] = queue.Queue(VIEW_QUEUE_SIZE)
        self._videos: list[VideoFile] = []
        self._threads: list[tuple[threading.Thread, queue.Queue]] = []
        self._may_drop, self._unrecorded, self._closed = False, 0, False

    def open(self, source, model, detector) -> None:
        """Open the files and start the threads.  DataError or OSError when the disk refuses."""
        started = datetime.now().astimezone()
        self._may_drop = source.is_camera
        model_info = model.info()
        head = {
            "input": source.name, "detector": detector.name, "ckpt": model_info["weights_sha256"][:12],
            "model": self.p.model if self.p.model != "packaged" else f"packaged {model_info['name']}",
        }  # fmt: skip
        self.summary = {
            "format": SESSION_FORMAT, "started": started.isoformat(timespec="seconds"), "ended": None, **head,
            "source": _source_info(self.p.source, source), "size": list(source.size), "model_facts": model_info,
            # detector_note: a key of earlier sessions, in which another detector could replace the requested one
            "detector_note": "", "points_refined": model.contract.align == "eyes",
            "params": self.p.model_dump(mode="json"), "smoothing": self.p.smoothing.model_dump(),
            "versions": {name: metadata.version(name) for name in ("fer-lab", "numpy", "onnxruntime")},
            "end": "it was killed, or still runs",
        }  # fmt: skip
        write_session(self.folder, self.summary)
        self._log = SessionLog(self.folder, head, self.summary["started"], self.p.smoothing, self.p.show_emo_ratio)
        names = {"raw": [session_files.RAW_VIDEO], "annotated": [session_files.ANNOTATED_VIDEO], "none": [],
                 "both": [session_files.RAW_VIDEO, session_files.ANNOTATED_VIDEO]}[self.p.record]  # fmt: skip
        for name in names:
            lossless = name == session_files.RAW_VIDEO
            self._videos.append(VideoFile(self.folder, name, source.size, source.fps, lossless))
        tasks = [("log", self._write_rows, self._rows)]
        tasks += [("record", self._write_videos, self._views)] if self._videos else []
        for name, task, items in tasks:
            thread = threading.Thread(target=self._run_task, args=(task,), name=f"fer-{name}", daemon=True)
            self._threads.append((thread, items))
            thread.start()

    def add(self, record: FrameRecord, setting: Setting, view: View) -> None:
        """Queue a frame; waits only while the disk is thousands of frames behind.  Raises a writer thread's error."""
        self._put(self._rows, (record, setting))
        if not self._videos:
            return
        if not self._may_drop:
            self._put(self._views, view)
            return
        try:
            self._views.put_nowait(view)
        except queue.Full:
            self._unrecorded += 1

    def _put(self, items: queue.Queue, item) -> None:
        while True:
            if self._error is not None:
                raise self._error
            try:
                items.put(item, timeout=0.5)
                return
            except queue.Full:
                continue

    def close(self, results: dict[str, Any], error: BaseException | None, note: str) -> None:
        """Write the queued frames, close the files, complete ``session.json``.  Raises a writer thread's error.

        ``results``: more entries of ``session.json``.  ``error``, else ``note``, becomes the reason for the end.
        """
        try:
            for thread, items in self._threads:
                _join(thread, items)
        finally:
            self._close_files()
        error = error or self._error
        if self._log is None:
            raise error
        reason = f"it failed: {user_message(error) or error}" if error is not None else note or NORMAL_END
        self.summary |= results | {
            "ended": datetime.now().astimezone().isoformat(timespec="seconds"), "end": reason,
            "frames": self._log.frames, "first_frame_sec": self.first_frame_seconds,
            "smoothing": self._log.smoothing.model_dump(),
            "recorded": {v.path.name: {"frames": v.frames, "of_other_size": v.left_out} for v in self._videos},
            "pictures_not_recorded": self._unrecorded,
        }  # fmt: skip
        write_session(self.folder, self.summary)
        if self._error is not None:
            raise self._error

    def _close_files(self) -> None:
        """Close every file, also after an error; the first error stays."""
        files = [*self._videos, *([self._log] if self._log is not None else [])]
        for file in files if not self._closed else ():
            self._run_task(file.close)
        self._closed = True

    def release(self) -> None:
        """Release the lock on the folder."""
        self._lock.release()

    def discard(self) -> None:
        """Release the folder of a session that will not start; remove the folder if it was made for it and is empty."""
        self.release()
        if self._created and all(file.name == LOCK for file in self.folder.iterdir()):
            with contextlib.suppress(OSError):  # another session has just taken it
                (self.folder / LOCK).unlink(missing_ok=True)
                self.folder.rmdir()

    def _run_task(self, task: Callable[[], None]) -> None:
        """Run ``task`` and store the first error; a stream's OSError names no file, so it is translated here."""
        try:
            with explained(self.folder):
                task()
        except BaseException as error:
            self._error = self._error or error

    def _write_rows(self) -> None:
        while True:
            try:
                item = self._rows.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                self._log.flush_if_due()
                continue
            if item is None:
                return
            record, setting = item
            self._log.set_smoothing(setting.smoothing, setting.overlay)
            self._log.add(record)

    def _write_videos(self) -> None:
        from fer_lib.live.draw import annotate

        while (view := self._views.get()) is not None:
            for video in self._videos:
                raw = video.path.name == session_files.RAW_VIDEO
                video.add(view.index, view.image if raw else annotate(view))


def _join(thread: threading.Thread, items: queue.Queue) -> None:
    """Send the end mark to a thread and wait for it; a thread that failed reads no more items."""
    while thread.is_alive():
        try:
            items.put(None, timeout=0.2)
            break
        except queue.Full:
            continue
    thread.join()


def _source_info(name: str, source) -> dict[str, Any]:
    """The source of a session; a file with its fingerprint, by which a replay checks that it is the same file."""
    info = {"name": source.name, "is_camera": source.is_camera, "fps": source.fps}
    info |= {"frames_promised": expected} if (expected := getattr(source, "expected_frames", 0)) else {}
    file = Path(name).expanduser()
    if not source.is_camera and file.is_file():
        info |= {"path": str(file.resolve()), "fingerprint": fingerprint(file)}
    return info


def fingerprint(file: Path) -> str:
    """Size and SHA-256 of a file's first and last MiB, which is fast for long videos."""
    mib = 1 << 20
    with open(file, "rb") as stream:
        size = file.stat().st_size
        digest = hashlib.sha256(stream.read(mib))
        stream.seek(max(0, size - mib))
        digest.update(stream.read(mib))
    return f"{size}-{digest.hexdigest()[:32]}"
