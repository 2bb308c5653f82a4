"""Markdown pages from the jinja2 templates in ``templates/``, and sections of a page between markers.

Templates print unknown values (None) as a dash and escape ``|``. Filters:

- ``percent``, ``decimal``: fixed digits, with an interval in brackets if one is passed;
- ``accuracy``, ``macro_f1``: of a report with its interval; ``thousands``: ``28,709``; ``duration``: ``12.3 min``;
- ``paragraph``: joins the lines of a block into one;
- ``table``: adds the alignment row to a block of table rows. Columns of numbers are right-aligned and don't wrap.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from fer_lib.emotions import EMOTIONS
from fer_lib.errors import FerError
from fer_lib.report.facts import ROW_SETS, VIEWS
from fer_lib.storage.text import DASH, duration


def render_template(template: str, /, **context: Any) -> str:
    """The Markdown of a template, with one blank line between blocks and none at either end."""
    return re.sub(r"\n{3,}", "\n\n", ENVIRONMENT.get_template(template).render(context)).strip("\n")


def replace_section(page: str, name: str, content: str) -> str:
    """The page with ``content`` between ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->``; FerError without them."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise FerError(f"the page needs one pair of markers {begin} and {end}: add them where the section belongs")
    head, rest = page.split(begin)
    return f"{head}{begin}\n{content.strip()}\n{end}{rest.split(end)[1]}"


def percent(share: float | None, interval: Sequence[float] | None = None) -> str:
    """``65.87 %`` or ``65.87 % [64.3, 67.4]``; a dash for None."""
    if share is None:
        return DASH
    return f"{100 * share:.2f} %" + (f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else "")


def decimal(value: float | None, digits: int = 4, interval: Sequence[float] | None = None) -> str:
    """``0.6587`` or ``0.6587 [0.643, 0.674]``; a dash for None."""
    if value is None:
        return DASH
    return f"{value:.{digits}f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def accuracy(report: dict[str, Any] | None) -> str:
    """Accuracy of a model report with its 95 % interval; a dash for None."""
    return DASH if report is None else percent(report["raw"]["accuracy"], report["accuracy_interval"])


def macro_f1(report: dict[str, Any]) -> str:
    """Macro-F1 over the classes present, of a model report, with its 95 % interval."""
    interval = report.get("macro_f1_present_interval", report["macro_f1_interval"])  # earlier versions: all classes
    return decimal(report["raw"]["macro_f1_present"], 4, interval)


def table(rows: str) -> str:
    """The Markdown table of ``| cell | cell |`` rows, the header first; an indented line continues the row above."""
    lines = [line.strip() for line in re.sub(r"\n +", " ", rows).split("\n")]
    header, *body = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line[1:-1])] for line in lines if line]
    numeric = [bool(body) and all(re.match(rf"{DASH}$|[-<>]? ?\d", row[i]) for row in body) for i in range(len(header))]
    body = [[c.replace(" ", "\u00a0") if n else c for c, n in zip(row, numeric, strict=True)] for row in body]
    lines = [header, ["---:" if n else "---" for n in numeric], *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _to_markdown(value: Any) -> str:
    return DASH if value is None else str(value).replace("|", "\\|")


ENVIRONMENT = Environment(
    loader=PackageLoader("fer_lib.report"), undefined=StrictUndefined, finalize=_to_markdown,
    trim_blocks=True, lstrip_blocks=True, autoescape=False,
)  # fmt: skip
ENVIRONMENT.globals |= {"EMOTIONS": EMOTIONS, "ROW_SETS": ROW_SETS, "VIEWS": VIEWS}
ENVIRONMENT.filters |= {
    "accuracy": accuracy,
    "decimal": decimal,
    "duration": duration,
    "macro_f1": macro_f1,
    "paragraph": lambda block: " ".join(block.split()) + "\n",
    "percent": percent,
    "table": table,
    "thousands": "{:,}".format,
}
