"""What RAF-DB and RAF-ML share: aligned and original images, and files with gender, race and age."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fer_lib.importers.builder import ImportBuilder

_IMAGES = (  # the first that exists is the row's image
    "Image/aligned/aligned/{stem}_aligned.jpg",
    "Image/aligned/{stem}_aligned.jpg",
    "Image/original/original/{name}",
    "Image/original/{name}",
)
_MANUAL = "Annotation/manual"
_ATTRIBUTES = {  # manifest column -> RAF-DB's 0, 1, ..., in the order of the attribute file's last three lines
    "group_gender": ("male", "female", "unsure"),
    "group_race": ("Caucasian", "African-American", "Asian"),
    "group_age": ("0-3", "4-19", "20-39", "40-69", "70+"),
}
# five landmarks, then one attribute per line
_LINE = r"[^\S\n]*\n\s*"
_ATTRIBUTE_FILE = re.compile(rf"\s*(?:\S+[^\S\n]+\S+{_LINE}){{5}}([0-2]){_LINE}([0-2]){_LINE}([0-4])\s*")


def add_listed(name: str, folder: Path, builder: ImportBuilder, **columns: Any) -> None:
    """Add a row with the record ``name``: its aligned image where that exists, else the original."""
    places = [place.format(stem=Path(name).stem, name=name) for place in _IMAGES]
    place = next((place for place in places if (folder / place).is_file()), places[-1])
    builder.add_image(folder / place, place, record=name, **columns)


def note_originals(builder: ImportBuilder) -> None:
    """Note how many rows are not of an aligned image."""
    if originals := sum("/images/Image/original/" in row["image_path"] for row in builder.rows):
        builder.notes.append(f"{originals} images exist as originals only, not aligned")


def read_attributes(name: str, folder: Path, builder: ImportBuilder) -> dict[str, str]:
    """Column -> gender, race or age from ``<stem>_manu_attri.txt``; {} without the file, and for a bad record."""
    paths = [folder / place / f"{Path(name).stem}_manu_attri.txt" for place in (f"{_MANUAL}/manual", _MANUAL)]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return {}
    match = _ATTRIBUTE_FILE.fullmatch(path.read_text(encoding="utf-8", errors="replace"))
    if match is None:
        builder.add_bad("wrong attributes", f"{path}: not five landmarks, then gender 0-2, race 0-2 and age 0-4")
        return {}
    return {name: values[int(code)] for (name, values), code in zip(_ATTRIBUTES.items(), match.groups(), strict=True)}


def note_attributes(folder: Path, builder: ImportBuilder) -> None:
    """Report how many rows have gender, race and age, if ``folder`` has files with them."""
    if (folder / _MANUAL).is_dir():
        count = sum(row.keys() >= _ATTRIBUTES.keys() for row in builder.rows)
        missing = len(builder.rows) - count
        builder.details["attributes"] = {"rows": count, "rows_without": missing}
        if missing:
            builder.notes.append(f"{missing} images have no gender, race and age in {_MANUAL}")
