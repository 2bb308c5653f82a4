"""JAFFE (Lyons et al. 1998): ``KA.AN1.39.tiff``, in class folders or, as the original ships, in one folder.

The person is the two letters before the first dot; the split goes by person.  The label is the class folder's, which
must agree with the code in the name (AN: angry); without class folders it is the code's.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from fer_lib.emotions import EMOTIONS, class_id
from fer_lib.importers.builder import BadRecord, ImportBuilder, Source
from fer_lib.importers.image_files import class_images, entries, images_in
from fer_lib.importers.subject_splits import OPTIONS, add_by_subject

CODES = dict(zip(("AN", "DI", "FE", "HA", "SA", "SU", "NE"), range(len(EMOTIONS)), strict=True))
NAME = re.compile(r"(?P<subject>[A-Z]{2})\.(?P<code>[A-Z]{2})\d+\.\d+\.\w+\Z")


def read(builder: ImportBuilder) -> None:
    root = builder.root
    flat = root.is_dir() and not any(class_id(folder.name) is not None for folder in entries(root)[0])
    images = ((path, None) for path in images_in(root, "all", builder)) if flat else class_images(builder)
    add_by_subject(labelled(images, builder), NAME, builder)


def labelled(images: Iterable[tuple[Path, int | None]], builder: ImportBuilder) -> Iterator[tuple[Path, int]]:
    """(image, class id) of (image, class id of its folder, if any)."""
    for path, of_folder in images:
        with builder.record():
            match = NAME.match(path.name)
            of_name = CODES.get(match["code"]) if match else None
            if of_folder is None and of_name is None:
                raise BadRecord("no JAFFE file name", f"{path}: expected one like KA.AN1.39.tiff")
            if of_folder is not None and match and of_name != of_folder:
                raise BadRecord("folder and file name disagree", f"{path}: the folder says {EMOTIONS[of_folder]}")
            yield path, of_name if of_folder is None else of_folder


DECLARATIONS = {"jaffe": Source(read, OPTIONS)}
