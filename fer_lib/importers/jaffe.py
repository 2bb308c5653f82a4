"""JAFFE (Lyons et al. 1998): ``KA.AN1.39.tiff``, in class folders or, as the original ships, in one folder.

The person is the two letters before the first dot; the split goes by person.  The label is the class folder's, which
must agree with the code in the name (AN: angry); without class folders it is the code's.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from fer_lib.emotions import EMOTIONS, class_id
from fer_lib.importers.builder import BadRecord, ImportBuilder, Source
from fer_lib.importers.image_files import class_folders, entries, images_in
from fer_lib.importers.subject_splits import OPTIONS, add_by_subject

CODES = dict(zip(("AN", "DI", "FE", "HA", "SA", "SU", "NE"), range(len(EMOTIONS)), strict=True))
NAME = re.compile(r"(?P<subject>[A-Z]{2})\.(?P<code>[A-Z]{2})\d+\.\d+\.\w+\Z")


def read(builder: ImportBuilder) -> None:
    root = builder.root
    flat = root.is_dir() and not any(class_id(folder.name) is not None for folder in entries(root)[0])
    add_by_subject(flat_images(builder) if flat else folder_images(builder), NAME, builder)


def folder_images(builder: ImportBuilder) -> Iterator[tuple[Path, int]]:
    for path, label in class_folders(builder):
        with builder.record():
            match = NAME.match(path.name)
            if match and CODES.get(match["code"]) != label:
                raise BadRecord("folder and file name disagree", f"{path}: the folder says {EMOTIONS[label]}")
            yield path, label


def flat_images(builder: ImportBuilder) -> Iterator[tuple[Path, int]]:
    for path in images_in(builder.root, "all", builder):
        with builder.record():
            match = NAME.match(path.name)
            if match is None or match["code"] not in CODES:
                raise BadRecord("no JAFFE file name", f"{path}: expected one like KA.AN1.39.tiff")
            yield path, CODES[match["code"]]


DECLARATIONS = {"jaffe": Source(read, OPTIONS)}
