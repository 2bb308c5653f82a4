"""Photos in a folder, or in a 7z archive beside it: one file, or numbered parts."""

from __future__ import annotations

import glob
import hashlib
import json
import lzma
import re
import struct
from collections.abc import Sequence
from pathlib import Path

from fer_lib.errors import DataError
from fer_lib.importers.builder import ImportBuilder
from fer_lib.importers.image_files import IMAGE_SUFFIXES
from fer_lib.storage.atomic import cached_folder, fresh_folder

# ExpW's first part is called origin.7z.001.001: the number right behind 7z counts
_PART = re.compile(r"(?P<packed>.+\.7z(?:\.(?P<number>\d{3}))?)(?:\.\d{3})?")


def photo_folder(builder: ImportBuilder, places: Sequence[str], archive: str) -> Path:
    """The folder of the photos, the first of ``places`` below the root that holds an image, or else in the archive.

    The archive is unpacked once into the store's cache.  Raises :class:`DataError` for a missing part, a damaged
    archive, and when py7zr (the extra ``archives``) is missing.
    """
    root, name, folder_name = builder.root, builder.name, archive.partition(".")[0]
    if folder := _first_with_images(root, places):
        return folder
    paths = sorted({path for place in ("", *places) for path in (root / place).glob(f"{archive}*")})
    if not paths:
        raise DataError(f"{name}: {root} has no {folder_name}/ with photos, nor its archive {archive}.001, .002, ...")
    parts = sorted_parts(paths, name)
    if folder := _first_with_images(unpacked(parts, name), (*places, "")):
        return folder
    raise DataError(f"{name}: the archive {parts[0]} holds no photos in {folder_name}/: download it again")


def _first_with_images(root: Path, places: Sequence[str]) -> Path | None:
    folders = (root / place for place in places if (root / place).is_dir())
    suffixes = ((folder, {file.suffix.lower() for file in folder.iterdir()}) for folder in folders)
    return next((folder for folder, of_files in suffixes if of_files & IMAGE_SUFFIXES), None)


def sorted_parts(paths: list[Path], name: str) -> list[Path]:
    """The parts of an archive in order; DataError for another file among ``paths``, and for a missing part."""
    parts = {}
    for path in sorted(paths):
        match = _PART.fullmatch(path.name)
        if match is None or parts.setdefault(int(match["number"] or 1), path) != path:
            raise DataError(f"{name}: {path} is no part of the 7z archive beside it: move it to another folder")
    if absent := [number for number in range(1, max(parts) + 1) if number not in parts]:
        raise DataError(
            f"{name}: part {absent[0]:03d} of the 7z archive in {paths[0].parent} is missing: download it too"
        )
    return [parts[number] for number in sorted(parts)]


def unpacked(parts: list[Path], name: str) -> Path:
    """The folder in the cache with an archive's content."""
    match = _PART.fullmatch(parts[0].name)
    try:
        import multivolumefile  # comes with py7zr
        import py7zr
    except ImportError as error:
        raise DataError(
            f"{name}: the photos in {parts[0].parent} are still packed ({len(parts)} files, first {parts[0].name}). "
            "Either pip install 'fer-lab[archives]' and import again, or unpack them by hand so that a folder origin/ "
            f"with the photos is beside label.lst: 7z x {match['packed']}, which 7z finds only under that name"
        ) from error
    stamp = [(part.name, part.stat().st_size, part.stat().st_mtime_ns) for part in parts]
    joined = parts[0].with_name(glob.escape(parts[0].name.partition(".7z")[0] + ".7z"))

    def unpack(folder: Path) -> None:
        try:
            with (
                fresh_folder(folder) as work,
                # it reads NAME.* in the order of their names
                multivolumefile.open(joined, "rb") if match["number"] else open(parts[0], "rb") as stream,
                py7zr.SevenZipFile(stream) as archive,
            ):
                archive.extractall(work)
        except (py7zr.exceptions.ArchiveError, lzma.LZMAError, EOFError, ValueError, struct.error) as error:
            raise DataError(f"{name}: {parts[0]} is no whole 7z archive ({error}): download it again") from error

    return cached_folder(f"unpacked-{hashlib.sha256(json.dumps(stamp).encode()).hexdigest()[:12]}", unpack)
