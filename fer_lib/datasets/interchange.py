"""Interchange CSVs: a manifest for other tools, which ``fer_lib.importers.csv_import`` reads back.

The short form has ``image_path,label,split,source``; the full form adds ``confidence,orig_image,face_id`` and the box.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import pandas as pd

from fer_lib.datasets.manifest import BOX, Manifest
from fer_lib.errors import DataError
from fer_lib.storage.atomic import fresh_file

SHORT = ("image_path", "label", "split", "source")
NUMBERS = ("confidence", "bbox_top", "bbox_left", "bbox_right", "bbox_bottom")
FULL = (*SHORT, "confidence", "orig_image", "face_id", *NUMBERS[1:])
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_QUOTED = re.compile(r"'+[=+\-@\t\r]")


def write_csv(manifest: Manifest, path: Path, form: Literal["short", "full"] = "full") -> Path:
    """Write the manifest's rows in their order, labels as class ids, atomically.

    A text that a spreadsheet would run as a formula (it begins with = + - @, tab or return) gets a leading ', which
    :func:`unescape_formula` removes.  Numbers stay numbers.  Raises :class:`DataError` when boxes would be lost.
    """
    frame, path = manifest.frame, Path(path)
    if form == "short" and BOX[0] in frame:
        raise DataError(f"{path}: rows with a box need the full form: the short one has no columns for it")
    cells = frame.reindex(columns=SHORT if form == "short" else FULL)
    for name in cells.columns.difference(("label", *NUMBERS)):
        cells[name] = cells[name].map(escape_formula, na_action="ignore")
    with fresh_file(path) as work:
        cells.to_csv(work, index=False, lineterminator="\r\n")  # RFC 4180; a lone return in a cell is then quoted
    return path


def unwritten_columns(manifest: Manifest, form: Literal["short", "full"] = "full") -> list[str]:
    """The columns with values that the CSV has no place for."""
    written = {"sample_id", "content_id", "record", *(SHORT if form == "short" else FULL)}  # ids are made again
    rest = manifest.frame.drop(columns=[c for c in manifest.frame if c in written])
    filled = rest.replace("", None).notna().any()
    return sorted(filled.index[filled])


def escape_formula(text: str) -> str:
    """``text`` with a leading ' where a spreadsheet would run it or :func:`unescape_formula` would remove one."""
    return f"'{text}" if _FORMULA.match(text) else text


def unescape_formula(text: str) -> str:
    """The inverse of :func:`escape_formula`."""
    return text[1:] if _QUOTED.match(text) else text


def spreadsheet_safe(table: pd.DataFrame) -> pd.DataFrame:
    """``table`` without texts that a spreadsheet would run as formulas.  Ids and class names never are such texts."""
    texts = [name for name in ("source", "record", "image_path") if name in table]
    return table.assign(**{name: table[name].map(lambda text: escape_formula(str(text))) for name in texts})
