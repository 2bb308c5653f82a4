"""Photos that are still in their 7z archive, in one file or in numbered parts."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import re
import struct
from pathlib import Path

from filelock import FileLock

from fer_lib.errors import DataError
from fer_lib.storage.atomic import explained, fresh_folder, settle

# ExpW's first part is called origin.7z.001.001: the number right behind 7z is the one that counts
_PART = re.compile(r"(?P<stem>.+\.7z)(?:\.(?P<number>\d{3}))?(?:\.\d{3})?")


def unpacked(paths: list[Path], wanted: str, name: str) -> Path:
    """The folder with an archive's content, unpacked on first use into the store's cache; the parts stay as they are.

    Of several archives among ``paths`` it is the one called ``wanted``.

    Raises :class:`DataError`: without py7zr (the extra ``archives``) it says how, and it names a missing part and a
    broken archive.
    """
    from fer_lib.storage.paths import home

    parts = _ordered(paths, wanted, name)
    try:
        import py7zr
    except ImportError as error:
        raise DataError(
            f"{name}: the photos in {parts[0].parent} are still packed ({len(parts)} files, first {parts[0].name}). "
            "Either pip install 'fer-lab[archives]' and import again, or unpack them by hand so that a folder origin/ "
            f"with the photos stands beside label.lst: 7z x {_wanted(parts[0])}, which 7z finds only under that name"
        ) from error
    stamp = [(part.name, part.stat().st_size, part.stat().st_mtime_ns) for part in parts]
    folder = home() / "mlruns" / "cache" / f"unpacked-{hashlib.sha256(json.dumps(stamp).encode()).hexdigest()[:12]}"
    broken = (py7zr.exceptions.ArchiveError, lzma.LZMAError, EOFError, ValueError, struct.error)
    with explained(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_name(folder.name + ".lock"))
        with lock:  # two imports that start together unpack once
            settle(folder)
            if folder.is_dir():
                return folder
            try:
                with fresh_folder(folder) as work, _Joined(parts) as stream, py7zr.SevenZipFile(stream) as archive:
                    archive.extractall(work)
            except broken as error:
                raise DataError(f"{name}: {parts[0]} is no whole 7z archive ({error}): fetch it again") from error
    return folder


def _wanted(first: Path) -> str:
    match = _PART.fullmatch(first.name)
    return f"{match['stem']}.{match['number']}" if match["number"] else match["stem"]


def _ordered(paths: list[Path], wanted: str, name: str) -> list[Path]:
    archives: dict[str, dict[int, Path]] = {}
    for path in sorted(paths):
        match = _PART.fullmatch(path.name)
        if match:
            archives.setdefault(match["stem"], {}).setdefault(int(match["number"] or 1), path)
    if not archives:
        raise DataError(
            f"{name}: {paths[0]} is no 7z archive by its name: expected .7z, or parts .7z.001, .7z.002, ..."
        )
    if len(archives) > 1 and wanted not in archives:
        raise DataError(
            f"{name}: {paths[0].parent} holds several archives, {', '.join(sorted(archives))}, and none is {wanted}: "
            "unpack the one with the photos by hand, or leave it alone there"
        )
    found = archives[wanted if wanted in archives else next(iter(archives))]
    absent = [n for n in range(1, max(found) + 1) if n not in found]
    if absent:
        where = next(iter(found.values())).parent
        raise DataError(f"{name}: part {absent[0]:03d} of the 7z archive in {where} is missing: fetch it too")
    return [found[n] for n in sorted(found)]


class _Joined(io.RawIOBase):
    """Parts of a file, read as the one file that they are."""

    def __init__(self, parts: list[Path]):
        self.files = [open(part, "rb") for part in parts]
        self.starts = [0]
        for part in parts:
            self.starts.append(self.starts[-1] + part.stat().st_size)
        self.at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = max(0, offset + (0, self.at, self.starts[-1])[whence])
        return self.at

    def readinto(self, buffer) -> int:
        part = next((i for i in range(len(self.files)) if self.at < self.starts[i + 1]), None)
        if part is None:
            return 0
        self.files[part].seek(self.at - self.starts[part])
        data = self.files[part].read(min(len(buffer), self.starts[part + 1] - self.at))
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)

    def close(self) -> None:
        for file in self.files:
            file.close()
        super().close()
