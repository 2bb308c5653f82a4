"""Walks folders of images; every image in a raw tree is taken, or excluded and counted with the reason."""

from __future__ import annotations

import io
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from PIL import Image

from fer_lib.emotions import class_id
from fer_lib.errors import DataError
from fer_lib.faces.decode import FORMATS
from fer_lib.importers.builder import ImportBuilder

IMAGE_SUFFIXES = frozenset(".jpg .jpeg .jpe .jfif .png .bmp .webp .tif .tiff .gif .ppm .pgm".split())
_OTHER_SUFFIXES = frozenset(
    ".heic .heif .avif .jp2 .j2k .jxl .tga .psd .svg .ico .exr .hdr .dng .cr2 .nef .arw".split()
)
_HEADER_BYTES = 4096


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
            exclude_images(files, split, "in no class folder" if number else f"loose in {top.name}", builder)
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
    """The images in a folder by name; images in its sub-folders, and in formats that are not read, are excluded."""
    folders, files = entries(folder)
    for inner in folders:
        exclude_below(inner, split, builder)
    others = defaultdict(list)
    for path in files:
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            others[path.suffix.lower() or "(none)"].append(path)
    for suffix, paths in others.items():
        advice = f"; save them as one of {' '.join(sorted(IMAGE_SUFFIXES))}"
        exclude_images(paths, split, f"{folder.name}: suffix {suffix} is not read", builder, advice)
    return [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]


def exclude_below(folder: Path, split: str, builder: ImportBuilder, reason: str = "a folder in a class folder") -> None:
    """Exclude every image below ``folder``, which the layout does not read."""
    exclude_images(files_below(folder), split, f"{folder.parent.name}/{folder.name}: {reason}", builder)


def exclude_images(files: Iterable[Path], split: str, reason: str, builder: ImportBuilder, advice: str = "") -> None:
    """Exclude the images among ``files``, by suffix or first bytes, with a warning; count other files as ignored."""
    files = list(files)
    images = [path for path in files if is_image(path)]
    builder.ignored_files += len(files) - len(images)
    if images:
        builder.exclude(split, reason, len(images))
        builder.warnings.append(f"{builder.name}: {len(images)} images excluded ({reason}): {images[0]} ...{advice}")


def is_image(path: Path) -> bool:
    """Whether a file is an image, by its suffix (also one that is not read) or its first bytes."""
    if path.suffix.lower() in IMAGE_SUFFIXES | _OTHER_SUFFIXES:
        return True
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        header = file.read(_HEADER_BYTES)
    try:
        with Image.open(io.BytesIO(header), formats=FORMATS):
            return True
    except Exception:  # Pillow's readers raise almost anything on other files
        return False


def entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """Sub-folders and files by name, without hidden entries and the Mac's ``__MACOSX``."""
    if folder.is_file():
        raise DataError(f"{folder} is a file; root must be the folder that holds the dataset")
    with os.scandir(folder) as scan:
        names = sorted((e.name, _is_folder(e)) for e in scan if not e.name.startswith(".") and e.name != "__MACOSX")
    return [folder / n for n, is_dir in names if is_dir], [folder / n for n, is_dir in names if not is_dir]


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def files_below(folder: Path) -> Iterator[Path]:
    """Every file below ``folder`` but hidden ones; links to folders are not followed."""
    folders, files = entries(folder)
    yield from files
    for inner in folders:
        if not inner.is_symlink():
            yield from files_below(inner)
