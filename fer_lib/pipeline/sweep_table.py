"""Comparison of a sweep's combinations: rows, groups that can be ranked, a table, CSV, JSON and a plot.

A row is one combination and one of the last phases that its parameters reach.  Rows are ranked by ``val macro-F1``,
never by what was measured on test rows, and only among those that were measured on the same faces (``evalset_id``).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from fer_lib.calibration.plot_style import themed
from fer_lib.params.strict import parse
from fer_lib.pipeline.execution import FINISHED, Execution
from fer_lib.storage.json_files import read_outputs

RANKED_BY = "val macro-F1"
OMITTED = ("chance", "at chance")  # no scores

Row = dict[str, Any]


def rows(executions: list[Execution], last: list[str]) -> list[Row]:
    """A row for each combination and each of the phases ``last``, finished or not.

    ``combination`` (its index), ``values``, ``phase``, ``status``, ``run_id``, ``scores`` (headline name -> value, and
    what each evaluation says of this phase's model, as ``<evaluation> accuracy``), ``evalset_id`` of the phase's own
    scores (None: unknown), ``protocol_id`` (which also identifies the preprocessing) and ``evaluated_on``
    (evaluation -> evalset_id).
    """
    return [_row(index, execution, name) for index, execution in enumerate(executions) for name in last]


def _row(index: int, execution: Execution, name: str) -> Row:
    model = getattr(execution.plan.phase(name).params, "name", "")
    row: Row = {"combination": index, "values": execution.values, "phase": name, "status": _status(execution, name),
                "run_id": execution.run_id, "scores": {}, "evalset_id": None, "protocol_id": None,
                "evaluated_on": {}}  # fmt: skip
    for phase in execution.plan.phases:
        result = execution.results.get(phase.name)
        if result is None or result.status not in FINISHED:
            continue
        ids = read_outputs(result.folder).get("ids", {})
        scores = {key: value for key, value in result.headline.items() if key not in OMITTED}
        if phase.name == name:
            row["scores"] |= scores
            row["evalset_id"], row["protocol_id"] = ids.get("evalset_id"), ids.get("protocol_id")
        elif phase.kind == "evaluate":
            own = {k.removeprefix(f"{model}/"): v for k, v in scores.items() if k.startswith(f"{model}/")}
            row["scores"] |= {f"{phase.name} {key}": value for key, value in (own or scores).items()}
            row["evaluated_on"][phase.name] = ids.get("evalset_id")
    return row


def _status(execution: Execution, name: str) -> str:
    """``finished``, or why this phase has no result."""
    result = execution.results.get(name)
    if result is not None and result.status in FINISHED:
        failed = [n for n, r in execution.results.items() if r.status == "failed"]
        return f"finished ({', '.join(failed)} failed)" if failed else "finished"
    problems = [f"{n} {r.status}" for n, r in execution.results.items() if r.status in ("failed", "stopped")]
    return ", ".join(problems) or "not started"


def grouped(found: list[Row]) -> list[list[Row]]:
    """Rows measured on the same faces together, each group ranked (``rank`` from 1, None for a row without a score).

    Rows without any score come last, as a group of their own.
    """
    groups: list[list[Row]] = []
    for row in found:
        if row["scores"]:
            fitting = next((group for group in groups if all(_same_faces(row, other) for other in group)), None)
            groups.append([row]) if fitting is None else fitting.append(row)
    unmeasured = [row for row in found if not row["scores"]]
    return [_ranked(group) for group in [*groups, unmeasured] if group]


def _same_faces(row: Row, other: Row) -> bool:
    """Whether all that both were measured on is the same."""
    shared = row["evaluated_on"].keys() & other["evaluated_on"].keys()
    evaluated = all(row["evaluated_on"][name] == other["evaluated_on"][name] for name in shared)
    return evaluated and row["evalset_id"] == other["evalset_id"]


def _ranked(group: list[Row]) -> list[Row]:
    for row in group:
        score = row["scores"].get(RANKED_BY) if row["evalset_id"] else None
        row["score"] = score if isinstance(score, (int, float)) else None
    known = sorted((row["score"] for row in group if row["score"] is not None), reverse=True)
    for row in group:
        row["rank"] = None if row["score"] is None else known.index(row["score"]) + 1
        del row["score"]
    return sorted(group, key=lambda row: (row["rank"] is None, row["rank"] or 0))


def best(groups: list[list[Row]]) -> int | None:
    """Index of the combination that is first; None where two are, or where not all can be ranked together."""
    measured = [group for group in groups if group[0]["rank"] is not None]
    first = [row["combination"] for group in measured for row in group if row["rank"] == 1]
    return first[0] if len(first) == 1 else None


def headings(groups: list[list[Row]]) -> list[str]:
    """What each group was measured on, and why it is not ranked with the others."""
    measured = sum(bool(group[0]["scores"]) for group in groups)
    lines = []
    for group in groups:
        if not group[0]["scores"]:
            lines.append("no result")
            continue
        faces = {f"{name} on {evalset}": None for row in group for name, evalset in row["evaluated_on"].items()}
        own = [f"val on {group[0]['evalset_id']}"] if group[0]["rank"] is not None else []
        heading = ", ".join([*own, *faces])
        protocols = {row["protocol_id"] for row in group if row["rank"] is not None}
        if len(protocols) > 1:  # the same rows, so they are ranked, for example in a sweep over image_size
            heading += f" (as {len(protocols)} protocols: not all see the same pixels of them)"
        lines.append(f"{heading}: other faces than in the other tables, so ranked apart" if measured > 1 else heading)
    return lines


def _columns(groups: list[list[Row]]) -> tuple[list[str], list[str]]:
    """(varied parameters, names of scores), in the order in which they first appear."""
    every = [row for group in groups for row in group]
    varied = dict.fromkeys(name for row in every for name in row["values"])
    return list(varied), list(dict.fromkeys(name for row in every for name in row["scores"]))


def rich_tables(groups: list[list[Row]]) -> Iterator[Any]:
    """For each group a heading and its table, for a rich console."""
    from rich.table import Table
    from rich.text import Text

    from fer_lib.pipeline.progress import format_value

    varied, _ = _columns(groups)
    for heading, group in zip(headings(groups), groups, strict=True):
        scores = _columns([group])[1]
        table = Table()
        for name in ("rank", *varied, "phase", *scores, *(["status"] if _unfinished(group) else [])):
            words = name in ("phase", "status")
            head = Text(name.replace(".", ".\n").replace(" ", "\n"))
            table.add_column(head, justify="left" if words else "right", overflow="fold")
        for row in group:
            cells = ["" if row["rank"] is None else str(row["rank"]), *(row["values"].get(n, "") for n in varied)]
            cells += [row["phase"], *(format_value(row["scores"].get(name, "")) for name in scores)]
            table.add_row(*(Text(cell) for cell in cells + [row["status"]] * _unfinished(group)))
        yield Text(heading)
        yield table


def _unfinished(group: list[Row]) -> bool:
    return any(row["status"] != "finished" for row in group)


def as_csv(groups: list[list[Row]]) -> str:
    """All groups as one CSV; cells that a spreadsheet would run as formulas are escaped."""
    from fer_lib.datasets.interchange import escape_formula

    varied, scores = _columns(groups)
    text = io.StringIO()
    writer = csv.writer(text)
    head = ["group", "rank", *varied, "phase", "status", *scores, "evalset_id", "protocol_id", "evaluated_on",
            "run_id"]  # fmt: skip
    writer.writerow([escape_formula(name) for name in head])
    for number, group in enumerate(groups, 1):
        for row in group:
            cells = [number, row["rank"], *(row["values"].get(name) for name in varied), row["phase"], row["status"]]
            cells += [row["scores"].get(name) for name in scores] + [row["evalset_id"], row["protocol_id"]]
            cells += [" ".join(f"{name}:{evalset}" for name, evalset in row["evaluated_on"].items()), row["run_id"]]
            writer.writerow([escape_formula(cell) if isinstance(cell, str) else cell for cell in cells])
    return text.getvalue()


def as_json(title: str, executions: list[Execution], groups: list[list[Row]]) -> dict[str, Any]:
    """Every combination with the results of its phases, and the groups of rows."""
    combinations = []
    for execution in executions:
        phases = {
            name: {"status": r.status, "run_id": r.run_id, "headline": r.headline}
            for name, r in execution.results.items()
        }
        record = {"values": execution.values, "run_id": execution.run_id}
        record |= {"status": execution.final_status or "NOT STARTED"}
        combinations.append(record | {"phases": phases, "not_started": execution.not_started})
    tables = [{"measured": heading, "rows": group} for heading, group in zip(headings(groups), groups, strict=True)]
    return {"name": title, "ranked_by": RANKED_BY, "combinations": combinations, "groups": tables}


@themed
def plot_scores(title: str, groups: list[list[Row]]):
    """Scores against the first varied parameter, one line per setting of the others.

    A matplotlib figure with one panel per group of rows that are ranked together; None without scores.

    Filled markers: ``val macro-F1``.  Hollow markers: macro-F1 of each evaluation, which does not affect the ranking.
    """
    from matplotlib.figure import Figure

    groups = [group for group in groups if group[0]["rank"] is not None]
    if not groups:
        return None
    figure = Figure(figsize=(min(24.0, 1.5 + 6.5 * len(groups)), 4.6))
    figure.suptitle(title)
    for axes, group in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
        _panel(axes, group, titled=len(groups) > 1)
    return figure


def _panel(axes, group: list[Row], titled: bool) -> None:
    group = sorted((row for row in group if row["rank"] is not None), key=lambda row: row["combination"])
    name = next(iter(group[0]["values"]))
    texts = list(dict.fromkeys(row["values"][name] for row in group))
    numbers = [parse(text) for text in texts]
    numeric = all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in numbers)
    positions: dict[str, Any] = dict(zip(texts, numbers if numeric else range(len(texts)), strict=True))
    lines: dict[str, list[Row]] = {}
    for row in group:
        others = [f"{key}={value}" for key, value in row["values"].items() if key != name]
        lines.setdefault(", ".join([row["phase"], *others]), []).append(row)
    for colour, (label, line) in enumerate(lines.items()):
        line.sort(key=lambda row: positions[row["values"][name]])
        style = {"color": f"C{colour % 4}", "marker": "osD^vP"[colour % 6]}
        _line(axes, line, positions, name, RANKED_BY, f"{label}: {RANKED_BY}", **style)
        for measure in dict.fromkeys(key for row in line for key in row["scores"]):
            if measure.endswith("macro-F1") and measure != RANKED_BY:
                of = f"{label}: {measure}"
                hollow = {"markerfacecolor": "white", "linestyle": "--", "linewidth": 1}
                _line(axes, line, positions, name, measure, of, **style, **hollow)
    axes.set_xticks(list(positions.values()), list(positions))
    axes.set_xlabel(name)
    axes.set_ylabel("macro-F1")
    if titled:
        axes.set_title(f"val on {group[0]['evalset_id']}", fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(loc="best")


def _line(axes, line: list[Row], positions: dict[str, Any], name: str, measure: str, label: str, **style: Any) -> None:
    points = [(positions[row["values"][name]], row["scores"][measure]) for row in line if measure in row["scores"]]
    axes.plot(*zip(*points, strict=True), label=label, **style)
