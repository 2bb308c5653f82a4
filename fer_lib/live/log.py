"""Writing a session's files as it goes: whoever kills the process loses the last second at most."""

from __future__ import annotations

import csv
import io
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError
from fer_lib.live import session_files
from fer_lib.live.session_files import NO_LABEL, SPELLED, FrameRecord
from fer_lib.params import SmoothingParams
from fer_lib.storage.atomic import explained, fresh_file, write_json

FLUSH_SECONDS = 0.7  # between two writings to disk; a kill loses no more than a second


class SessionLog:
    """The open files of one session; every method belongs to one thread.

    ``head`` holds what is equal in all rows: ``input``, ``detector``, ``ckpt``, ``model``; ``started`` is local time.
    """

    def __init__(
        self, folder: Path, head: dict[str, str], started: str, smoothing: SmoothingParams, show_emo_ratio: bool
    ):
        """Begin the files in ``folder``, which holds no session yet.  DataError when the disk refuses."""
        from fer_lib.datasets.interchange import neutral

        self.folder = folder
        self.head = {name: neutral(text) for name, text in head.items()}
        self.started, self.smoothing, self.show_emo_ratio = started, smoothing, show_emo_ratio
        self.frames = 0
        self._events: list[list[Any]] = []
        self._open_event: list[Any] | None = None
        self._counts = {label: [0, 0, 0] for label in range(len(EMOTIONS))}  # manual, manual and predicted, correct
        self._tail = [self.head[name] for name in ("detector", "model", "ckpt")]
        self._streams, self._closing = [], ExitStack()
        self._changed, self._written = True, 0.0
        try:
            self._rows = self._table(session_files.PER_FRAME, session_files.PER_FRAME_COLUMNS)
            self._faces = self._table(session_files.FACES, session_files.FACES_COLUMNS)
            self.flush()
        except BaseException:
            self._closing.close()
            raise

    def _table(self, name: str, columns: tuple[str, ...]):
        with explained(self.folder / name):
            stream = open(self.folder / name, "x", newline="", encoding="utf-8")
            self._streams.append(self._closing.enter_context(stream))
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(columns)
        return writer

    def add(self, frame: FrameRecord) -> None:
        """Take in one frame, and write to disk what has waited for long enough."""
        manual = "" if frame.manual == NO_LABEL else EMOTIONS[frame.manual]
        probs = [""] * len(EMOTIONS) if frame.probs is None else frame.probs.tolist()
        row = [frame.index, round(frame.time, 6), manual, SPELLED[frame.pred], *probs, *self._tail]
        with explained(self.folder):
            self._rows.writerow(row)
            if frame.face is not None:
                points = [""] * 10 if frame.face.points is None else frame.face.points.ravel().tolist()
                self._faces.writerow([frame.index, *frame.face.box, frame.face.score, *points])
        self.frames += 1
        self._changed = True
        self._follow_label(frame, manual)
        if frame.manual != NO_LABEL:
            seen = self._counts[frame.manual]
            seen[0] += 1
            seen[1] += frame.pred >= 0
            seen[2] += frame.pred == frame.manual
        if time.monotonic() - self._written >= FLUSH_SECONDS:
            self.flush()

    def _follow_label(self, frame: FrameRecord, manual: str) -> None:
        """One event a run of equal labels; both its ends are frames that carry the label."""
        event = self._open_event
        if event is not None and event[0] != manual:
            self._events.append(event)
            event = None
        if manual and event is None:
            event = [manual, frame.index, frame.index, round(frame.time, 6), round(frame.time, 6), frame.manual_source]
        elif manual:
            event[2], event[4] = frame.index, round(frame.time, 6)
        self._open_event = event

    def change(self, smoothing: SmoothingParams, show_emo_ratio: bool) -> None:
        """Write down that these hold from now on."""
        self.smoothing, self.show_emo_ratio, self._changed = smoothing, show_emo_ratio, True

    @property
    def events(self) -> list[list[Any]]:
        """Rows of ``events.csv`` so far, the one that still goes on included."""
        return self._events + ([self._open_event] if self._open_event is not None else [])

    def flush_if_due(self) -> None:
        if time.monotonic() - self._written >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Everything to disk: rows are appended, the small files replaced whole."""
        self._written = time.monotonic()
        if not self._changed:
            return
        self._changed = False
        with explained(self.folder):
            for stream in self._streams:
                stream.flush()
        values = self.smoothing.model_dump()
        thresholds = values | {"show_emo_ratio": self.show_emo_ratio}
        summary = {"time": self.started, **self.head, "frames_logged": self.frames, "events_logged": len(self.events)}
        summary |= values
        write_json(self.folder / session_files.THRESHOLDS, thresholds)
        self._replace(
            session_files.SUMMARY, session_files.SUMMARY_COLUMNS, [[summary[c] for c in session_files.SUMMARY_COLUMNS]]
        )
        self._replace(session_files.EVENTS, session_files.EVENTS_COLUMNS, self.events)
        self._replace(session_files.CORRECTNESS, session_files.CORRECTNESS_COLUMNS, self._correctness())

    def _correctness(self) -> list[list[Any]]:
        """Accuracy is of the frames that carry both labels; empty where none does."""

        def row(name: str, seen: list[int]) -> list[Any]:
            return [name, *seen, f"{seen[2] / seen[1]:.6f}" if seen[1] else ""]

        total = [sum(column) for column in zip(*self._counts.values(), strict=True)]
        return [row(EMOTIONS[k], seen) for k, seen in self._counts.items()] + [row(session_files.OVERALL, total)]

    def _replace(self, name: str, columns: tuple[str, ...], rows: list[list[Any]]) -> None:
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
        with fresh_file(self.folder / name) as work:
            work.write_text(text.getvalue(), encoding="utf-8", newline="")

    def close(self) -> None:
        """Write what is left and close the files, also when the disk refuses (then DataError)."""
        with explained(self.folder), self._closing:
            self.flush()


def refuse_used(folder: Path) -> None:
    """DataError when ``folder`` holds a session already."""
    for name in (session_files.SESSION, session_files.PER_FRAME):
        if (folder / name).exists():
            raise DataError(
                f"{folder} holds a session already ({name}): give another --output, or move the old one away"
            )
