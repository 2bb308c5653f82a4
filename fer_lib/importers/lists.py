"""Label files of white-space separated lines, and the split that a source without one is given."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fer_lib.datasets.manifest import SPLITS
from fer_lib.errors import DataError
from fer_lib.importers.base import ImportBuilder
from fer_lib.storage.atomic import readable


def listed(
    path: Path, fields: int, draft: ImportBuilder, kind: str = "wrong field count"
) -> Iterator[tuple[str, list[str]]]:
    """(where, its words) of each line that holds ``fields`` words; others but blank ones are problems of ``kind``.

    Raises :class:`DataError` for a file that is no UTF-8 text.
    """
    for number, words in words_of(path):
        if len(words) == fields:
            yield f"{path}, line {number}", words
        else:
            draft.problem(kind, f"{path}, line {number}: {len(words)} fields instead of {fields}")


def words_of(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(number from 1, words) of each line that is not blank; :class:`DataError` for a file that is no UTF-8 text."""
    try:
        with readable(path), open(path, encoding="utf-8-sig") as handle:
            for number, line in enumerate(handle, 1):
                if words := line.split():
                    yield number, words
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text ({error}): fetch it again") from error


_LONGEST = 240  # bytes of a file name that leave room for "_aligned" and the like; disks take 255


def plain(name: str, where: str, draft: ImportBuilder) -> bool:
    """Whether ``name`` is a file's name and nothing else (no folder, no hidden file); if not, the draft knows."""
    good = name != "" and not (set(name) & set("/\\:\0")) and not name.startswith(".")
    good = good and len(name.encode("utf-8", "surrogatepass")) <= _LONGEST
    if not good:
        draft.problem("wrong file name", f"{where}: {name[:100]!r}")
    return good


def whole(text: str, within: range) -> int | None:
    """A whole number of ``within``, else None."""
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        return None
    return int(text) if int(text) in within else None


def numbers(texts: Iterable[str]) -> list[float] | None:
    """Finite numbers, or None when one of them is none (nor are ``0_3`` and ``\u0663``, which Python would read)."""
    try:
        values = [float(text if text.isascii() and "_" not in text else "") for text in texts]
    except ValueError:
        return None
    return values if all(map(math.isfinite, values)) else None


def assign_splits(units: Iterable[str], fracs: Sequence[float], seed: int) -> dict[str, str]:
    """Unit (a photo, a person) -> train, val or test: cut from the hash order of (seed, unit) at the shares ``fracs``.

    val and test get ``round(share n)`` units, at least one where their share is not zero and n >= 3; train the rest.
    Equal units, whatever their order, give the same split.
    """
    order = sorted(set(units), key=lambda unit: hashlib.sha256(f"{seed}:{unit}".encode()).hexdigest())
    least = 1 if len(order) >= len(SPLITS) else 0
    val, test = (max(round(share * len(order)), least if share else 0) for share in fracs[1:])
    train = max(len(order) - val - test, 0)
    return {unit: SPLITS[(i >= train) + (i >= train + val)] for i, unit in enumerate(order)}
