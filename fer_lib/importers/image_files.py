"""Walking folders of pictures, so that every picture in a raw tree is taken or counted with its reason."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from PIL import Image

from fer_lib.faces.decode import FORMATS
from fer_lib.importers.base import ImportBuilder
from fer_lib.storage.atomic import readable

PICTURES = frozenset(".jpg .jpeg .jpe .jfif .png .bmp .webp .tif .tiff .gif .ppm .pgm".split())
_NOT_READ = frozenset(".heic .heif .avif .jp2 .j2k .jxl .tga .psd .svg .ico .exr .hdr .dng .cr2 .nef .arw".split())
_HEAD = 4096  # bytes that hold a header's magic number and size


def walk(
    root: Path, draft: ImportBuilder, split_of: Callable[[str], str] = lambda top: "all"
) -> Iterator[tuple[str, str, list[Path]]]:
    """``<top>/<class>/*`` under ``root`` in name order: (top, class folder, its pictures).

    Pictures elsewhere in the tree, or of a kind that is not read, are excluded with the reason, under the split that
    ``split_of(top)`` says; files that are no pictures are counted in ``draft.ignored_files``.
    """
    tops, files = entries(root)
    stray(files, "all", f"loose in {root.name}", draft)
    for top in tops:
        split = split_of(top.name)
        classes, files = entries(top)
        stray(files, split, "in no class folder", draft)
        for folder in classes:
            yield top.name, folder.name, pictures_of(folder, split, draft)


def pictures_of(folder: Path, split: str, draft: ImportBuilder) -> list[Path]:
    """The pictures of a class folder by name; those in folders inside it, and of kinds not read, are excluded."""
    nested, files = entries(folder)
    for inner in nested:
        buried(inner, split, draft)
    taken = [path for path in files if path.suffix.lower() in PICTURES]
    others = [path for path in files if path.suffix.lower() not in PICTURES]
    left = [path for path in others if is_picture(path)]
    draft.ignored_files += len(others) - len(left)
    for path in left:
        draft.exclude(split, f"{folder.name}: suffix {path.suffix.lower() or '(none)'} is not read")
    if left:
        draft.warnings.append(
            f"{draft.name}: {len(left)} pictures in {folder} have a suffix that is not read, {left[0].name} ...: "
            f"save them as one of {' '.join(sorted(PICTURES))}"
        )
    return taken


def buried(folder: Path, split: str, draft: ImportBuilder, why: str = "a folder in a class folder") -> None:
    """Exclude every picture below ``folder``, which no layout reads, for the reason ``why``."""
    found = list(files_below(folder))
    count = sum(map(is_picture, found))
    draft.ignored_files += len(found) - count
    if count:
        draft.exclude(split, f"{folder.parent.name}/{folder.name}: {why}", count)
    draft.warnings.append(f"{draft.name}: {folder} is not read, {why}: {count} pictures in it excluded")


def stray(files: list[Path], split: str, why: str, draft: ImportBuilder) -> None:
    """Exclude the pictures among ``files``, which lie where this layout has folders."""
    count = sum(map(is_picture, files))
    draft.ignored_files += len(files) - count
    if count:
        draft.exclude(split, why, count)
        draft.warnings.append(
            f"{draft.name}: {count} pictures in {files[0].parent} lie in no class folder: excluded, {files[0].name} ..."
        )


def is_picture(path: Path) -> bool:
    """By its suffix, also one that is not read here, or by its content; what can't be looked at raises DataError."""
    if path.suffix.lower() in PICTURES | _NOT_READ:
        return True
    with readable(path):
        if not path.is_file():
            return False
        with open(path, "rb") as handle:
            head = handle.read(_HEAD)
    try:
        with Image.open(io.BytesIO(head), formats=FORMATS):
            return True
    except Exception:  # a file that is no picture can raise almost anything out of Pillow's readers
        return False


def entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """Sub-folders and files by name; hidden entries and the Mac's ``__MACOSX`` are no data."""
    with readable(folder), os.scandir(folder) as entries:
        found = sorted((e.name, e.is_dir()) for e in entries if _is_data(e.name))
    return [folder / n for n, is_dir in found if is_dir], [folder / n for n, is_dir in found if not is_dir]


def files_below(folder: Path) -> Iterator[Path]:
    """Every file below ``folder``, but for hidden ones; links to folders are not followed."""
    folders, files = entries(folder)
    yield from files
    for inner in folders:
        if not inner.is_symlink():
            yield from files_below(inner)


def relative_to(root: Path, path: Path) -> str:
    """``path`` under ``root`` with forward slashes."""
    return str(PurePosixPath(path.relative_to(root)))


def _is_data(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"
