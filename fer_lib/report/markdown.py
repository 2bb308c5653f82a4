"""Markdown that a program writes: tables, numbers as a person reads them, and sections of a page kept up to date."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from fer_lib.errors import FerError
from fer_lib.storage.text import DASH


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; columns whose cells are all numbers (or a dash) are set to the right and never broken over two lines."""
    rows = [["" if cell is None else str(cell).replace("|", "\\|") for cell in row] for row in rows]
    right = [bool(rows) and all(_numeric(row[i]) for row in rows) for i in range(len(header))]
    rows = [[c.replace(" ", "\u00a0") if r else c for c, r in zip(row, right, strict=True)] for row in rows]
    lines = [list(header), ["---:" if r else "---" for r in right], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _numeric(cell: str) -> bool:
    return cell == DASH or re.match(r"[-<>]? ?\d", cell) is not None


def percent(share: float | None, digits: int = 2) -> str:
    """``0.6587`` -> ``65.87 %``; a dash for what is not known."""
    return DASH if share is None else f"{100 * share:.{digits}f} %"


def percent_in(share: float, interval: Sequence[float]) -> str:
    """``65.87 % [64.3, 67.4]``: a share with its interval."""
    return f"{percent(share)} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def decimal(value: float | None, digits: int = 4) -> str:
    """Fixed digits; a dash for what is not known."""
    return DASH if value is None else f"{value:.{digits}f}"


def replace_section(page: str, name: str, content: str) -> str:
    """The page with ``content`` between ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->``; FerError without them."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise FerError(f"the page has no one pair of markers {begin} and {end}: put them where the section belongs")
    head, rest = page.split(begin)
    return f"{head}{begin}\n{content.strip()}\n{end}{rest.split(end)[1]}"
