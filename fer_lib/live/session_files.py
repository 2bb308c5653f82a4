"""The files of a live session: their names, columns and readers.

``per_frame.csv`` has one row per frame with the calibrated probabilities before smoothing (their arg-max is the raw
label) and the label shown after it; ``faces.csv`` the box and landmarks of the scored face; ``recorded.csv`` the frames
of the session's video in order; ``session.json`` source, model, settings and summary.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from fer_lib.emotions import EMOTIONS, NUM_CLASSES
from fer_lib.errors import DataError
from fer_lib.faces.detectors import Face
from fer_lib.params import SmoothingParams
from fer_lib.params.strict import first_problem
from fer_lib.storage.atomic import write_json

PER_FRAME, EVENTS, SUMMARY = "per_frame.csv", "events.csv", "demoresultssummary.csv"
THRESHOLDS, CORRECTNESS = "thresholds.json", "per_class_correctness.csv"
FACES, RECORDED, SESSION = "faces.csv", "recorded.csv", "session.json"
RAW_VIDEO, ANNOTATED_VIDEO = "raw.mkv", "annotated.avi"
ANNOTATED_LIST = "annotated.csv"  # the frames of ANNOTATED_VIDEO, as RECORDED lists those of RAW_VIDEO
LOGS = (PER_FRAME, EVENTS, SUMMARY, THRESHOLDS, CORRECTNESS, FACES, SESSION, RECORDED, ANNOTATED_LIST)
VIDEOS = (RAW_VIDEO, ANNOTATED_VIDEO)
WRITTEN_ONCE = (SESSION, PER_FRAME, FACES, RECORDED, ANNOTATED_LIST, RAW_VIDEO, ANNOTATED_VIDEO)  # no session may exist

PROBS = tuple(f"prob_{name}" for name in EMOTIONS)
PER_FRAME_COLUMNS = (
    "frame_index", "time_sec", "manual_label", "pred_label", *PROBS, "detector", "model", "ckpt",
)  # fmt: skip
EVENTS_COLUMNS = ("label", "start_frame", "end_frame", "start_time_sec", "end_time_sec", "source")
SUMMARY_COLUMNS = (
    "time", "input", "detector", "ckpt", "model", "frames_logged", "events_logged", "ema_alpha", "hysteresis_delta",
    "vote_window", "vote_min_count",
)  # fmt: skip
CORRECTNESS_COLUMNS = ("label", "frames_with_manual", "frames_with_manual_and_pred", "correct_frames", "accuracy")
OVERALL = "__overall__"
LANDMARK_COLUMNS = tuple(
    f"{point}_{axis}" for point in ("right_eye", "left_eye", "nose", "right_mouth", "left_mouth") for axis in "xy"
)
FACES_COLUMNS = ("frame_index", "top", "left", "bottom", "right", "score", *LANDMARK_COLUMNS)

NO_LABEL, UNSTABLE, UNKNOWN = -1, -1, -2  # of manual and of predicted labels
LABEL_TEXT = {UNSTABLE: "(unstable)", UNKNOWN: "Unknown", **dict(enumerate(EMOTIONS))}
_PRED_LABELS = {text: label for label, text in LABEL_TEXT.items()}
_MANUAL_LABELS = {"": NO_LABEL, **{name: label for label, name in enumerate(EMOTIONS)}}


class _Section(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, protected_namespaces=())


class SourceInfo(_Section):
    fps: float | None = None
    path: str | None = None
    fingerprint: str | None = None


class ModelFacts(_Section):
    abstention: Annotated[list[float], Field(min_length=NUM_CLASSES, max_length=NUM_CLASSES)] | None = None


class SessionInfo(_Section):
    """The part of ``session.json`` that readers depend on; a killed session lacks the results."""

    source: SourceInfo | None = None
    size: Annotated[list[PositiveInt], Field(min_length=2, max_length=2)] | None = None  # width, height in pixels
    replay_of: Annotated[str, Field(max_length=255, pattern=r"^[^/\\\x00]+$")] | None = None  # a folder beside this one
    model_facts: ModelFacts | None = None
    smoothing: SmoothingParams | None = None
    fps: float | None = None
    latency_ms: dict[str, float] | None = None
    dropped: NonNegativeInt | None = None


@dataclass(frozen=True)
class FrameRecord:
    """The log entry of one frame.

    ``time`` seconds of media; ``manual`` 0..6 or NO_LABEL, from ``manual_source`` (key, click, page, file);
    ``pred`` 0..6, UNSTABLE or UNKNOWN; ``probs`` float64 [7] before smoothing and ``face``, None without a face.
    """

    index: int
    time: float
    manual: int
    manual_source: str
    pred: int
    probs: np.ndarray | None
    face: Face | None


@dataclass(frozen=True)
class Frames:
    """The T frames of a session in order.

    ``frame_index`` int64 [T]; ``time_sec`` float64 [T]; ``manual`` int8 [T], -1 without a label; ``pred`` int8 [T], -1
    unstable or no face, -2 Unknown; ``probs`` float64 [T, 7] before smoothing, NaN rows without a face.  ``detector``,
    ``model`` and ``ckpt`` of the session; ``truncated`` (0 or 1) lines that a kill left incomplete.
    """

    frame_index: np.ndarray
    time_sec: np.ndarray
    manual: np.ndarray
    pred: np.ndarray
    probs: np.ndarray
    detector: str
    model: str
    ckpt: str
    truncated: int


def read_session(folder: Path | str) -> dict[str, Any]:
    """``session.json`` of a session's folder; DataError when it is missing or holds something else."""
    file = Path(folder) / SESSION
    try:
        content = json.loads(_read_bytes(file))
        if not isinstance(content, dict):
            raise ValueError("it holds no JSON object")
        SessionInfo.model_validate(content)
        return content
    except (ValueError, RecursionError) as error:
        reason = first_problem(error) if isinstance(error, ValidationError) else error
        raise DataError(f"{file} cannot be read ({reason}): record the session again") from error


