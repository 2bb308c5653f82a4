"""``fer2013.csv`` (Goodfellow et al. 2013): one face per row as 48 x 48 numbers, alone or with FERPlus' votes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from fer_lib.datasets.manifest import content_id
from fer_lib.emotions import EMOTIONS, NUM_CLASSES
from fer_lib.errors import DataError
from fer_lib.importers.builder import BadRecord, ImportBuilder
from fer_lib.importers.text_files import csv_rows, whole_number
from fer_lib.importers.votes import USAGE, Votes, known_usage, label_votes

SIDE = 48


def add_pixel_rows(path: Path, votes: Votes | None, builder: ImportBuilder, voted_labels: bool = False) -> None:
    """Add the rows as lossless PNGs; row ``i`` of ``votes`` belongs to row ``i`` of the CSV.

    ``voted_labels``: the label is that of the votes.  Raises :class:`DataError` when the votes are those of other rows.
    """
    count = 0
    for row, where, fields in csv_rows(path, ("emotion", "pixels", "Usage"), builder):
        count, vote, columns = row + 1, None, {}
        if votes:
            if count > len(votes.rows):
                break
            vote = votes.rows[row]
        with builder.record(where):
            if fields is None or (voted_labels and not vote.usage):  # a bad record already
                continue
            usage, label = known_usage(fields["Usage"]), whole_number(fields["emotion"], range(NUM_CLASSES))
            if vote:
                if vote.usage not in ("", usage):
                    raise DataError(f"{where}: Usage {usage}, but {vote.where} says {vote.usage}: rows do not match")
                voted, columns = label_votes(vote.counts, builder.spec.rule)
                label = voted if voted_labels else label
            split, name = USAGE[usage], f"row{row:07d}"
            if (label := builder.wanted(split, label)) is not None:
                pixels = parse_pixels(fields["pixels"])
                png, content = cv2.imencode(".png", pixels)[1].tobytes(), content_id(pixels.tobytes())
                file = f"{split}/{EMOTIONS[label]}/{name}.png"
                builder.add_image(png, file, record=name, split=split, label=label, content=content, **columns)
    if votes and count != len(votes.rows):
        rows = "more" if count > len(votes.rows) else count
        raise DataError(f"{votes.path} has {len(votes.rows)} rows, {path} has {rows}: use the files of one dataset")


def parse_pixels(text: str) -> np.ndarray:
    """The pixels uint8 [48, 48] written in a row; BadRecord for a wrong one."""
    try:
        values = np.fromstring(text, np.int64, sep=" ")
    except ValueError:  # a word that is no whole number
        values = np.empty(0)
    if values.size == SIDE * SIDE and values.min() >= 0 and values.max() <= 255:
        return values.astype(np.uint8).reshape(SIDE, SIDE)
    raise BadRecord("wrong pixels", f"{len(text.split())} words, not {SIDE * SIDE} whole numbers 0..255 and spaces")
