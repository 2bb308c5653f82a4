"""Any tree ``<split>/<class>/*`` of face pictures (FER2013 re-balanced, AffectNet exports, one's own)."""

from __future__ import annotations

import difflib
from pathlib import Path

from fer_lib.emotions import ALIASES, class_id
from fer_lib.errors import DataError
from fer_lib.importers import register
from fer_lib.importers.base import ImportBuilder
from fer_lib.importers.image_files import relative_to, walk
from fer_lib.params import SourceSpec

SPLIT_NAMES = {"train": "train", "test": "test", "val": "val", "valid": "val", "validation": "val"}
_KNOWN_OTHERS = frozenset(("contempt", "none", "other", "others", "unknown", "nf", "uncertain", "noface"))


@register("tree")
def read(spec: SourceSpec, root: Path, draft: ImportBuilder) -> None:
    """Folders that are none of the seven classes are excluded and counted; a split of another name is an error."""
    draft.layout = "tree"
    if not root.is_dir():
        raise DataError(f"{draft.name}: {root} is a file; this layout wants the folder that holds train, val and test")
    for top, folder, pictures in walk(root, draft, lambda top: SPLIT_NAMES.get(top.lower(), "all")):
        split = SPLIT_NAMES.get(top.lower())
        if split is None:
            raise DataError(
                f"{draft.name}: unknown split {top!r} in {root}: folders there must be {', '.join(SPLIT_NAMES)}"
            )
        label = class_id(folder)
        if label is None:
            _leave_out(root / top / folder, split, len(pictures), draft)
            continue
        if not pictures:
            raise DataError(
                f"{draft.name}: the class folder {root / top / folder} holds no picture that is read: fill or remove it"
                + "".join(f"\n  {warning}" for warning in draft.warnings)
            )
        for path in pictures:
            relative = relative_to(root, path)
            draft.add_file(path, relative, record=relative, split=split, label=label)


def _leave_out(folder: Path, split: str, count: int, draft: ImportBuilder) -> None:
    draft.exclude(split, folder.name, count)
    plain = folder.name.strip().lower()
    if plain not in _KNOWN_OTHERS:
        near = difflib.get_close_matches(plain, ALIASES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        draft.warnings.append(f"{draft.name}: {folder} is none of the seven classes: {count} pictures excluded{hint}")
