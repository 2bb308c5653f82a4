"""The tables of a results page, each out of an exported run alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fer_lib.emotions import EMOTIONS
from fer_lib.report import facts
from fer_lib.report.facts import ROWS, VIEWS
from fer_lib.report.markdown import decimal, percent, percent_in, table
from fer_lib.storage.text import DASH, duration

Results = dict[str, Any]


def accuracy(report: Results | None) -> str:
    """Accuracy with its interval of one report of the evaluation."""
    return DASH if report is None else percent_in(report["raw"]["accuracy"], report["accuracy_interval"])


def lines(results: Results, rows: str | None = None) -> Iterator[tuple[str, str, str, Results]]:
    """(model, view, rows, report), in the order of the tables; ``rows``: of that set alone."""
    for name, model in facts.measured(results).items():
        for view, sets in model["views"].items():
            for of, report in sets.items():
                if rows in (None, of):
                    yield name, view, of, report


def scores(results: Results) -> Iterator[str]:
    """A section with accuracy and F1 for each set of rows, validation scores beside."""
    models = facts.measured(results)
    head = ("model", "view", "accuracy", "macro-F1", "minority-F1", "val accuracy", "val macro-F1", "protocol_id")
    note = (
        "In brackets: 95 % intervals (accuracy: Wilson; macro-F1: bootstrap over rows). `val`: val/select, single view"
    )
    if views := {VIEWS["flip" if s["flip_average"] else "none"] for s in results["softlabels"].values()}:
        note += f", for the ensemble {' or '.join(sorted(views))}"
    for of, held in results["evaluation"]["sets"].items():
        rows = []
        for name, view, _, report in lines(results, of):
            raw, select, (low, high) = report["raw"], models[name]["val_select"], report["macro_f1_interval"]
            test = (
                accuracy(report),
                f"{decimal(raw['macro_f1'])} [{low:.3f}, {high:.3f}]",
                decimal(raw["minority_f1"]),
            )
            val = (percent(select["accuracy"]), decimal(select["macro_f1"]))
            rows.append((f"`{name}`", VIEWS[view], *test, *val, f"`{report['protocol_id']}`"))
        yield f"## Scores, {ROWS[of]} (n = {held['n_used']:,})\n\n{table(head, rows)}\n\n{note}."


def calibration(results: Results) -> str:
    """ECE before and after scaling, each with its interval and what a calibrated model would score; T; NLL."""
    null = "if calibrated"
    head = ("model", "view", "ECE before", null, "ECE after", null, "T", "NLL before", "NLL after")
    parts = []
    for of in results["evaluation"]["sets"]:
        rows = []
        for name, view, _, report in lines(results, of):
            eces = (*_ece(report["ece_raw"]), *_ece(report["ece_scaled"]))
            nll = (decimal(report["raw"]["nll"]), decimal(report["scaled"]["nll"]))
            rows.append((f"`{name}`", VIEWS[view], *eces, _temperature(report["temperature"]), *nll))
        parts.append(f"{ROWS[of].capitalize()}:\n\n{table(head, rows)}")
    note = (
        "ECE of the top label, 15 equal-width bins, with its 95 % interval. `if calibrated`: the mean ECE, and in "
        "brackets the value below which 95 % fall, of perfect probabilities of the same sharpness on as many rows; an "
        "ECE below the latter is no evidence against the model."
    )
    return f"## Calibration\n\n{note}\n\n" + "\n\n".join(parts)


def _ece(ece: dict[str, float]) -> tuple[str, str]:
    found = f"{decimal(ece['value'])} [{ece['lo']:.3f}, {ece['hi']:.3f}]"
    return found, f"{decimal(ece['null_mean'])} ({decimal(ece['null_q95'])})"


def _temperature(temperature: Results) -> str:
    vector = temperature["temperature_vector"]
    return ", ".join(f"{t:.2f}" for t in vector) if vector else decimal(temperature["global_temperature"], 3)


def per_class(results: Results) -> str:
    """F1 of each class, a table a set of rows."""
    parts = []
    for of in results["evaluation"]["sets"]:
        found = list(lines(results, of))
        counts = found[0][3]["raw"]["per_class_n"]
        head = ("model", "view", *(f"{e} ({counts[e]:,})" for e in EMOTIONS))
        rows = [
            (f"`{name}`", VIEWS[view], *(decimal(report["raw"]["per_class_f1"][e], 3) for e in EMOTIONS))
            for name, view, _, report in found
        ]
        parts.append(f"{ROWS[of].capitalize()} (in brackets: rows of the class):\n\n{table(head, rows)}")
    return "## F1 by class\n\n" + "\n\n".join(parts)


def stages(results: Results) -> str:
    """Each model that was trained on from another one: what that changed and cost, and which settings differ."""
    parts = []
    for phase, report in (results.get("stages") or {}).items():  # files of an earlier form have none
        rows = []
        for stage in report["stages"]:
            parts += [f"`{phase}`, {report['suite']}: {' '.join(stage['said'])}"]
            pair = (f"`{stage['parent']}` → `{stage['child']}`",)
            changed = {k: [DASH if v is None else v for v in values] for k, values in stage["changed"].items()}
            rows += [(*pair, f"`{key}`", *values) for key, values in changed.items()]
        parts.append(table(("from → to", "setting", "before", "after"), rows) if rows else "No setting differs.")
    return "## Trained on from another\n\n" + "\n\n".join(parts) if parts else ""


def times(results: Results) -> str:
    """Wall time of each phase, and of it what training took."""
    rows = []
    for name, phase in results["phases"].items():
        unknown = any(attempt["seconds"] is None for attempt in phase["attempts"])
        cells = [
            f"`{name}`",
            phase["kind"],
            ("> " if unknown else "") + duration(phase["seconds"]),
            len(phase["attempts"]),
        ]
        if fit := results["fits"].get(name):
            epochs, speed = len(fit["history"]), fit["history"][-1]["timing"]["images_per_sec"]
            cells += [duration(fit["train_seconds"]), epochs, f"{speed:.0f}", fit["device"].get("threads", DASH)]
        else:
            cells += [DASH] * 4
        rows.append(cells)
    total = duration(sum(phase["seconds"] for phase in results["phases"].values()))
    head = ("phase", "kind", "wall time", "attempts", "of it training", "epochs", "images/s", "threads")
    return (
        f"## Wall time\n\n{table(head, rows)}\n\nThe sum over the phases is {total}; phases may have run side by side. "
        "A wall time marked > lacks an attempt that was ended from outside; the time of training has all epochs."
    )


def ensembles(results: Results) -> str:
    """Members and weights of each soft-label phase, with their validation scores."""
    parts = []
    for phase, record in results["softlabels"].items():
        rows = []
        for t in record["teachers"]:
            val = (percent(t["val_select"]["accuracy"]), decimal(t["val_select"]["macro_f1"]))
            rows.append((f"`{t['model']}`", t["backbone"], decimal(t["weight"], 3), t["epoch"] + 1, *val))
        own = record["ensemble"]
        rows.append(("together", "", DASH, DASH, percent(own["accuracy"]), decimal(own["macro_f1"])))
        view = VIEWS["flip" if record["flip_average"] else "none"]
        said = (
            f"`{phase}`, combined in {record['ensemble_space']} space, {view}; val/select (`{record['evalset_id']}`):"
        )
        head = ("teacher", "backbone", "weight", "epoch kept", "val accuracy", "val macro-F1")
        parts.append(f"{said}\n\n{table(head, rows)}")
    return "## Soft labels\n\n" + "\n\n".join(parts) if parts else ""


def exported(results: Results) -> str:
    """What became of the chosen student: parity, size, the small file's own scores, latency."""
    export = results["export"]
    if export is None:
        return ""
    parity, small = export["parity"], export["parity"].get("compact")
    said = [
        f"`{export['bundle']['name']}`: logits of ONNX and torch differ by at most {parity['max_abs_diff']:.2g} "
        f"(n = {parity['n']}, opset {parity['opset']})."
    ]
    if small:
        said.append(
            f"With weights as int8 the file takes {small['bytes'] / 1e6:.2f} MB where float32 takes "
            f"{small['bytes_fp32'] / 1e6:.2f} MB, and names the same class for {percent(small['label_agreement'])} of "
            f"{small['n']} faces."
        )
    if test := export.get("packaged", {}).get("metrics", {}).get("test"):
        said.append(
            f"That file, measured by itself on all rows (single view, scaled): accuracy {percent(test['accuracy'])}, "
            f"macro-F1 {decimal(test['macro_f1'])}, ECE {decimal(test['ece'])} (`{test['protocol_id']}`)."
        )
    head = ("weights", "runtime", "threads", "batch", "p50 ms", "p95 ms", "p99 ms", "images/s")
    rows = []
    for r in export["latency"]:
        quantiles = (f"{r[k]:.2f}" for k in ("p50_ms", "p95_ms", "p99_ms"))
        rows.append((r["precision"], r["runtime"], r["threads"], r["batch"], *quantiles, f"{r['images_per_sec']:.0f}"))
    return f"## Export\n\n{' '.join(said)}\n\n{table(head, rows)}"


def origin(results: Results) -> str:
    """Runs, commits, machine and packages."""
    environment = results["environment"]
    packages, device = (", ".join(f"{k} {v}" for k, v in environment[part].items()) for part in ("packages", "device"))
    rows = []
    for name, phase in results["phases"].items():
        rows.append((f"`{name}`", f"`{phase['run_id']}`", f"`{phase['git'] or DASH}`", phase["finished"]))
    held = table(("phase", "MLflow run", "commit", "finished"), rows)
    return (
        f"## Where the numbers come from\n\nRun `{results['run_id']}`, exported {results['created']}. Python "
        f"{environment['python']}; {packages}; {device}.\n\n{held}"
    )
