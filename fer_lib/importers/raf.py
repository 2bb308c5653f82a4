"""What the RAF sets share: where lists, pictures and attributes lie, and reading names with labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fer_lib.errors import DataError
from fer_lib.importers.base import ImportBuilder
from fer_lib.importers.image_files import relative_to
from fer_lib.importers.lists import listed, plain, whole
from fer_lib.storage.atomic import readable

LABELS = "list_patition_label.txt"  # as RAF-DB spells it
_PREFIXES = ("train", "test")
_ALIGNED = ("Image/aligned/aligned", "Image/aligned")
_ORIGINAL = ("Image/original/original", "Image/original")
_MANUAL = ("Annotation/manual/manual", "Annotation/manual")
_ATTRIBUTES = {  # manifest column -> what RAF-DB's numbers 0, 1, ... mean, in the order of the file's last three lines
    "group_gender": ("male", "female", "unsure"),
    "group_race": ("Caucasian", "African-American", "Asian"),
    "group_age": ("0-3", "4-19", "20-39", "40-69", "70+"),
}
_ATTRIBUTE_LINES = [2] * 5 + [1] * len(_ATTRIBUTES)  # numbers on each line: five landmarks, then the attributes


@dataclass
class Pictures:
    """Finds the pictures under ``root``: the aligned one of a name where there is one, else the original."""

    root: Path
    originals: int = 0

    def find(self, name: str) -> Path:
        """The picture of ``name``; where there is none, the path at which the original was looked for last."""
        aligned = Path(name).stem + "_aligned.jpg"
        for folder in _ALIGNED:
            if (self.root / folder / aligned).is_file():
                return self.root / folder / aligned
        paths = [self.root / folder / name for folder in _ORIGINAL]
        found = next((path for path in paths if path.is_file()), None)
        self.originals += found is not None
        return found or paths[-1]

    def add(self, name: str, draft: ImportBuilder, **columns) -> None:
        """One row for ``name``, which is also its record."""
        path = self.find(name)
        draft.add_file(path, relative_to(self.root, path), record=name, **columns)

    def tell(self, draft: ImportBuilder) -> None:
        if self.originals:
            draft.notes.append(f"{self.originals} pictures are there as originals only, not aligned")


class Attributes:
    """RAF-DB's gender, race and age of a face, from ``Annotation/manual/<stem>_manu_attri.txt`` where that is there."""

    def __init__(self, root: Path):
        self.folder = next((root / name for name in _MANUAL if (root / name).is_dir()), None)

    def find(self, name: str, draft: ImportBuilder) -> dict[str, str]:
        """Column -> value; empty where the name has no file, and where that is not as it should be (a problem)."""
        path = self.folder and self.folder / f"{Path(name).stem}_manu_attri.txt"
        if path is None or not path.is_file():
            return {}
        with readable(path):
            text = path.read_text(encoding="utf-8", errors="replace")
        lines = [words for words in map(str.split, text.splitlines()) if words]
        texts = [words[0] for words in lines[-len(_ATTRIBUTES) :]]
        found = [whole(text, range(len(values))) for text, values in zip(texts, _ATTRIBUTES.values(), strict=False)]
        if [len(words) for words in lines] != _ATTRIBUTE_LINES or None in found:
            draft.problem("wrong attributes", f"{path}: not five landmarks, then gender 0-2, race 0-2 and age 0-4")
            return {}
        return {column: _ATTRIBUTES[column][number] for column, number in zip(_ATTRIBUTES, found, strict=True)}

    def tell(self, draft: ImportBuilder) -> None:
        """Count the rows with and without attributes in the report, where the folder of the files is there."""
        if self.folder is None:
            return
        known = sum(row.keys() >= _ATTRIBUTES.keys() for row in draft.rows)
        draft.details["attributes"] = {"rows": known, "rows_without": len(draft.rows) - known}
        if known < len(draft.rows):
            draft.notes.append(f"{len(draft.rows) - known} pictures have no gender, race and age in Annotation/manual")


def label_folder(root: Path, files: tuple[str, ...], names: tuple[str, ...], draft: ImportBuilder) -> Path:
    """The RAF folder, ``root`` or the first of the folders ``names`` in it, whose ``EmoLabel`` holds ``files``."""
    for folder in (root, *(root / name for name in names)):
        if all((folder / "EmoLabel" / name).is_file() for name in files):
            return folder
    raise DataError(f"{draft.name}: {root} has no {' and '.join(f'EmoLabel/{name}' for name in files)}: check root")


def import_rafdb(folder: Path, label_of: Callable[[int], int], most: int, draft: ImportBuilder) -> None:
    """Rows of a RAF-DB list: ``label_of`` turns 1..``most`` into class ids, the name's prefix is the split."""
    pictures, attributes = Pictures(folder), Attributes(folder)
    for where, (name, text) in listed(folder / "EmoLabel" / LABELS, 2, draft):
        number = whole(text, range(1, most + 1))
        split = name.partition("_")[0]
        if not plain(name, where, draft):
            continue
        if number is None:
            draft.problem("label out of range", f"{where}: {text!r} is not 1..{most}")
        elif split not in _PREFIXES:
            draft.problem("neither train_ nor test_ in the file name", f"{where}: {name!r}")
        else:
            pictures.add(name, draft, split=split, label=label_of(number), **attributes.find(name, draft))
    pictures.tell(draft)
    attributes.tell(draft)


def highest_label(folder: Path) -> int:
    """The largest label number of a RAF-DB list that is a whole number at all; 0 when there is none."""
    path = folder / "EmoLabel" / LABELS
    with readable(path):
        lines = [line.split() for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines()]
    return max((whole(words[-1], range(100)) or 0 for words in lines if words), default=0)
