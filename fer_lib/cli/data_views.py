"""What ``fer data`` shows: tables of what was found, and pages of images."""

from __future__ import annotations

import re
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
    table = _table(title, ("source", "split"), (*EMOTIONS, "all"))
    total = dict.fromkeys(EMOTIONS, 0)
    for source, splits in counts.items():
        for split in sorted(splits, key=("train", "val", "test").index):
            rows = [splits[split].get(name, 0) for name in EMOTIONS]
            table.add_row(Text(source), split, *(f"{n:,}" for n in (*rows, sum(rows))))
            total = {name: total[name] + n for name, n in zip(EMOTIONS, rows, strict=True)}
    table.add_section()
    table.add_row("all", "", *(f"{n:,}" for n in (*total.values(), sum(total.values()))))
    return table


def left_out_table(reports: list[dict]) -> Table:
    """What an import left out: one line per source, kind and name."""
    table = _table("Left out", ("source", "why", "what"), ("rows",))
    for report in reports:
        for split, names in report["excluded"].items():
            for name, n in names.items():
                table.add_row(Text(report["dataset"]), f"excluded ({split})", Text(name), f"{n:,}")
        for kind, n in report["bad_records"].items():
            table.add_row(Text(report["dataset"]), "bad record", kind, f"{n:,}")
    return table


def steps_table(report: dict) -> Table:
    """What each step of a curation took away and left."""
    table = _table(f"Curated: {report['selection']}", ("step",), ("removed", "left"))
    table.add_row("joined", "", f"{report['rows_total']:,}")
    for step in report["steps"]:
        table.add_row(Text(step["step"]), f"{step['removed']:,}", f"{step['left']:,}")
    return table


def findings_table(findings: list, allowed: list[str]) -> Table:
    """What was found in a manifest, with the first examples."""
    from fer_lib.datasets.validate import HARMLESS, PROBLEMS

    table = _table("Found", ("problem", "for instance"), ("count",))
    for finding in findings:
        so = " (not wrong)" if finding.kind in HARMLESS else " (allowed)" if finding.kind in allowed else ""
        name = f"{finding.kind}: {PROBLEMS[finding.kind]}{so}"
        table.add_row(name, Text("\n".join(finding.examples[:3])), f"{finding.count:,}")
    return table


def audit_tables(summary: dict) -> tuple[Table, Table]:
    """Groups of duplicates with warnings, and the evaluated rows that are also in train."""
    groups = _table("Groups of equal images", ("",), ("identical", "identical or nearly"))
    if summary["largest_group"] is not None:
        captions = [
            f"The largest is group {summary['largest_group']}.",
            *(f"Warning: {text}." for text in summary["warnings"]),
        ]
        groups.caption, groups.caption_justify = Text("\n".join(captions)), "left"
    for name, n in summary["exact"].items():
        groups.add_row(name.replace("_", " "), f"{n:,}", f"{summary['with_near'][name]:,}")
    leaks = _table("Leaks", ("split", "by source"), ("rows that are also in train", "left"))
    for split, leak in summary["leaks"].items():
        by_source = ", ".join(f"{source} {n:,}" for source, n in leak["by_source"].items())
        leaks.add_row(split, Text(by_source), f"{leak['rows']:,}", f"{summary['clean']['leaks'][split]:,}")
    return groups, leaks


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
    table = _table(title, ("",), ("",))
    for name, value in facts.items():
        table.add_row(name, f"{value:,}" if isinstance(value, int) else Text(str(value)))
    return table


def _table(title: str, texts: tuple[str, ...], numbers: tuple[str, ...]) -> Table:
    # no frame: counts of seven classes have to fit beside a source's name on 80 columns
    table = Table(title=Text(title), title_justify="left", show_header=any(texts), box=SIMPLE, padding=0)
    for name in texts:
        table.add_column(name, overflow="fold", min_width=7)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table