def write_session(folder: Path, content: dict[str, Any]) -> None:
    """Write ``session.json`` atomically."""
    write_json(folder / SESSION, content)


def regular_files(folder: Path, names: Iterable[str]) -> list[Path]:
    """The files in ``folder`` among ``names``; a symbolic link is no file of a session."""
    return [path for path in map(folder.joinpath, names) if path.is_file() and not path.is_symlink()]


def raise_if_replaced(file: Path, opened: os.stat_result) -> None:
    """DataError unless ``file`` still is the file that a session opened, as ``os.fstat`` described it, and no link."""
    try:
        is_same = os.path.samestat(os.lstat(file), opened)
    except FileNotFoundError:
        is_same = False
    if not is_same:
        raise DataError(
            f"{file} was removed or replaced by another program while the session wrote it: the session ends and its "
            "other files stay; let no other program write to that folder, and record again"
        )


def read_frames(folder: Path | str) -> Frames:
    """The frames of a session's folder.

    A last line without its line end, as a kill leaves it, is dropped and counted.  DataError, with file and line, for
    any other line that a session does not write, and for a session without a frame.
    """
    import pandas as pd

    file = Path(folder) / PER_FRAME
    text, truncated = _complete_lines(file, PER_FRAME_COLUMNS)
    dtypes = dict.fromkeys(PER_FRAME_COLUMNS, "category") | {"frame_index": "int64", "time_sec": "float64"}
    dtypes |= dict.fromkeys(PROBS, "float64")
    try:
        table = pd.read_csv(
            io.StringIO(text), dtype=dtypes, keep_default_na=False, na_values=dict.fromkeys(PROBS, [""]),
            float_precision="round_trip", index_col=False,
        )  # fmt: skip
        frames = _frames(table, truncated)
    except (ValueError, KeyError) as error:  # pandas' own parser errors are ValueErrors
        raise _line_error(file, text) from error
    if not len(frames.frame_index):
        raise DataError(f"{file} holds no frame: the session ended before its first one; record it again")
    if (wrong := np.flatnonzero(~_is_valid(frames))).size:
        raise _line_error(file, text, wrong[0] + 2)
    return frames


def _frames(table, truncated: int) -> Frames:
    """KeyError for an unknown label; ValueError for a row that is too short."""
    if table[["manual_label", "pred_label", "ckpt"]].isna().to_numpy().any():
        raise ValueError("a row is too short")

    def ids(column: str, labels: dict[str, int]) -> np.ndarray:
        categories = np.array([labels[text] for text in table[column].cat.categories], np.int8)
        return categories[table[column].cat.codes.to_numpy()] if len(table) else np.zeros(0, np.int8)

    def constant(column: str) -> str:
        return str(table[column].iloc[0]) if len(table) else ""

    return Frames(
        table["frame_index"].to_numpy(), table["time_sec"].to_numpy(), ids("manual_label", _MANUAL_LABELS),
        ids("pred_label", _PRED_LABELS), table[list(PROBS)].to_numpy(), constant("detector"), constant("model"),
        constant("ckpt"), truncated,
    )  # fmt: skip


