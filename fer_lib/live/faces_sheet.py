"""The faces of a session's manual segments with their labels, on pages on which a person sees which label is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure

from fer_lib.emotions import EMOTIONS
from fer_lib.faces.contract import FaceContract
from fer_lib.live.recording import recorded_pictures
from fer_lib.live.score import Segment, raw_labels, read_truth, segments
from fer_lib.live.session_files import RAW_VIDEO, SPELLED, Frames, read_faces, read_frames, read_recorded

DPI = 100
TILE, GAP, CAPTION, MARGIN = 88, 8, 40, 150  # pixels: a face, between two, the text under one, at the left of a line
RIGHT, WRONG, NONE = "#2a7d2a", "#c0392b", "#888888"
CONTEXT = 0.15  # share of a face's box shown round it


@dataclass(frozen=True)
class Line:
    """A segment and the faces [TILE, TILE, 3] that stand for it, by position among the frames."""

    segment: Segment
    faces: dict[int, np.ndarray]


def faces_pages(folder: Path | str, per_segment: int = 8, per_page: int = 8) -> tuple[list[Figure], str]:
    """Pages with a line a segment and ``per_segment`` faces in it, evenly over its time, and what there is in words.

    Under each face its frame_index, the raw and the smoothed label, green where it is the manual one.  No page where
    the session has no pictures or no manual label: the words then say why.  DataError for files that are broken.
    """
    folder = Path(folder)
    frames = read_frames(folder)
    truth = read_truth(folder, frames)
    found = segments(truth, frames.time_sec)
    if not found:
        return [], f"{folder.name} has no manual label: name frames and their label in corrections"
    if not (folder / RAW_VIDEO).is_file():
        return [], (
            f"the faces of {folder.name} cannot be shown, for it was not recorded: fer live --record raw keeps its "
            "pictures. The timeline and events.csv tell which frames carry which label"
        )
    lines = _lines(folder, frames, found, per_segment)
    pages = -(-len(lines) // per_page)
    names = [folder.name + (f", page {k + 1} of {pages}" if pages > 1 else "") for k in range(pages)]
    figures = [_page(frames, lines[k * per_page :][:per_page], name, per_segment) for k, name in enumerate(names)]
    empty = sum(not line.faces for line in lines)
    note = f"{len(lines)} manual segments on {pages} pages" if pages > 1 else f"{len(lines)} manual segments"
    return figures, note + (f"; {empty} of them without a recorded face" if empty else "")


def spread(count: int, wanted: int) -> np.ndarray:
    """int64: at most ``wanted`` of ``count`` places, evenly spaced from the first on to the last."""
    return np.linspace(0, count - 1, min(count, wanted)).round().astype(np.int64)


def _lines(folder: Path, frames: Frames, found: list[Segment], per_segment: int) -> list[Line]:
    faces, recorded = read_faces(folder), set(read_recorded(folder))
    chosen = []
    for segment in found:
        numbers = enumerate(frames.frame_index[segment.first : segment.last + 1].tolist(), segment.first)
        there = [place for place, number in numbers if number in faces and number in recorded]
        chosen.append([there[i] for i in spread(len(there), per_segment)])
    places = {int(frames.frame_index[place]): place for line in chosen for place in line}
    tiles: dict[int, np.ndarray] = {}
    contract = FaceContract(margin=CONTEXT)
    with recorded_pictures(folder) as pictures:
        for number, image in pictures if places else ():
            if number in places:
                square = contract.square(image, faces[number].box)
                method = cv2.INTER_AREA if len(square) > TILE else cv2.INTER_CUBIC
                tiles[places[number]] = cv2.resize(square, (TILE, TILE), interpolation=method)
                if len(tiles) == len(places):
                    break
    return [
        Line(segment, {place: tiles[place] for place in line if place in tiles})  # a kill may cost the last pictures
        for segment, line in zip(found, chosen, strict=True)
    ]


def _page(frames: Frames, lines: list[Line], title: str, columns: int) -> Figure:
    step, high, top = TILE + GAP, TILE + CAPTION + GAP, 52
    width, height = MARGIN + columns * step + GAP, top + len(lines) * high
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    axes.text(GAP, 10, title, fontsize=12, va="top")
    key = "under each face: its frame, the raw label, the smoothed label; green: as by hand, red: another, grey: none"
    axes.text(GAP, 32, key, fontsize=8, va="top", color="0.35")
    raw = raw_labels(frames)
    for row, line in enumerate(lines):
        y = top + row * high
        segment = line.segment
        first, last = frames.frame_index[[segment.first, segment.last]]
        axes.text(GAP, y, EMOTIONS[segment.label], fontsize=11, fontweight="bold", va="top")
        said = f"frames {first} to {last}\n{segment.seconds:.2f} s"
        said += "" if len(segment.scored) else "\ntoo short to count"
        axes.text(GAP, y + 20, said, fontsize=8, va="top", linespacing=1.3)
        if not line.faces:
            axes.text(MARGIN, y + TILE / 2, "no recorded face", fontsize=9, va="center", color=NONE)
        for column, (place, tile) in enumerate(line.faces.items()):
            x = MARGIN + column * step
            axes.imshow(tile, extent=(x, x + TILE, y + TILE, y), interpolation="nearest")
            axes.text(x + TILE / 2, y + TILE + 2, str(frames.frame_index[place]), fontsize=7, ha="center", va="top")
            for below, label in ((13, raw[place]), (24, frames.pred[place])):
                colour = RIGHT if label == segment.label else WRONG if label >= 0 else NONE
                text = SPELLED[int(label)]
                axes.text(x + TILE / 2, y + TILE + below, text, fontsize=7.5, ha="center", va="top", color=colour)
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="auto")  # a picture had set its own
    return figure
