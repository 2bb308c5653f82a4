"""Writers of the native raw layouts, so that importers meet drawn faces exactly as they meet the real datasets.

A writer takes an empty folder, the records in order and a random generator, and fills in each record's ``record``:
the key under which an import knows it (``row0000000`` in a CSV, ``folder/line/picture`` in a label.csv, a picture's
relative path or its name in a list, ``photo#face``); and in ``extra`` what else the layout says of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fer_lib.emotions import NUM_CLASSES
from fer_lib.synthetic.layouts import folders, grey, lists
from fer_lib.synthetic.layouts.writing import Records


@dataclass(frozen=True)
class Layout:
    """How a layout is written, its face size in pixels, the splits it stores with their shares ("": none), the source
    that reads it, Contempt's share and the class ids that it has."""

    write: Callable[[Path, Records, np.random.Generator], None]
    size: int
    splits: Mapping[str, float]
    source: str
    contempt: float = 0.0
    fixed_size: bool = False
    classes: tuple[int, ...] = tuple(range(NUM_CLASSES))


_SPLITS = {"train": 0.8, "val": 0.1, "test": 0.1}
_TWO = {"train": 0.8, "test": 0.2}
_NONE = {"": 1.0}
LAYOUTS: dict[str, Layout] = {
    "fer2013_csv": Layout(grey.fer2013_csv, 48, _SPLITS, "fer2013", fixed_size=True),
    "fer2013_tree": Layout(grey.fer2013_tree, 48, _SPLITS, "fer2013"),
    "ferplus": Layout(grey.ferplus, 48, _SPLITS, "ferplus", fixed_size=True),
    "ferplus_native": Layout(grey.ferplus_native, 48, _SPLITS, "ferplus"),
    "tree": Layout(folders.tree, 48, _SPLITS, "tree"),
    "affectnet_yolo": Layout(lists.affectnet_yolo, 96, _SPLITS, "affectnet_yolo_format", contempt=0.06),
    "rafdb_basic": Layout(lists.rafdb_basic, 100, _TWO, "rafdb_basic"),
    "rafdb_compound": Layout(
        lists.rafdb_compound, 100, _TWO, "rafdb_compound_mapped", classes=tuple(sorted(lists.COMPOUND))
    ),
    "rafml": Layout(lists.rafml, 100, _TWO, "rafml_argmax", classes=tuple(range(6))),
    "expw": Layout(lists.expw, 80, _NONE, "expw_full"),
    "ckplus": Layout(folders.ckplus, 48, _NONE, "ckplus", contempt=0.05, classes=tuple(range(6))),
    "jaffe": Layout(folders.jaffe, 64, _NONE, "jaffe"),
    "jaffe_folders": Layout(folders.jaffe_folders, 64, _NONE, "jaffe"),
}
