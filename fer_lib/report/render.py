"""An exported run (``docs/results/NAME.json``) as a page, its pictures, and the results section of the README.

Every number on the page is read or computed from that file; the goals it is held against are those of
:mod:`fer_lib.report.facts`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fer_lib.errors import FerError
from fer_lib.evaluation.leaks import sentences
from fer_lib.report import facts, tables
from fer_lib.report.collect import FORMAT
from fer_lib.report.facts import ROWS, SUITES, VIEWS
from fer_lib.report.figures import draw_results
from fer_lib.report.markdown import decimal, percent, replace_section, table
from fer_lib.storage.json_files import read_json
from fer_lib.storage.text import DASH, duration


def read_results(path: Path) -> dict[str, Any]:
    """An exported run; FerError when the file is missing, broken, or of another format."""
    results = read_json(path)
    if not isinstance(results, dict) or results.get("format") != FORMAT:
        raise FerError(f"{path} is not a run exported by this version: write it again with: fer report export NAME")
    return results


def render(path: Path, readme: Path | None = None) -> Path:
    """Write ``NAME.md`` and ``NAME/*.png`` beside ``NAME.json``; the page's path.

    ``readme``: a README whose results section is filled, too.  FerError, before anything is written, when it is missing
    or the run imported drawn faces.
    """
    results = read_results(path)
    if readme is not None:
        facts.refuse_drawn(results, path)
        if not readme.is_file():
            raise FerError(f"{readme} is missing: give the command in a checkout, or render without --readme")
    pictures = draw_results(results, path.with_suffix(""))
    page = path.with_suffix(".md")
    page.write_text(render_page(results, pictures, path.name), encoding="utf-8")
    if readme is not None:
        text = readme.read_text(encoding="utf-8")
        readme.write_text(replace_section(text, "results", readme_section(results)), encoding="utf-8")
    return page


def render_page(results: dict[str, Any], pictures: dict[str, list[str]], source: str) -> str:
    """The page as Markdown; ``pictures``: {section: paths relative to the page}, ``source``: name of the JSON file."""
    sections = (
        _head(results, source),
        _reached(results),
        _shown(pictures["reliability"] + pictures["per_class"]),
        _protocol(results),
        *tables.scores(results),
        tables.calibration(results),
        tables.per_class(results),
        tables.stages(results),
        "## Confusion matrices\n\nSingle view, all rows; a row is what annotators said, a column what was predicted.",
        _shown(pictures["confusion"], side_by_side=True),
        tables.times(results),
        "## Training curves",
        _shown(pictures["curves"]),
        tables.ensembles(results),
        tables.exported(results),
        tables.origin(results),
    )
    return "\n\n".join(section for section in sections if section) + "\n"


def _shown(files: list[str], side_by_side: bool = False) -> str:
    named = [(Path(file).stem.replace("_", " "), file) for file in files]
    if side_by_side:
        return "\n".join(f'<img src="{file}" alt="{name}" width="49%">' for name, file in named)
    return "\n\n".join(f"![{name}]({file})" for name, file in named)


def _head(results: dict[str, Any], source: str) -> str:
    suite = results["evaluation"]["suite"]
    return (
        f"# Results: {results['name']}\n\n"
        f"Rendered by `fer report render` from [{source}]({source}), which `fer report export` wrote from the run of "
        f"`{results['run_file']}`. Measured on {SUITES.get(suite, f'the rows of `{suite}`')}."
    )


def _reached(results: dict[str, Any]) -> str:
    rows = []
    for item in facts.goals(results):
        goal, name = item["goal"], item["model"] or item["goal"].kind
        cells = [tables.accuracy(item["reports"].get(view)) for view in VIEWS]
        outcome = f"**{facts.verdict(item['reached'])}**"
        rows.append((goal.of, f"> {percent(goal.accuracy)}", f"`{name}`", *cells, outcome))
    held = table(("goal", "accuracy", "model", *VIEWS.values(), "outcome"), rows) if rows else ""
    return f"## What was reached\n\n{summary(results)}\n\n{held}".rstrip()


def summary(results: dict[str, Any]) -> str:
    """One paragraph in plain words: the student, how it was chosen, what it scores, which goals that reaches."""
    name = facts.chosen_student(results)
    model = facts.measured(results)[name]
    select, removed = model["val_select"], results["evaluation"]["sets"].get("leak_free", {}).get("removed")
    what = f"{model['backbone']} at {model['image_size']} px, {model['parameters'] / 1e6:.2f} million parameters"
    said = [
        f"The student `{name}` ({what}) was chosen on validation rows (macro-F1 {decimal(select['macro_f1'])}, "
        f"accuracy {percent(select['accuracy'])} there); the test rows had no part in it."
    ]
    twins = f"the {removed} pictures that have a known twin in training"
    for view, sets in model["views"].items():
        raw = sets["all"]["raw"]
        text = f"{VIEWS[view].capitalize()}: accuracy {percent(raw['accuracy'])}, macro-F1 {decimal(raw['macro_f1'])}"
        if "leak_free" in sets:
            text += f", and accuracy {percent(sets['leak_free']['raw']['accuracy'])} without {twins}"
            twins = "them"
        said.append(f"{text}.")
    view, sets = next(iter(model["views"].items()))
    before, after = sets["all"]["ece_raw"], sets["all"]["ece_scaled"]
    said.append(
        f"Temperature scaling takes its ECE ({VIEWS[view]}) from {decimal(before['value'])} to "
        f"{decimal(after['value'])}; a perfectly calibrated model would score {decimal(after['null_mean'])} on these "
        "rows."
    )
    said += sentences(results["evaluation"])
    outcomes: dict[str, list[str]] = {}
    for item in facts.goals(results):
        goal = f"{item['goal'].of[0].upper()}{item['goal'].of[1:]} ({percent(item['goal'].accuracy)})"
        outcomes.setdefault(goal, []).append(f"{facts.verdict(item['reached'])} (`{item['model'] or 'no model'}`)")
    return " ".join([*said, *(f"{goal}: {', '.join(found)}." for goal, found in outcomes.items())])


def _protocol(results: dict[str, Any]) -> str:
    sets = results["evaluation"]["sets"]
    rows = [
        (ROWS[name], f"`{s['evalset_id']}`", s["n_expected"], s["n_used"], s["removed"]) for name, s in sets.items()
    ]
    temperatures = [report["temperature"] for *_, report in tables.lines(results)]
    fitted = sorted({(t["fitted_on"], t["n"]) for t in temperatures if t["n"]})
    on = ", ".join(f"{where} (n = {n:,})" for where, n in fitted)
    bullets = [
        "Epochs, ensemble weights and the student that is exported were chosen on val/select alone. The test rows were "
        "read after that, by frozen weights. Validation scores stand beside the test scores below.",
        f"The temperature was fitted on {on}, for each view by itself, and frozen."
        if on
        else "Nothing was calibrated.",
        "`single view` is the picture alone, `flip average` the mean of its logits and those of its mirror image.",
        "Models of one table were measured on the same rows (`evalset_id`). Their `protocol_id` covers rows, "
        "preprocessing and view; beside the view, the protocols differ in:",
    ]
    if note := facts.PEER_NOTES.get(results["evaluation"]["suite"]):
        bullets.insert(0, note)
    other = facts.differences(results)
    if facts.of_kind(results, "ensemble"):
        other.append("what is combined: an ensemble's id also names its members")
    ids = table(("rows", "evalset_id", "expected", "used", "removed"), rows)
    return "\n".join(
        [
            "## Protocol\n",
            f"{ids}\n",
            *(f"- {line}" for line in bullets),
            *(f"  - {line}" for line in other or ["nothing"]),
        ]
    )


def readme_section(results: dict[str, Any]) -> str:
    """The short table and one paragraph for the README."""
    head = (
        "model", *(f"accuracy, {view}" for view in VIEWS.values()), "macro-F1", "ECE before → after scaling",
        "accuracy without twins", "training",
    )  # fmt: skip
    rows = []
    for name, model in facts.measured(results).items():
        views = model["views"]
        view = "flip" if "flip" in views else next(iter(views))
        report, clean = views[view]["all"], views[view].get("leak_free")
        rows.append(
            (
                f"`{name}`",
                *(tables.accuracy(views[v]["all"] if v in views else None) for v in VIEWS),
                decimal(report["raw"]["macro_f1"], 3),
                f"{report['ece_raw']['value']:.3f} → {report['ece_scaled']['value']:.3f}",
                percent(clean["raw"]["accuracy"]) if clean else DASH,
                duration(facts.training_seconds(results, name)),
            )
        )
    return (
        f"{table(head, rows)}\n\nIn brackets: 95 % intervals. Macro-F1, ECE and the accuracy without twins are those "
        f"of the flip average where there is one.\n\n{summary(results)}"
    )
