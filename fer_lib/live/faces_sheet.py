"""Contact sheets of a session's manual segments: faces with their labels, to find wrong labels."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure

from fer_lib.datasets.sheets import tile_page
from fer_lib.emotions import EMOTIONS
from fer_lib.faces.contract import FaceContract
from fer_lib.live.recording import recorded_frames
from fer_lib.live.score import Segment, raw_labels, read_truth, segments
from fer_lib.live.session_files import LABEL_TEXT, RAW_VIDEO, Frames, read_faces, read_frames, read_recorded

TILE = 88  # pixels of a face
CONTEXT = 0.15  # margin around the face, as a share of its box

Faces = dict[int, np.ndarray]  # position among the session's frames -> face uint8 RGB [TILE, TILE, 3]


def face_pages(folder: Path | str, per_segment: int = 8, per_page: int = 8) -> tuple[list[Figure], str]:
    """Pages with one row per segment and ``per_segment`` faces evenly spaced in it, and a note about them.

    Under each face are its frame_index, the raw and the smoothed label; a cross marks one that is not the manual label.
    Without a raw video or a manual label there is no page and the note gives the reason.  DataError for invalid files.
    """
    folder = Path(folder)
    frames = read_frames(folder)
    truth = read_truth(folder, frames)
    runs = segments(truth, frames.time_sec)
    if not runs:
        return [], f"{folder.name} has no manual label: enter frames and their label in corrections"
    if not (folder / RAW_VIDEO).is_file():
        return [], (
            f"the faces of {folder.name} cannot be shown because it has no raw video: record with fer live --record "
            "raw. The timeline and events.csv show which frames have which label"
        )
    rows = _rows(folder, frames, runs, per_segment)
    pages = -(-len(rows) // per_page)
    names = [folder.name + (f", page {k + 1} of {pages}" if pages > 1 else "") for k in range(pages)]
    figures = [_page(frames, rows[k * per_page :][:per_page], name) for k, name in enumerate(names)]
    empty = sum(not faces for _, faces in rows)
    note = f"{len(rows)} manual segments on {pages} pages" if pages > 1 else f"{len(rows)} manual segments"
    return figures, note + (f"; {empty} of them without a recorded face" if empty else "")


def spread(count: int, limit: int) -> np.ndarray:
    """At most ``limit`` of ``count`` positions, int64, evenly spaced from the first to the last."""
    return np.linspace(0, count - 1, min(count, limit)).round().astype(np.int64)


def _rows(folder: Path, frames: Frames, runs: list[Segment], per_segment: int) -> list[tuple[Segment, Faces]]:
    faces, recorded = read_faces(folder), set(read_recorded(folder))
    samples = []
    for segment in runs:
        indices = enumerate(frames.frame_index[segment.first : segment.last + 1].tolist(), segment.first)
        available = [position for position, index in indices if index in faces and index in recorded]
        samples.append([available[i] for i in spread(len(available), per_segment)])
    positions = {int(frames.frame_index[position]): position for sample in samples for position in sample}
    tiles: Faces = {}
    contract = FaceContract(margin=CONTEXT)
    for index, image in recorded_frames(folder) if positions else ():
        if index in positions:
            square = contract.square(image, faces[index].box)
            method = cv2.INTER_AREA if len(square) > TILE else cv2.INTER_CUBIC
            tiles[positions[index]] = cv2.resize(square, (TILE, TILE), interpolation=method)
            if len(tiles) == len(positions):
                break
    # a kill may lose the last frames of the video
    return [
        (segment, {position: tiles[position] for position in sample if position in tiles})
        for segment, sample in zip(runs, samples, strict=True)
    ]


def _page(frames: Frames, rows: list[tuple[Segment, Faces]], title: str) -> Figure:
    raw, lines = raw_labels(frames), []
    blank = np.full((TILE, TILE, 3), 255, np.uint8), "no recorded face"
    for segment, tiles in rows:
        faces = []
        for position, tile in tiles.items():
            shown = [int(raw[position]), int(frames.pred[position])]
            marked = [LABEL_TEXT[label] + " ✗" * (0 <= label != segment.label) for label in shown]
            faces.append((tile, "\n".join([str(frames.frame_index[position]), *marked])))
        first, last = frames.frame_index[[segment.first, segment.last]]
        about = f"{EMOTIONS[segment.label]}\nframes {first} to {last}\n{segment.seconds:.2f} s"
        lines.append((about + "\ntoo short to count" * (not len(segment.scored)), faces or [blank]))
    key = "under each face: its frame, raw label, smoothed label; ✗: not the manual label"
    return tile_page(lines, f"{title}\n{key}", TILE)
