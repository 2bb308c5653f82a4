"""Figures of faces: contact sheets, and the steps of the face contract."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fer_lib.datasets.manifest import BOX, Manifest, box_of
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError
from fer_lib.faces.contract import Box, FaceContract
from fer_lib.faces.decode import decode
from fer_lib.faces.detector_interface import find_points
from fer_lib.faces.detectors import Detector, Haar

GAP = 4  # pixels between the faces of a sheet
LINE = 12  # pixels of a line of text under a face
DPI = 100
STEPS = {"raw": "raw", "box": "box", "square": "aligned", "clahe": "CLAHE", "crop": "crop"}


def face_tile(manifest: Manifest, row: Any, size: int = 96) -> np.ndarray:
    """The face of a row after the face contract's crop, uint8 [size, size, 3]; a red cross for an unreadable image."""
    try:
        square = FaceContract().square(decode(manifest.resolve(row)), box_of(row))
    except DataError:
        return _cross(size)
    return _resized(square, size)


def _resized(face: np.ndarray, size: int) -> np.ndarray:
    interpolation = cv2.INTER_AREA if face.shape[0] > size else cv2.INTER_CUBIC
    return cv2.resize(face, (size, size), interpolation=interpolation)


def _cross(size: int) -> np.ndarray:
    tile = np.full((size, size, 3), 225, np.uint8)
    for y in (0, size - 1):
        cv2.line(tile, (0, y), (size - 1, size - 1 - y), (200, 40, 40), 2)
    return tile


def face_grid(
    manifest: Manifest,
    rows: Sequence[tuple[str, pd.DataFrame]],
    title: str,
    caption: Callable[[Any], str] = lambda row: "",
    size: int = 96,
) -> Figure:
    """One line of faces per (label, rows of the manifest's frame), the label on the left, ``caption(row)`` under each.

    Raises :class:`DataError` when there is no row.
    """
    lines = [
        (label, [(face_tile(manifest, row, size), caption(row)) for _, row in frame.iterrows()])
        for label, frame in rows
    ]
    return tile_page(lines, title, size)


def tile_page(lines: Sequence[tuple[str, Sequence[tuple[np.ndarray, str]]]], title: str, size: int = 96) -> Figure:
    """One line of faces per (label, [(face uint8 RGB [h, h, 3], caption)]), the label on the left.

    Faces are shown ``size`` pixels wide; a caption line holds about ``size / 5`` characters.  Raises
    :class:`DataError` when there is no face.
    """
    columns = max((len(faces) for _, faces in lines), default=0)
    if columns == 0:
        raise DataError(f"{title}: no faces to show")
    deepest = [max((len(caption.splitlines()) for _, caption in faces), default=0) for _, faces in lines]
    tops = np.cumsum([0, *(size + GAP + LINE * depth for depth in deepest)])
    canvas, step, texts = np.full((tops[-1], columns * (size + GAP), 3), 255, np.uint8), size + GAP, []
    for top, (_, faces) in zip(tops, lines, strict=False):
        for left, (face, caption) in zip(range(0, canvas.shape[1], step), faces, strict=False):
            canvas[top : top + size, left : left + size] = _resized(face, size)
            texts.append((left + size / 2, top + size + 1, caption))
    height, width = canvas.shape[:2]
    margin, head = 14 + 7.5 * max(len(part) for label, _ in lines for part in label.split("\n")), 46  # pixels
    total_width, total_height = margin + width + 8, head + height + 6
    figure = Figure(figsize=(total_width / DPI, total_height / DPI), dpi=DPI)
    axes = figure.add_axes((margin / total_width, 6 / total_height, width / total_width, height / total_height))
    axes.imshow(canvas, interpolation="nearest", aspect="auto")  # each pixel of the canvas is one of the figure
    figure.text(8 / total_width, 1 - 6 / total_height, title, ha="left", va="top", fontsize=10)
    axes.set_xticks([])
    axes.set_yticks(tops[:-1] + size / 2, [label for label, _ in lines], fontsize=9)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for x, y, text in texts:
        axes.text(x, y, text, ha="center", va="top", fontsize=7.5, linespacing=1.15)
    return figure


