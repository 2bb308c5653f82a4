"""What a session keeps, in threads of their own: logs that are written as they come, videos where they are asked for,
``session.json`` at the beginning and again at the end, and the lock on the folder."""

from __future__ import annotations

import contextlib
import hashlib
import queue
import threading
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from fer_lib.errors import DataError
from fer_lib.live import session_files
from fer_lib.live.controls import Setting
from fer_lib.live.log import SessionLog, refuse_used
from fer_lib.live.recording import VideoFile
from fer_lib.live.session_files import FrameRecord, write_session
from fer_lib.live.view import View
from fer_lib.params import LiveParams
from fer_lib.storage.atomic import explained

ROWS_AHEAD = 8192  # frames whose rows wait for the disk: over a minute at 100 a second
PICTURES_AHEAD = 16  # pictures that wait for a video
QUIET = 0.3  # seconds without a frame after which the log looks whether something is to be flushed
SESSION_FORMAT = 1
ENDED = "it was over or ended by hand"
LOCK = ".lock"


class SessionWriter:
    """The files of one session.  ``add`` is called by the judging thread, all else by the session's own."""

    def __init__(self, folder: Path, p: LiveParams):
        """Make and hold ``folder``.  FerError when it is held by a living session, DataError when used or refused."""
        from fer_lib.storage.locks import RunLock

        self.folder, self.p = folder, p
        self.first_frame: float | None = None  # seconds from the start, with everything loaded, to the first label
        self.summary: dict[str, Any] = {}
        self._made = not folder.exists()
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._lock = RunLock(folder / LOCK, f"the session in {folder}")
        try:
            refuse_used(folder)
        except BaseException:
            self.release()
            raise
        self._error: BaseException | None = None
        self._log: SessionLog | None = None
        self._rows: queue.Queue[tuple[FrameRecord, Setting] | None] = queue.Queue(ROWS_AHEAD)
        self._pictures: queue.Queue[View | None] = queue.Queue(PICTURES_AHEAD)
        self._videos: list[VideoFile] = []
        self._threads: list[tuple[threading.Thread, queue.Queue]] = []
        self._may_drop, self._unrecorded, self._closed = False, 0, False

    def begin(self, source, judge, detector) -> None:
        """Open the files.  DataError when the disk refuses."""
        started = datetime.now().astimezone()
        self._may_drop = source.is_camera
        about = judge.about()
        head = {"input": source.name, "detector": detector.name, "ckpt": about["weights_sha256"][:12],
                "model": self.p.model if self.p.model != "packaged" else f"packaged {about['name']}"}  # fmt: skip
        self.summary = {
            "format": SESSION_FORMAT, "started": started.isoformat(timespec="seconds"), "ended": None, **head,
            "source": _source_facts(self.p.source, source), "size": list(source.size), "model_facts": about,
            "detector_note": detector.note, "points_refined": judge.contract.align == "eyes",
            "params": self.p.model_dump(mode="json"), "smoothing": self.p.smoothing.model_dump(),
            "versions": {name: metadata.version(name) for name in ("fer-lab", "numpy", "onnxruntime")},
            "end": "it was killed, or still runs",
        }  # fmt: skip
        write_session(self.folder, self.summary)
        self._log = SessionLog(self.folder, head, self.summary["started"], self.p.smoothing, self.p.show_emo_ratio)
        kinds = {"raw": [session_files.RAW_VIDEO], "annotated": [session_files.ANNOTATED_VIDEO], "none": [],
                 "both": [session_files.RAW_VIDEO, session_files.ANNOTATED_VIDEO]}[self.p.record]  # fmt: skip
        for name in kinds:
            lossless = name == session_files.RAW_VIDEO
            self._videos.append(VideoFile(self.folder, name, source.size, source.fps, lossless))
        work = [("log", self._write_rows, self._rows)]
        work += [("record", self._write_pictures, self._pictures)] if self._videos else []
        for name, task, waiting in work:
            thread = threading.Thread(target=self._guarded, args=(task,), name=f"fer-{name}", daemon=True)
            self._threads.append((thread, waiting))
            thread.start()

    def add(self, record: FrameRecord, setting: Setting, view: View) -> None:
        """Hand a frame over; waits only while the disk is thousands of frames behind.  Raises what the disk refused."""
        self._put(self._rows, (record, setting))
        if not self._videos:
            return
        if not self._may_drop:
            self._put(self._pictures, view)
            return
        try:
            self._pictures.put_nowait(view)
        except queue.Full:
            self._unrecorded += 1

    def _put(self, waiting: queue.Queue, item) -> None:
        while True:
            if self._error is not None:
                raise self._error
            try:
                waiting.put(item, timeout=0.5)
                return
            except queue.Full:
                continue

    def end(self, facts: dict[str, Any], error: BaseException | None, trouble: str) -> None:
        """Write what waits, close everything, complete ``session.json``.  Raises what the disk refused."""
        try:
            for thread, waiting in self._threads:
                _finish(thread, waiting)
        finally:
            self._close()
        error = error or self._error
        if self._log is None:
            raise error
        reason = f"it failed: {error}" if error is not None else trouble or ENDED
        self.summary |= facts | {
            "ended": datetime.now().astimezone().isoformat(timespec="seconds"), "end": reason,
            "frames": self._log.frames, "first_frame_sec": self.first_frame,
            "smoothing": self._log.smoothing.model_dump(),
            "recorded": {v.path.name: {"frames": v.frames, "of_other_size": v.left_out} for v in self._videos},
            "pictures_not_recorded": self._unrecorded,
        }  # fmt: skip
        write_session(self.folder, self.summary)
        if self._error is not None:
            raise self._error

    def _close(self) -> None:
        """Every file, whatever befell the others; the first error is kept."""
        files = [*self._videos, *([self._log] if self._log is not None else [])]
        for file in files if not self._closed else ():
            try:
                file.close()
            except DataError as error:
                self._error = self._error or error
        self._closed = True

    def release(self) -> None:
        """Let go of the folder."""
        self._lock.release()

    def discard(self) -> None:
        """Let go of the folder of a session that is not to begin; one that was made for it and holds nothing goes."""
        self.release()
        if self._made and all(file.name == LOCK for file in self.folder.iterdir()):
            with contextlib.suppress(OSError):  # another session was quick to take it
                (self.folder / LOCK).unlink(missing_ok=True)
                self.folder.rmdir()

    def _guarded(self, task) -> None:
        try:
            task()
        except BaseException as error:
            self._error = self._error or error

    def _write_rows(self) -> None:
        held = self.p.smoothing, self.p.show_emo_ratio
        while True:
            try:
                item = self._rows.get(timeout=QUIET)
            except queue.Empty:
                self._log.flush_if_due()
                continue
            if item is None:
                return
            record, setting = item
            if (setting.smoothing, setting.overlay) != held:
                held = setting.smoothing, setting.overlay
                self._log.change(*held)
            self._log.add(record)

    def _write_pictures(self) -> None:
        while (view := self._pictures.get()) is not None:
            for video in self._videos:
                raw = video.path.name == session_files.RAW_VIDEO
                video.add(view.index, view.image if raw else _annotated(view))


