"""Any tree ``<split>/<class>/*`` of face images (FER2013 re-balanced, AffectNet exports, one's own).

Folders of other classes are excluded and counted; a split folder of another name is an error.
"""

from fer_lib.datasets.manifest import SPLIT_NAMES
from fer_lib.emotions import ALIASES, class_id
from fer_lib.errors import DataError
from fer_lib.importers.builder import ImportBuilder, Source
from fer_lib.importers.image_files import image_folders, images_in
from fer_lib.params.strict import closest

OTHER_CLASSES = frozenset(("contempt", "none", "other", "others", "unknown", "nf", "uncertain", "noface"))


def read(builder: ImportBuilder) -> None:
    for folder, split in image_folders(builder, 2, SPLIT_NAMES):
        if split == "all":
            raise DataError(
                f"{builder.name}: unknown split {folder.parent.name!r} in {builder.root}: name the folders there "
                f"one of {', '.join(SPLIT_NAMES)}"
            )
        images, name = images_in(folder, split, builder), folder.name.strip().lower()
        if class_id(name) is None and name not in OTHER_CLASSES:
            text = f"{builder.name}: {folder} is none of the seven classes: {len(images)} images excluded"
            builder.warnings.append(text + closest(name, ALIASES))
        for path in images:
            with builder.record():
                builder.add_image(path, split=split, label=folder.name)


DECLARATIONS = {"tree": Source(read)}
