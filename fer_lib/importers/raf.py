"""What the RAF sets share: where their lists and pictures lie, and reading names with labels."""

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


def label_folder(root: Path, files: tuple[str, ...], names: tuple[str, ...], draft: ImportBuilder) -> Path:
    """The RAF folder, ``root`` or the first of the folders ``names`` in it, whose ``EmoLabel`` holds ``files``."""
    for folder in (root, *(root / name for name in names)):
        if all((folder / "EmoLabel" / name).is_file() for name in files):
            return folder
    raise DataError(f"{draft.name}: {root} has no {' and '.join(f'EmoLabel/{name}' for name in files)}: check root")


def import_rafdb(folder: Path, label_of: Callable[[int], int], most: int, draft: ImportBuilder) -> None:
    """Rows of a RAF-DB list: ``label_of`` turns 1..``most`` into class ids, the name's prefix is the split."""
    pictures = Pictures(folder)
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
            pictures.add(name, draft, split=split, label=label_of(number))
    pictures.tell(draft)


def highest_label(folder: Path) -> int:
    """The largest label number of a RAF-DB list that is a whole number at all; 0 when there is none."""
    path = folder / "EmoLabel" / LABELS
    with readable(path):
        lines = [line.split() for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines()]
    return max((whole(words[-1], range(100)) or 0 for words in lines if words), default=0)
