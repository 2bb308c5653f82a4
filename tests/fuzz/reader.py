"""A reader of a file that someone else may have written, as the fuzzer calls it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Reader:
    """``prepare(folder)`` makes what the reader needs and returns the bytes of a sound file.

    ``read(folder, content)`` puts damaged bytes in its place and reads them.  ``form``: how they are damaged.
    ``heavy``: a case takes milliseconds.
    """

    name: str
    form: Literal["bytes", "text", "json"]
    prepare: Callable[[Path], bytes]
    read: Callable[[Path, bytes], Any]
    heavy: bool = False


def file_reader(name: str, read: Callable[[Path], Any]) -> Callable[[Path, bytes], Any]:
    """Put the bytes into the file ``name`` of the folder and call ``read`` with its path."""

    def call(folder: Path, content: bytes) -> Any:
        (folder / name).write_bytes(content)
        return read(folder / name)

    return call


def folder_reader(name: str, read: Callable[[Path], Any]) -> Callable[[Path, bytes], Any]:
    """Put the bytes into the file ``name`` of the folder and call ``read`` with the folder."""

    def call(folder: Path, content: bytes) -> Any:
        (folder / name).write_bytes(content)
        return read(folder)

    return call
