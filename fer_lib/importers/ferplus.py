"""FERPlus (Barsoum et al. 2016).  The first of these that exists is read:

1. ``fer2013new.csv`` (``root`` or in it) with the images ``images``, by default ``fer2013.csv`` beside it; an image
   tree is joined by ``image_map``;
2. ``[data/]FER2013{Train,Valid,Test}/label.csv`` with the PNGs beside it;
3. a tree ``<split>/<class>/*``, whose folders are the labels.
"""

from fer_lib.errors import DataError
from fer_lib.importers import tree
from fer_lib.importers.builder import ImportBuilder, Source
from fer_lib.importers.pixel_rows import add_pixel_rows
from fer_lib.importers.votes import add_native_votes, add_voted_images, read_votes
from fer_lib.storage.paths import external

NATIVE = {"FER2013Train": "train", "FER2013Valid": "val", "FER2013Test": "test"}


def read(builder: ImportBuilder) -> None:
    root, images = builder.root, builder.spec.images
    file = root if root.is_file() else root / "fer2013new.csv"
    images = external(images) if images else file.parent / "fer2013.csv"
    pixels = images / "fer2013.csv" if images.is_dir() else images
    native = [f for name in NATIVE for f in (root / name, root / "data" / name) if (f / "label.csv").is_file()]
    if file.is_file() and pixels.is_file():
        builder.layout = "ferplus_csv"
        add_pixel_rows(pixels, read_votes(file, builder), builder, voted_labels=True)
    elif file.is_file() and images.is_dir():
        builder.layout = "ferplus_tree_map"
        add_voted_images(images, read_votes(file, builder), builder)
    elif any(next(folder.glob("*.png"), None) for folder in native):
        builder.layout = "ferplus_native"
        for folder in native:
            add_native_votes(folder, NATIVE[folder.name], builder)
    elif file.is_file() or native:
        raise DataError(
            f"{builder.name}: {root} holds votes but no images: set images to FER2013's fer2013.csv, or to its image "
            "tree together with image_map"
        )
    else:
        builder.layout = "tree"
        tree.read(builder)


DECLARATIONS = {"ferplus": Source(read, ("images", "image_map", "rule"))}
