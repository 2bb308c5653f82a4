"""FER2013 (Goodfellow et al. 2013): the tree of JPEGs whose file names carry the official split."""

from __future__ import annotations

import re
from pathlib import Path

from fer_lib.datasets.sources import register
from fer_lib.datasets.sources.base import Draft, relative_to, walk
from fer_lib.emotions import class_id
from fer_lib.errors import DataError
from fer_lib.params import SourceSpec

USAGE = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}
_NAMED = re.compile("|".join(USAGE))


@register("fer2013")
def read(spec: SourceSpec, root: Path, draft: Draft) -> None:
    """The tree ``<any>/<class>/<Usage>_*``."""
    if not root.is_dir():
        raise DataError(f"{draft.name}: {root} is not a folder")
    _read_tree(root, draft)


def _read_tree(root: Path, draft: Draft) -> None:
    draft.layout = "fer2013_tree"
    for _, folder, pictures in walk(root, draft):
        label = class_id(folder)
        if label is not None and not pictures:
            raise DataError(f"{draft.name}: the class folder {folder} under {root} holds no picture")
        for path in pictures:
            usage = _NAMED.search(path.name)
            if usage is None:
                draft.problem("no Training, PublicTest or PrivateTest in the file name", str(path))
                continue
            split = USAGE[usage.group()]
            if label is None:
                draft.exclude(split, folder)
                continue
            relative = relative_to(root, path)
            draft.add_file(path, relative, record=relative, split=split, label=label)