def _finish(thread: threading.Thread, waiting: queue.Queue) -> None:
    """Tell a thread that nothing more comes, and wait; one that failed takes nothing any more."""
    while thread.is_alive():
        try:
            waiting.put(None, timeout=0.2)
            break
        except queue.Full:
            continue
    thread.join()


def _annotated(view: View):
    from fer_lib.live.draw import annotate

    return annotate(view)


def _source_facts(asked: str, source) -> dict[str, Any]:
    """What a session was made from; a file with its fingerprint, so that a replay knows whether it is the same."""
    facts = {"name": source.name, "is_camera": source.is_camera, "fps": source.fps}
    facts |= {"frames_promised": promised} if (promised := getattr(source, "promised", 0)) else {}
    file = Path(asked).expanduser()
    if not source.is_camera and file.is_file():
        facts |= {"path": str(file.resolve()), "fingerprint": fingerprint(file)}
    return facts


def fingerprint(file: Path) -> str:
    """Size and SHA-256 of a file's first and last MiB: a video of hours is told in a moment.  DataError if unread."""
    from fer_lib.storage.atomic import readable

    mib = 1 << 20
    with readable(file), open(file, "rb") as stream:
        size = file.stat().st_size
        digest = hashlib.sha256(stream.read(mib))
        stream.seek(max(0, size - mib))
        digest.update(stream.read(mib))
    return f"{size}-{digest.hexdigest()[:32]}"
