"""Views of an ablation: table, forest plot, sentences, files, and the result that its run logs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from fer_lib.calibration.plot_style import themed
from fer_lib.datasets.interchange import escape_formula
from fer_lib.evaluation.ablation import SCORES
from fer_lib.evaluation.stage_views import draw_differences, signed
from fer_lib.storage.atomic import write_json, write_text
from fer_lib.storage.phase_result import PhaseResult


def ablation_table(result: dict[str, Any]) -> pd.DataFrame:
    """One line per evaluation, source, score and variant: each seed's score, mean, sd, difference with its interval."""
    return pd.DataFrame(
        [
            {
                "suite": suite, "source": source, "n": own["n"], "score": title, "variant": variant,
                "each seed": _each(entry[score]),
                "mean": entry[score]["mean"], "sd": entry[score]["sd"], "difference": change.get("value"),
                "low": change.get("lo"), "high": change.get("hi"), "verdict": change.get("verdict", "control"),
                "evalset": own["evalset_id"],
            }
            for suite, source, own in _sources(result)
            for score, title in SCORES.items()
            for variant, entry in own["variants"].items()
            for change in [entry[score].get("difference", {})]
        ]
    )  # fmt: skip


def _sources(result: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for evaluation in result["evaluations"]:
        for source, own in evaluation["sources"].items():
            yield evaluation["suite"], source, own


def ablation_sentences(result: dict[str, Any]) -> list[str]:
    """One sentence per evaluation and source about the differences in macro-F1."""
    lines = []
    for suite, source, own in _sources(result):
        changes = {v: e["macro_f1_present"].get("difference") for v, e in own["variants"].items()}
        parts = [f"{v} {signed(d)}, {d['verdict']}" for v, d in changes.items() if d]
        lines.append(f"{suite}, {source} (n = {own['n']:,}), macro-F1 against {result['control']}: {'; '.join(parts)}.")
    return lines


@themed
def draw_ablation(result: dict[str, Any]) -> Figure:
    """One row of panels per evaluation and source: differences to the control with 95 % intervals, a dash per seed."""
    sources, control = list(_sources(result)), result["control"]
    figure = Figure(figsize=(11, (1.1 + 0.35 * len(result["variants"])) * len(sources)))
    for (suite, source, own), line in zip(sources, figure.subplots(len(sources), 2, squeeze=False), strict=True):
        for axes, (score, title) in zip(line, SCORES.items(), strict=True):
            changes = {v: e[score]["difference"] for v, e in own["variants"].items() if v != control}
            draw_differences(axes, changes)
            for place, change in enumerate(changes.values()):
                axes.plot(change["by_seed"], [place] * len(change["by_seed"]), "|", color="black", markersize=10)
            axes.set(xlabel=f"{title} minus {control}, 95 % interval", title=f"{suite}: {source}, n = {own['n']:,}")
            axes.margins(y=0.12)
    return figure


def ablation_markdown(result: dict[str, Any]) -> str:
    """The table as Markdown, one section per evaluation and source."""
    interval = result["interval"]
    lines = [
        f"Control: `{result['control']}`. A difference is the mean over seeds of variant minus control on the same "
        f"rows, with its 95 % interval: {interval['method']}; {interval['resamples']:,} resamples. Of twenty intervals "
        "one leaves out 0 by chance."
    ]
    for suite, source, own in _sources(result):
        leaked = f", {own['leaked']:,} of them also in train" if own["leaked"] else ""
        lines.append(f"\n## {suite}: {source}\n\n{own['n']:,} rows{leaked}; evalset `{own['evalset_id']}`.\n")
        lines.append("| score | variant | each seed | mean | sd | difference | verdict |\n" + "|---" * 7 + "|")
        for score, title in SCORES.items():
            for variant, entry in own["variants"].items():
                scores, change = entry[score], entry[score].get("difference")
                cells = [title, f"`{variant}`", _each(scores), f"{scores['mean']:.4f}"]
                cells.append("" if scores["sd"] is None else f"{scores['sd']:.4f}")
                cells += [signed(change), change["verdict"]] if change else ["", "control"]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _each(scores: dict[str, Any]) -> str:
    return " ".join(f"{value:.4f}" for value in scores["values"])


def ablation_result(result: dict[str, Any], out: Path) -> PhaseResult:
    """The result of an ablation; writes ``ablation.json``, ``ablation.csv`` and ``ablation.md`` into ``out``."""
    table = ablation_table(result)
    table["variant"] = table["variant"].map(escape_formula)
    text = table.to_csv(index=False, lineterminator="\n")
    artifacts = [write_json(out / "ablation.json", result), write_text(out / "ablation.csv", text)]
    artifacts.append(write_text(out / "ablation.md", ablation_markdown(result)))
    metrics: dict[str, Any] = {}
    headline: dict[str, Any] = {}
    for suite, source, own in _sources(result):
        metrics.setdefault(suite, {})[source] = own["variants"]
        changes = {v: e["macro_f1_present"].get("difference") for v, e in own["variants"].items()}
        headline[f"{suite}/{source}"] = {v: f"{d['value']:+.4f} {d['verdict']}" for v, d in changes.items() if d}
    compared = ", ".join(name for name in result["variants"] if name != result["control"])
    return PhaseResult(
        ids={"evalset_id": "+".join(evaluation["evalset_id"] for evaluation in result["evaluations"])},
        headline=headline,
        metrics=metrics,
        artifacts=artifacts,
        note={
            "action": f"Compared {compared} with {result['control']}, "
            f"{len(result['variants'][result['control']])} seeds each.",
            "result": " ".join(ablation_sentences(result)),
            "decision": "An interval that leaves out 0 decides; of twenty, one does so by chance.",
            "next": "Repeat on more rows and seeds what is not decided and matters.",
        },
    )
