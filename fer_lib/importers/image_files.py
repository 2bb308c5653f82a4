"""Walks folders of images; every image in a raw tree is taken, or excluded, counted and warned of."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from fer_lib.emotions import class_id
from fer_lib.errors import DataError
from fer_lib.importers.builder import ImportBuilder

IMAGE_SUFFIXES = frozenset(".jpg .jpeg .jpe .jfif .png .bmp .webp .tif .tiff .gif .ppm .pgm".split())
NOT_READ = "in a place or format that is not read"  # in the report: images that are excluded
_OTHER_SUFFIXES = frozenset(
    ".heic .heif .avif .jp2 .j2k .jxl .tga .psd .svg .ico .exr .hdr .dng .cr2 .nef .arw".split()
)


def find_folder(builder: ImportBuilder, files: Sequence[str], folders: Iterable[str] = ("",)) -> Path:
    """The first of ``folders`` below the root that has all of ``files``; :class:`DataError` when none has."""
    for folder in map(builder.root.joinpath, folders):
        if all((folder / name).is_file() for name in files):
            return folder
    raise DataError(
        f"{builder.name}: {builder.root} has no {' and '.join(files)}: root must be the folder that holds the dataset"
    )


def image_folders(
    builder: ImportBuilder, depth: int, splits: Mapping[str, str] = {}, root: Path | None = None
) -> list[tuple[Path, str]]:
    """(folder, split) of the folders ``depth`` levels below the root by name; images above them are excluded.

    ``splits``: lower-case name of a folder in the root -> split; other folders are in ``all``.
    """
    level = [(root or builder.root, "all")]
    for number in range(depth):
        above, level = level, []
        for top, split in above:
            folders, files = entries(top)
            exclude_images(files, top, split, builder)
            level += [(path, split if number else splits.get(path.name.lower(), "all")) for path in folders]
    return level


def class_images(builder: ImportBuilder) -> Iterator[tuple[Path, int]]:
    """(image, class id) of ``<root>/<class>/*`` by name; folders of other classes are excluded under ``all``."""
    for folder, split in image_folders(builder, 1):
        images, label = images_in(folder, split, builder), class_id(folder.name)
        if label is None:
            builder.exclude(split, folder.name, len(images))
        else:
            yield from ((path, label) for path in images)


def images_in(folder: Path, split: str, builder: ImportBuilder) -> list[Path]:
    """The images in a folder by name; images in its sub-folders, and in formats that are not read, are excluded.

    Raises :class:`DataError` for a folder of a class without an image.
    """
    folders, files = entries(folder)
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    others = [path for path in files if path.suffix.lower() not in IMAGE_SUFFIXES]
    exclude_images([*others, *(path for inner in folders for path in files_below(inner))], folder, split, builder)
    if not images and class_id(folder.name) is not None:
        warnings = "".join(f"\n  {warning}" for warning in builder.warnings)
        raise DataError(f"{builder.name}: {folder} holds no image that is read: fill or remove it{warnings}")
    return images


def exclude_images(files: Iterable[Path], folder: Path, split: str, builder: ImportBuilder) -> None:
    """Exclude the images among ``files`` of ``folder`` that the layout does not read; count others as ignored."""
    files = list(files)
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES | _OTHER_SUFFIXES]
    builder.ignored_files += len(files) - len(images)
    if images:
        builder.exclude(split, NOT_READ, len(images))
        builder.warnings.append(
            f"{builder.name}: {len(images)} images in {folder} are not read, such as {images[0]}: put them where this "
            f"source reads images, as one of {' '.join(sorted(IMAGE_SUFFIXES))}"
        )


def entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """Sub-folders and files by name, without hidden entries and the Mac's ``__MACOSX``."""
    if folder.is_file():
        raise DataError(f"{folder} is a file; root must be the folder that holds the dataset")
    _, *both = next(os.walk(folder, onerror=_fail))  # unlike scandir, it survives a link to itself
    folders, files = ([folder / n for n in sorted(names) if n[0] != "." and n != "__MACOSX"] for names in both)
    return folders, files


def _fail(error: OSError) -> None:
    raise error


def files_below(folder: Path) -> Iterator[Path]:
    """Every file below ``folder`` but hidden ones; links to folders are not followed."""
    folders, files = entries(folder)
    yield from files
    for inner in folders:
        if not inner.is_symlink():
            yield from files_below(inner)
