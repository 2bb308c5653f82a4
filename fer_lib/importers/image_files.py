"""Walks folders of images; every image in a raw tree is taken, or excluded and counted with the reason."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
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


def split_class_folders(
    builder: ImportBuilder, split_of: Callable[[str], str] = lambda top: "all"
) -> Iterator[tuple[str, str, list[Path]]]:
    """(top folder, class folder, its images) of ``<root>/<top>/<class>/*`` in name order.

    Images elsewhere in the tree, or in a format that is not read, are excluded under the split ``split_of(top)``.
    """
    tops, files = entries(builder.root)
    exclude_loose(files, "all", f"loose in {builder.root.name}", builder)
    for top in tops:
        split = split_of(top.name)
        classes, files = entries(top)
        exclude_loose(files, split, "in no class folder", builder)
        for folder in classes:
            yield top.name, folder.name, images_in(folder, split, builder)


def class_folders(builder: ImportBuilder) -> Iterator[tuple[Path, int]]:
    """(image, class id) of ``<root>/<class>/*`` by name; folders of other classes are excluded under ``all``."""
    require_folder(builder, "the class folders")
    folders, files = entries(builder.root)
    exclude_loose(files, "all", f"loose in {builder.root.name}", builder)
    for folder in folders:
        images = images_in(folder, "all", builder)
        label = class_id(folder.name)
        if label is None:
            builder.exclude("all", folder.name, len(images))
        else:
            yield from ((path, label) for path in images)


def require_folder(builder: ImportBuilder, content: str) -> None:
    """Raise :class:`DataError` when the root is a file, not the folder that holds ``content``."""
    if not builder.root.is_dir():
        raise DataError(f"{builder.name}: {builder.root} is a file; root must be the folder that holds {content}")


def images_in(folder: Path, split: str, builder: ImportBuilder) -> list[Path]:
    """The images in a folder by name; images in its sub-folders, and in formats that are not read, are excluded."""
    folders, files = entries(folder)
    for inner in folders:
        exclude_below(inner, split, builder)
    others = [path for path in files if path.suffix.lower() not in IMAGE_SUFFIXES]
    unread = ignore_others(others, builder)
    for path in unread:
        builder.exclude(split, f"{folder.name}: suffix {path.suffix.lower() or '(none)'} is not read")
    if unread:
        builder.warnings.append(
            f"{builder.name}: {len(unread)} images in {folder} have a suffix that is not read, {unread[0].name} ...: "
            f"save them as one of {' '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]


def exclude_below(folder: Path, split: str, builder: ImportBuilder, reason: str = "a folder in a class folder") -> None:
    """Exclude every image below ``folder``, which the layout does not read."""
    images = ignore_others(files_below(folder), builder)
    if images:
        builder.exclude(split, f"{folder.parent.name}/{folder.name}: {reason}", len(images))
    builder.warnings.append(f"{builder.name}: {folder} is not read, {reason}: {len(images)} images in it excluded")


def exclude_loose(files: list[Path], split: str, reason: str, builder: ImportBuilder) -> None:
    """Exclude the images among ``files``, which lie where the layout has folders."""
    if images := ignore_others(files, builder):
        builder.exclude(split, reason, len(images))
        builder.warnings.append(
            f"{builder.name}: {len(images)} images in {files[0].parent} are in no class folder: excluded, "
            f"{images[0].name} ..."
        )


def ignore_others(files: Iterable[Path], builder: ImportBuilder) -> list[Path]:
    """The images among ``files``, by suffix or first bytes; all other files are counted as ignored."""
    files = list(files)
    images = [path for path in files if is_image(path)]
    builder.ignored_files += len(files) - len(images)
    return images


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
    with os.scandir(folder) as scan:
        names = sorted((e.name, e.is_dir()) for e in scan if not e.name.startswith(".") and e.name != "__MACOSX")
    return [folder / n for n, is_dir in names if is_dir], [folder / n for n, is_dir in names if not is_dir]


def files_below(folder: Path) -> Iterator[Path]:
    """Every file below ``folder`` but hidden ones; links to folders are not followed."""
    folders, files = entries(folder)
    yield from files
    for inner in folders:
        if not inner.is_symlink():
            yield from files_below(inner)
