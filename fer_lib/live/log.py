"""The logs of a session, written while it runs: a killed process loses the last second at most."""

from __future__ import annotations

import csv
import io
import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError
from fer_lib.live import session_files
from fer_lib.live.session_files import LABEL_TEXT, NO_LABEL, FrameRecord, raise_if_replaced
from fer_lib.params import SmoothingParams
from fer_lib.storage.atomic import write_json, write_text

FLUSH_SECONDS = 0.7  # between two writes to disk; a kill loses no more than a second


class SessionLog:
    """The open files of one session, for use in one thread.

    ``head`` holds the values that are equal in all rows: ``input``, ``detector``, ``ckpt``, ``model``.  ``started`` is
    local time.
    """

    def __init__(
        self, folder: Path, head: dict[str, str], started: str, smoothing: SmoothingParams, show_emo_ratio: bool
    ):
        """Create the files in ``folder``, which must hold no session.  OSError when they exist or the disk refuses."""
        from fer_lib.datasets.interchange import escape_formula

        self.folder = folder
        self.head = {name: escape_formula(text) for name, text in head.items()}
        self.started, self.smoothing, self.show_emo_ratio = started, smoothing, show_emo_ratio
        self.frames = 0
        self._events: list[list[Any]] = []
        self._open_event: list[Any] | None = None
        self._counts = {label: [0, 0, 0] for label in range(len(EMOTIONS))}  # manual, manual and predicted, correct
        self._last_cells = [self.head[name] for name in ("detector", "model", "ckpt")]
        self._streams, self._exit_stack = [], ExitStack()
        self._dirty, self._last_flush = True, 0.0
        try:
            self._rows = self._open_table(session_files.PER_FRAME, session_files.PER_FRAME_COLUMNS)
            self._faces = self._open_table(session_files.FACES, session_files.FACES_COLUMNS)
            self.flush()
        except BaseException:
            self._exit_stack.close()
            raise

    def _open_table(self, name: str, columns: tuple[str, ...]):
        stream = open(self.folder / name, "x", newline="", encoding="utf-8")
        self._streams.append(self._exit_stack.enter_context(stream))
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        return writer

    def add(self, frame: FrameRecord) -> None:
        """Log one frame; flush to disk when the last flush is :data:`FLUSH_SECONDS` ago."""
        manual = "" if frame.manual == NO_LABEL else EMOTIONS[frame.manual]
        probs = [""] * len(EMOTIONS) if frame.probs is None else frame.probs.tolist()
        row = [frame.index, round(frame.time, 6), manual, LABEL_TEXT[frame.pred], *probs, *self._last_cells]
        self._rows.writerow(row)
        if frame.face is not None:
            points = [""] * 10 if frame.face.points is None else frame.face.points.ravel().tolist()
            self._faces.writerow([frame.index, *frame.face.box, frame.face.score, *points])
        self.frames += 1
        self._dirty = True
        self._update_event(frame, manual)
        if frame.manual != NO_LABEL:
            counts = self._counts[frame.manual]
            counts[0] += 1
            counts[1] += frame.pred >= 0
            counts[2] += frame.pred == frame.manual
        self.flush_if_due()

    def _update_event(self, frame: FrameRecord, manual: str) -> None:
        """An event is a run of equal labels; its first and last frame both carry the label."""
        event = self._open_event
        if event is not None and event[0] != manual:
            self._events.append(event)
            event = None
        if manual and event is None:
            event = [manual, frame.index, frame.index, round(frame.time, 6), round(frame.time, 6), frame.manual_source]
        elif manual:
            event[2], event[4] = frame.index, round(frame.time, 6)
        self._open_event = event

    def set_smoothing(self, smoothing: SmoothingParams, show_emo_ratio: bool) -> None:
        """Set the values for ``thresholds.json``; they hold from the next frame on."""
        self.smoothing, self.show_emo_ratio, self._dirty = smoothing, show_emo_ratio, True

    @property
    def events(self) -> list[list[Any]]:
        """Rows of ``events.csv`` so far, including the event that is still open."""
        return self._events + ([self._open_event] if self._open_event is not None else [])

    def flush_if_due(self) -> None:
        if time.monotonic() - self._last_flush >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write everything to disk: rows are appended, the small files are replaced.

        DataError when another program removed or replaced a file of rows; then no more is written.
        """
        self._last_flush = time.monotonic()
        for stream in self._streams:
            raise_if_replaced(Path(stream.name), os.fstat(stream.fileno()))
        if not self._dirty:
            return
        self._dirty = False
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
        """Counts and accuracy per class and overall; the accuracy is empty without a frame that has both labels."""

        def row(name: str, counts: list[int]) -> list[Any]:
            return [name, *counts, f"{counts[2] / counts[1]:.6f}" if counts[1] else ""]

        total = [sum(column) for column in zip(*self._counts.values(), strict=True)]
        return [row(EMOTIONS[k], counts) for k, counts in self._counts.items()] + [row(session_files.OVERALL, total)]

    def _replace(self, name: str, columns: tuple[str, ...], rows: list[list[Any]]) -> None:
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
        write_text(self.folder / name, text.getvalue())

    def close(self) -> None:
        """Flush and close the files; they are closed also when the flush fails."""
        with self._exit_stack:
            self.flush()


def check_unused(folder: Path) -> None:
    """DataError when ``folder`` already holds a session."""
    for name in session_files.WRITTEN_ONCE:
        if os.path.lexists(folder / name):
            raise DataError(
                f"{folder} holds a session already ({name}): give another --output, or move the old one away"
            )
