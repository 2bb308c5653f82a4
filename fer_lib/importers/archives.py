"""Unpacks photos from a 7z archive, in one file or in numbered parts."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import re
import struct
from bisect import bisect
from itertools import accumulate
from pathlib import Path

from filelock import FileLock

from fer_lib.errors import DataError
from fer_lib.storage.atomic import fresh_folder, settle
from fer_lib.storage.paths import home

# ExpW's first part is called origin.7z.001.001: the number right behind 7z counts
_PART = re.compile(r"(?P<archive>(?P<stem>.+\.7z)(?:\.(?P<number>\d{3}))?)(?:\.\d{3})?")


def unpacked(paths: list[Path], wanted: str, name: str) -> Path:
    """The folder with an archive's content, unpacked once into the store's cache; of several archives ``wanted``.

    Raises :class:`DataError` for a missing part, a damaged archive, and when py7zr (the extra ``archives``) is missing.
    """
    parts = sorted_parts(paths, wanted, name)
    try:
        import py7zr
    except ImportError as error:
        raise DataError(
            f"{name}: the photos in {parts[0].parent} are still packed ({len(parts)} files, first {parts[0].name}). "
            "Either pip install 'fer-lab[archives]' and import again, or unpack them by hand so that a folder origin/ "
            f"with the photos is beside label.lst: 7z x {_PART.fullmatch(parts[0].name)['archive']}, which 7z finds "
            "only under that name"
        ) from error
    stamp = [(part.name, part.stat().st_size, part.stat().st_mtime_ns) for part in parts]
    folder = home() / "mlruns" / "cache" / f"unpacked-{hashlib.sha256(json.dumps(stamp).encode()).hexdigest()[:12]}"
    damaged = (py7zr.exceptions.ArchiveError, lzma.LZMAError, EOFError, ValueError, struct.error)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(folder.name + ".lock")):  # two imports that start together unpack once
        settle(folder)
        if not folder.is_dir():
            try:
                with fresh_folder(folder) as work, _Joined(parts) as stream, py7zr.SevenZipFile(stream) as archive:
                    archive.extractall(work)
            except damaged as error:
                raise DataError(f"{name}: {parts[0]} is no whole 7z archive ({error}): download it again") from error
    return folder


def sorted_parts(paths: list[Path], wanted: str, name: str) -> list[Path]:
    """The parts of one archive in order."""
    archives: dict[str, dict[int, Path]] = {}
    for path in sorted(paths):
        if match := _PART.fullmatch(path.name):
            archives.setdefault(match["stem"], {}).setdefault(int(match["number"] or 1), path)
    if not archives:
        raise DataError(
            f"{name}: {paths[0]} is no 7z archive by its name: expected .7z, or parts .7z.001, .7z.002, ..."
        )
    if len(archives) > 1 and wanted not in archives:
        raise DataError(
            f"{name}: {paths[0].parent} holds several archives, {', '.join(sorted(archives))}, and none is {wanted}: "
            "unpack the one with the photos by hand, and leave the others there"
        )
    parts = archives.get(wanted) or next(iter(archives.values()))
    if absent := [n for n in range(1, max(parts) + 1) if n not in parts]:
        folder = next(iter(parts.values())).parent
        raise DataError(f"{name}: part {absent[0]:03d} of the 7z archive in {folder} is missing: download it too")
    return [parts[n] for n in sorted(parts)]


class _Joined(io.RawIOBase):
    """The parts of a file, read as one file."""

    def __init__(self, parts: list[Path]):
        self.parts, self.position = parts, 0
        self.starts = [0, *accumulate(part.stat().st_size for part in parts)]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = max(0, offset + (0, self.position, self.starts[-1])[whence])
        return self.position

    def readinto(self, buffer) -> int:
        part = bisect(self.starts, self.position) - 1
        if part == len(self.parts):
            return 0
        with open(self.parts[part], "rb") as file:
            file.seek(self.position - self.starts[part])
            count = file.readinto(buffer)  # at most to the end of this part
        self.position += count
        return count