def _is_valid(frames: Frames) -> np.ndarray:
    """bool [T]: indices increase, times do not decrease, and probabilities are a distribution or missing."""
    rising = np.diff(frames.frame_index, prepend=-1) > 0
    later = np.isfinite(frames.time_sec) & (np.diff(frames.time_sec, prepend=-np.inf) >= 0)
    shares = (frames.probs >= 0).all(axis=1) & (np.abs(frames.probs.sum(axis=1) - 1) < 1e-3)
    return rising & later & (shares | np.isnan(frames.probs).all(axis=1))


def _line_error(file: Path, text: str, wrong: int | None = None) -> DataError:
    """The error for the first line that is no row of a session; ``wrong``: the first that is not valid."""
    number = 1
    for number, cells in rows_of(text, file):
        try:
            if len(cells) != len(PER_FRAME_COLUMNS):
                raise ValueError(f"it has {len(cells)} cells, not {len(PER_FRAME_COLUMNS)}")
            if cells[2] not in _MANUAL_LABELS or cells[3] not in _PRED_LABELS:
                raise ValueError(f"labels {cells[2]!r} and {cells[3]!r} are not both of {', '.join(EMOTIONS)}")
            int(cells[0]), [float(cell) for cell in filter(None, cells[4:-3])]
            if number == wrong or not math.isfinite(float(cells[1])):
                raise ValueError("frame_index and time_sec must rise, and probabilities be shares that sum to 1")
        except ValueError as error:
            return DataError(f"{file}: line {number} is not what a session writes ({error}); remove it by hand")
    return DataError(f"{file} cannot be read as a table of {number} lines: record the session again")


def _complete_lines(file: Path, columns: tuple[str, ...]) -> tuple[str, int]:
    """The complete lines of a table, and the number (0 or 1) of incomplete ones; DataError for other columns."""
    complete, _, rest = _read_bytes(file).rpartition(b"\n")
    try:
        text = (complete + b"\n").decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is no UTF-8 text ({error}): record the session again") from error
    head = text.partition("\n")[0].rstrip("\r")
    if head != ",".join(columns):
        raise DataError(f"{file} begins with {head[:120]!r}, not with the columns {','.join(columns)}")
    return text, int(bool(rest))


def rows_of(text: str, file: Path) -> Iterator[tuple[int, list[str]]]:
    """(number, cells) of each row of a CSV text below its head.

    DataError, naming the file, for what is no CSV, such as a cell of 200,000 characters.
    """
    number = 1
    try:
        for number, cells in enumerate(csv.reader(io.StringIO(text)), 1):
            if number > 1:
                yield number, cells
    except csv.Error as error:
        raise DataError(f"{file}: what follows line {number} is no CSV ({error}): remove it by hand") from error


def _read_bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError as error:
        raise DataError(
            f"{file.parent} holds no live session ({file.name} is missing): give a folder that fer live wrote"
        ) from error


def read_faces(folder: Path | str) -> dict[int, Face]:
    """The scored face of each frame that has one, by frame_index; DataError with the line of an invalid row."""
    file = Path(folder) / FACES
    text, _ = _complete_lines(file, FACES_COLUMNS)
    faces = {}
    for number, cells in rows_of(text, file):
        try:
            index, values = int(cells[0]), [float(cell) for cell in cells[1:6]]
            points = np.array([float(cell) for cell in cells[6:] if cell], np.float32)
            if len(values) != 5 or points.size not in (0, 10):
                raise ValueError("a cell is missing")
            if not (np.isfinite(values).all() and np.isfinite(points).all()):
                raise ValueError("a value is not finite")
        except (ValueError, IndexError) as error:
            raise DataError(f"{file}: line {number} is not what a session writes ({error})") from error
        faces[index] = Face(tuple(values[:4]), values[4], points.reshape(5, 2) if points.size else None)
    return faces


def frame_list(video: str) -> str:
    """The name of the file that lists a video's frames."""
    return RECORDED if video == RAW_VIDEO else ANNOTATED_LIST


def read_recorded(folder: Path | str) -> list[int]:
    """The frame_index of each frame of the session's raw video, in order."""
    file = Path(folder) / RECORDED
    text, _ = _complete_lines(file, ("frame_index",))
    try:
        return [int(line) for line in text.splitlines()[1:]]
    except ValueError as error:
        raise DataError(f"{file} is not what a session writes ({error}): record the session again") from error
