"""What ``fer data`` shows: tables of what was found, and pages of images."""

from __future__ import annotations

import re
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fer_lib.emotions import EMOTIONS
from fer_lib.pipeline.progress import show_progress
from fer_lib.storage.atomic import fresh_file
from fer_lib.storage.progress import each

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fer_lib.datasets.manifest import Manifest


def show(*tables: Table) -> None:
    """Print tables that have rows."""
    console = Console()
    for table in tables:
        if table.row_count:
            console.print(table)


def count_table(counts: dict[str, dict[str, dict[str, int]]], title: str) -> Table:
    """``{source: {split: {class: rows}}}`` with sums at the right and below."""
    rows = [
        (source, split, *(splits[split].get(name, 0) for name in EMOTIONS))
        for source, splits in counts.items()
        for split in sorted(splits, key=("train", "val", "test").index)
    ]
    rows.append(("all", "", *(sum(row[2 + k] for row in rows) for k in range(len(EMOTIONS)))))
    return _table(title, ("source", "split"), (*EMOTIONS, "all"), [(*row, sum(row[2:])) for row in rows])


def left_out_table(reports: list[dict]) -> Table:
    """What an import left out: one line per source, kind and name."""
    rows = []
    for report in reports:
        for split, names in report["excluded"].items():
            rows += [(report["dataset"], f"excluded ({split})", name, n) for name, n in names.items()]
        rows += [(report["dataset"], "bad record", kind, n) for kind, n in report["bad_records"].items()]
    return _table("Left out", ("source", "why", "what"), ("rows",), rows)


def steps_table(report: dict) -> Table:
    """What each step of a curation took away and left."""
    rows = [("joined", "", report["rows_total"])]
    rows += [(step["step"], step["removed"], step["left"]) for step in report["steps"]]
    return _table(f"Curated: {report['selection']}", ("step",), ("removed", "left"), rows)


def findings_table(findings: list, allowed: list[str]) -> Table:
    """What was found in a manifest, with the first examples."""
    from fer_lib.datasets.validate import HARMLESS, PROBLEMS

    rows = []
    for finding in findings:
        so = " (not wrong)" if finding.kind in HARMLESS else " (allowed)" if finding.kind in allowed else ""
        name = f"{finding.kind}: {PROBLEMS[finding.kind]}{so}"
        rows.append((name, "\n".join(finding.examples[:3]), finding.count))
    return _table("Found", ("problem", "for instance"), ("count",), rows)


def audit_tables(summary: dict) -> tuple[Table, Table]:
    """Groups of duplicates with warnings, and the evaluated rows that are also in train."""
    rows = [(name.replace("_", " "), n, summary["with_near"][name]) for name, n in summary["exact"].items()]
    groups = _table("Groups of equal images", ("",), ("identical", "identical or nearly"), rows)
    if summary["largest_group"] is not None:
        warnings = [f"Warning: {text}." for text in summary["warnings"]]
        groups.caption = Text("\n".join([f"The largest is group {summary['largest_group']}.", *warnings]))
        groups.caption_justify = "left"
    rows = [
        (split, ", ".join(f"{source} {n:,}" for source, n in leak["by_source"].items()), leak["rows"],
         summary["clean"]["leaks"][split])
        for split, leak in summary["leaks"].items()
    ]  # fmt: skip
    return groups, _table("Leaks", ("split", "by source"), ("rows that are also in train", "left"), rows)


def save_figures(figures: dict[str, Figure], out: Path) -> None:
    """Each figure as ``<out>/<name>.png``."""
    for name, figure in figures.items():
        with fresh_file(out / f"{name}.png") as work:
            figure.savefig(work, format="png")


def save_pages(manifest: Manifest, title: str, name: str, out: Path) -> None:
    """``<out>/<name>.png``, bars of rows by source, split and label, and ``contact_<source>.png`` for each source."""
    from fer_lib.datasets.charts import count_charts
    from fer_lib.datasets.sheets import contact_sheet

    with show_progress("pages"):
        figures = {name: count_charts(manifest.frame, title)}
        for source in each("contact sheet", sorted(set(manifest.frame["source"]))):
            # a CSV's sources may have any name, files may not
            figures["contact_" + re.sub(r"[^\w-]", "_", source)] = contact_sheet(manifest, source)
        save_figures(figures, out)


def facts_table(title: str, facts: dict[str, object]) -> Table:
    """Name and value."""
    return _table(title, ("",), ("",), list(facts.items()))


def _table(title: str, texts: tuple[str, ...], numbers: tuple[str, ...], rows: list[tuple]) -> Table:
    # no frame: counts of seven classes have to fit beside a source's name on 80 columns
    table = Table(title=Text(title), title_justify="left", show_header=any(texts), box=SIMPLE, padding=0)
    for name in texts:
        table.add_column(name, overflow="fold", min_width=7)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(f"{cell:,}" if isinstance(cell, Integral) else Text(str(cell)) for cell in row))
    return table