def contact_sheet(manifest: Manifest, source: str, per_class: int = 10, seed: int = 1337, size: int = 80) -> Figure:
    """Faces of one source, one line per class with its name and count, the split under each face.

    The sample depends on ``seed`` and the sample ids, not on row order and other sources.
    """
    frame = manifest.rows(include_sources=[source]).frame
    lines = []
    for label, name in enumerate(EMOTIONS):
        rows = frame[frame["label"] == label].sort_values("sample_id")
        sample = np.random.default_rng([seed, label]).permutation(len(rows))[:per_class]
        lines.append((f"{name}\n(n = {len(rows):,})", rows.iloc[sample]))
    return face_grid(manifest, lines, f"{source} (n = {len(frame):,})", lambda row: row["split"], size)


def example_rows(manifest: Manifest, n: int, seed: int = 1337) -> pd.DataFrame:
    """``n`` rows from all sources in turn, faces in photos first; they depend on ``seed`` and the sample ids."""
    frame = manifest.frame.sort_values("sample_id")
    frame = frame.iloc[np.random.default_rng(seed).permutation(len(frame))]
    frame = frame.assign(whole=frame[BOX[0]].isna() if BOX[0] in frame else True).sort_values("whole", kind="stable")
    frame = frame.assign(turn=frame.groupby("source").cumcount())
    return manifest.frame.loc[frame.sort_values(["turn", "whole", "source"], kind="stable").index[:n]]


def steps_page(
    manifest: Manifest, contract: FaceContract, rows: pd.DataFrame, detector: Detector | None = None, size: int = 150
) -> Figure:
    """The steps of the face contract for each of ``rows``: raw, box, aligned, CLAHE, crop.

    ``detector`` (YuNet) finds the landmarks that level the eyes.  Without a detector, landmarks or alignment in the
    contract, the square is not turned, and the page shows why.  A step that does not apply is blank; an unreadable
    image is a red cross.
    """
    lines = []
    for _, row in rows.iterrows():
        label = f"{row['source']}\n{EMOTIONS[row['label']]}"
        try:
            image = decode(manifest.resolve(row))
        except DataError:
            lines.append((label, [(_cross(size), "can't be read")]))
        else:
            lines.append((label, _step_tiles(image, box_of(row), contract, detector, size)))
    about = f"face contract {contract.id}: S {contract.image_size}, R {contract.resize}, align {contract.align}"
    figure = tile_page(lines, f"{about}, detector {detector.name if detector else 'none'}", size)
    axes, step = figure.axes[0], size + GAP
    axes.set_xticks([column * step + size / 2 for column in range(len(STEPS))], STEPS.values(), fontsize=9)
    axes.xaxis.tick_top()
    return figure


def _step_tiles(
    image: np.ndarray, box: Box | None, contract: FaceContract, detector: Detector | None, size: int
) -> list[tuple[np.ndarray, str]]:
    """A tile uint8 [size, size, 3] and a caption for each of STEPS."""
    points = find_points(image, box, detector) if detector is not None and contract.align == "eyes" else None
    stages = contract.steps(image, box, points)
    if "aligned" in stages:
        stages["square"] = stages.pop("aligned")
    if contract.align == "none":
        turn = "align is off"
    elif points is not None:
        turn = "eyes level"
    else:
        blind = detector is None or isinstance(detector, Haar)
        turn = "not aligned: YuNet is not here" if blind else "no eyes found: as it is"
    notes, tiles = {"square": f"\n{turn}", "crop": "\nwhat the model sees"}, []
    for step in STEPS:
        if step in stages:
            height, width = stages[step].shape[:2]
            tiles.append((_fitted(stages[step], size), f"{width} x {height}{notes.get(step, '')}"))
        else:
            why = "no box:\nthe image is the face" if step == "box" else "off in this contract"
            tiles.append((np.full((size, size, 3), 255, np.uint8), why))
    return tiles


def _fitted(image: np.ndarray, size: int) -> np.ndarray:
    """The image in the middle of a white square, its longer side at ``size``; enlarged by repeating pixels."""
    scale = size / max(image.shape[:2])
    high, wide = (max(1, round(side * scale)) for side in image.shape[:2])
    top, left = (size - high) // 2, (size - wide) // 2
    tile = np.full((size, size, 3), 255, np.uint8)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    tile[top : top + high, left : left + wide] = cv2.resize(image, (wide, high), interpolation=method)
    return tile
