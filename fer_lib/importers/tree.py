"""Any tree ``<split>/<class>/*`` of face images (FER2013 re-balanced, AffectNet exports, one's own).

Folders of other classes are excluded and counted; a split folder of another name is an error.
"""

import difflib
from pathlib import Path

from fer_lib.datasets.manifest import SPLIT_NAMES
from fer_lib.emotions import ALIASES, class_id
from fer_lib.errors import DataError
from fer_lib.importers.builder import ImportBuilder, Source
from fer_lib.importers.image_files import image_folders, images_in

OTHER_CLASSES = frozenset(("contempt", "none", "other", "others", "unknown", "nf", "uncertain", "noface"))


def read(builder: ImportBuilder) -> None:
    for folder, split in image_folders(builder, 2, SPLIT_NAMES):
        if split == "all":
            raise DataError(
                f"{builder.name}: unknown split {folder.parent.name!r} in {builder.root}: name the folders there "
                f"one of {', '.join(SPLIT_NAMES)}"
            )
        images = images_in(folder, split, builder)
        if class_id(folder.name) is None:
            exclude_class(folder, split, len(images), builder)
            continue
        for path in images:
            with builder.record():
                builder.add_image(path, split=split, label=folder.name)


def exclude_class(folder: Path, split: str, count: int, builder: ImportBuilder) -> None:
    """Exclude the images of another class, with a warning when the name may be a misspelled class."""
    builder.exclude(split, folder.name, count)
    name = folder.name.strip().lower()
    if name not in OTHER_CLASSES:
        near = difflib.get_close_matches(name, ALIASES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        builder.warnings.append(f"{builder.name}: {folder} is none of the seven classes: {count} images excluded{hint}")


DECLARATIONS = {"tree": Source(read)}
