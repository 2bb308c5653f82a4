"""JAFFE (Lyons et al. 1998): ``KA.AN1.39.tiff``, in class folders or, as the original ships, in one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from fer_lib.emotions import EMOTIONS, class_id
from fer_lib.importers import register
from fer_lib.importers.base import ImportBuilder
from fer_lib.importers.image_files import entries, pictures_of
from fer_lib.importers.subjects import class_folders, import_by_subject, shots
from fer_lib.params import SourceSpec

CODES = dict(zip(("AN", "DI", "FE", "HA", "SA", "SU", "NE"), range(len(EMOTIONS)), strict=True))
_NAME = re.compile(r"(?P<subject>[A-Z]{2})\.(?P<code>[A-Z]{2})\d+\.\d+\.\w+")


@register("jaffe", reads=("split_seed", "split_fracs"))
def read(spec: SourceSpec, root: Path, draft: ImportBuilder) -> None:
    """The person is the two letters before the first dot (four characters would hold the expression's first letter).

    The label is the folder's, which must agree with the name's code; without class folders it is the code's.
    """
    draft.layout = "jaffe"
    in_folders = root.is_dir() and any(class_id(folder.name) is not None for folder in entries(root)[0])
    found = _checked(root, draft) if in_folders or not root.is_dir() else _flat(root, draft)
    import_by_subject(shots(found, _subject, draft), root, spec, draft)


def _subject(name: str) -> str | None:
    match = _NAME.fullmatch(name)
    return match["subject"] if match else None


def _code(path: Path) -> int | None:
    match = _NAME.fullmatch(path.name)
    return CODES.get(match["code"]) if match else None


def _checked(root: Path, draft: ImportBuilder) -> Iterator[tuple[Path, int]]:
    for path, label in class_folders(root, draft):
        if _subject(path.name) and _code(path) != label:
            draft.problem("folder and file name disagree", f"{path}: the folder says {EMOTIONS[label]}")
        else:
            yield path, label


def _flat(root: Path, draft: ImportBuilder) -> Iterator[tuple[Path, int]]:
    for path in pictures_of(root, "all", draft):
        label = _code(path)
        if label is None:
            draft.problem("no JAFFE file name", f"{path}: expected one like KA.AN1.39.tiff")
        else:
            yield path, label
