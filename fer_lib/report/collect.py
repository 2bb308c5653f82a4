"""A finished run as one JSON file that outlives the store: parameters, ids, times, curves, metrics with intervals.

The file is what a page, a model card and a comparison are made from, so it holds no path of the machine it was made on.
"""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from fer_lib.errors import FerError
from fer_lib.pipeline import folders
from fer_lib.storage import paths
from fer_lib.storage.atomic import write_json
from fer_lib.storage.json_files import now, read_json, read_outputs
from fer_lib.tracking import store

FORMAT = 1
FITS = ("teacher", "student")
_PATH = re.compile(  # an absolute path or a file URI inside a text; what is kept of it is its last part
    r"(?:(?:file|sqlite):/{1,3}|(?<![\w.:/~@])(?:[A-Za-z]:[\\/]|/))(?:[^\s\\/'\"]+[\\/])+([^\s\\/'\",;)]*)"
)
_CHECKED = ("manifest_sha256", "rows_total", "rows_valid", "missing_paths", "decode", "duplicates", "counts")
_OF_BUNDLE = ("name", "kind", "model", "face_contract", "temperature", "training_prior", "ids", "metrics")


def export(run: str, output: Path | None = None) -> Path:
    """Write :func:`collect` of a run to ``output`` (blank: ``<home>/docs/results/<name>.json``) and return the path."""
    report = collect(run)
    return write_json(output or paths.home() / "docs" / "results" / f"{report['name']}.json", report)


def collect(run: str) -> dict[str, Any]:
    """Everything that is reported of a run, JSON-ready, in the order of its phases.

    ``run``: the name of a run (its newest finished one that reached an evaluation), or the id of one, or how it begins.
    The phases are those that the run names and all that they were built from, also when these ran earlier.

    Raises:
        FerError: there is no such run, it has no finished evaluation, or what it names has changed since.
    """
    base = store.configure()
    parent, records = _find(run, base)
    tags = parent.data.tags
    clean = _Scrubber(base)
    report: dict[str, Any] = {
        "format": FORMAT, "name": parent.info.run_name, "created": now(), "run_id": parent.info.run_id,
        "run_file": tags.get("fer.run_file"), "git": tags.get("fer.git"),
        "phases": {r["phase"]: _phase(r, base) for r in records}, "environment": None, "data": None,
        "fits": {}, "checkpoints": {}, "softlabels": {}, "evaluation": None, "stages": {},
        "export": None,
    }  # fmt: skip
    for record in records:
        folder, kind = Path(record["folder"]), record["kind"]
        if kind in FITS:
            report["fits"][record["phase"]] = _fit(folder)
            report["environment"] = report["environment"] or read_json(folder / "environment.json")
        elif kind == "checkpoints":
            report["checkpoints"][record["phase"]] = _chosen(folder, record["inputs"]["fits"])
        elif kind == "manifest":
            checked = read_json(folder / "manifest_validation.json")
            report["data"] = {k: checked[k] for k in _CHECKED}
        elif kind == "softlabels":
            said = read_json(folder / "alignmentreport.json")
            report["softlabels"][record["phase"]] = said | {"ensemble": read_json(folder / "ensemble_metrics.json")}
        elif kind == "evaluate":
            report["evaluation"] = read_json(folder / "evaluation.json")
            if (folder / "stages.json").is_file():
                report["stages"][record["phase"]] = read_json(folder / "stages.json")
        elif kind == "export":
            report["export"] = _export(folder)
    _same_weights(report)
    return clean(report)


def packaged_folder(run: str) -> Path:
    """The small bundle that the run's export phase made for the package; FerError when it made none."""
    _, records = _find(run, store.configure())
    for record in records:
        folder = Path(record["folder"]) / "packaged"
        if record["kind"] == "export" and folder.is_dir():
            return folder
    raise FerError(f"run {run!r} made no bundle for the package: set compact: true in its export phase, run again")


def _find(run: str, base: Path) -> tuple[Any, list[dict[str, Any]]]:
    """The parent run and the records of its phases, in order."""
    import mlflow

    client = mlflow.MlflowClient()
    experiments = [e.experiment_id for e in client.search_experiments()]
    parents = client.search_runs(
        experiments, "tags.`fer.kind` = 'run'", order_by=["attributes.start_time DESC"], max_results=1000
    )
    by_id = bool(re.fullmatch(r"[0-9a-f]{6,32}", run))
    named = [p for p in parents if p.info.run_name == run or (by_id and p.info.run_id.startswith(run))]
    if not named:
        known = ", ".join(dict.fromkeys(p.info.run_name for p in parents)) or "none"
        raise FerError(f"no run is called {run!r} (there are: {known}); `fer runs` lists them with their ids")
    for parent in named:
        held = Path(url2pathname(urlparse(parent.info.artifact_uri).path))  # the store's artifacts are local files
        if not ((held / "phases.json").is_file() and (held / "plan.json").is_file()):
            continue  # killed before it could say what it did
        if parent.info.status != "FINISHED" and parent.info.run_name == run:
            continue  # a run by name is one that went well; by id, what it finished is taken
        rows, plan = read_json(held / "phases.json")["phases"], read_json(held / "plan.json")
        records = _lineage([base / row["folder"] for row in rows if row["status"] in ("ran", "re-used")], list(plan))
        if any(record["kind"] == "evaluate" for record in records):
            return parent, records
    raise FerError(f"no run {run!r} has a finished evaluation to report: run its file to the end, then export it again")


def _lineage(of: list[Path], order: list[str]) -> list[dict[str, Any]]:
    """Records of these phase folders and of all that they were built from, in the order of the plan."""
    found: dict[str, dict[str, Any]] = {}
    waiting = list(of)
    while waiting:
        folder = waiting.pop(0)
        record = folders.done(folder)
        if record is None:
            continue  # an input that is no phase: a bundle, a registry URI, a raw folder
        known = found.setdefault(record["phase"], record)
        if Path(known["folder"]) != folder:
            raise FerError(
                f"the run was built from two attempts of phase {record['phase']!r}: {Path(known['folder']).name} and "
                f"{folder.name}; run its file again, so that all phases share one"
            )
        if known is record:
            inputs = (v for value in record["inputs"].values() for v in (value if isinstance(value, list) else [value]))
            waiting += [Path(value) for value in inputs if value]
    return sorted(found.values(), key=lambda r: order.index(r["phase"]) if r["phase"] in order else len(order))


def _phase(record: dict[str, Any], base: Path) -> dict[str, Any]:
    """One phase: what it was asked, what it handed on, and how long each of its attempts took."""
    outputs = read_outputs(record["folder"])
    attempts, git = _attempts(record, base)
    known = [a["seconds"] for a in attempts if a["seconds"] is not None]
    return {
        "kind": record["kind"], "key": record["key"], "run_id": record["run_id"], "git": git,
        "finished": record["finished"], "seconds": round(sum(known), 1), "attempts": attempts,
        "params": record["params"], "ids": outputs.get("ids", {}), "headline": outputs.get("headline"),
    }  # fmt: skip


def _attempts(record: dict[str, Any], base: Path) -> tuple[list[dict[str, Any]], str | None]:
    """Every MLflow run that wrote this folder, oldest first, and the commit that the last one ran from.

    ``seconds`` is None for one that was ended from outside: its end is when that was noticed.
    """
    import mlflow

    client = mlflow.MlflowClient()
    folder = Path(record["folder"])
    name = (folder.relative_to(base) if folder.is_relative_to(base) else folder).as_posix()
    experiments = [e.experiment_id for e in client.search_experiments()]
    wrote = client.search_runs(experiments, f"tags.`fer.folder` = '{name}'", order_by=["attributes.start_time ASC"])
    attempts, git = [], None
    for run in wrote:
        tags, info = run.data.tags, run.info
        if info.run_id == record["run_id"]:
            git = tags.get("fer.git")
            continue
        ended = info.end_time is not None and "fer.reaped" not in tags
        seconds = round((info.end_time - info.start_time) / 1000, 1) if ended else None
        attempts.append({"run_id": info.run_id, "status": info.status, "seconds": seconds})
    attempts.append({"run_id": record["run_id"], "status": "FINISHED", "seconds": record["seconds"]})
    return attempts, git


def _fit(folder: Path) -> dict[str, Any]:
    """One training: its curves, and what the bundle of its best epoch says about itself."""
    bundle, history = read_json(folder / "best" / "bundle.json"), read_json(folder / "history.json")
    said = read_json(folder / "alignmentreport.json")
    return {k: bundle[k] for k in _OF_BUNDLE} | {
        "train_seconds": history[-1]["timing"]["total_sec"],
        "data": said["data"],
        "optim": said["optim"],
        "init": {"resume": said["init"]["resume"], "pretrained": said["model"]["pretrained"]},
        "device": read_json(folder / "environment.json")["device"],
        "history": history,
    }


def _chosen(folder: Path, fits: list[str]) -> dict[str, Any]:
    """A sweep over checkpoints: each one's scores, the chosen bundle, and ``of``, the phase that trained it."""
    bundle, swept = read_json(folder / "bundle" / "bundle.json"), read_json(folder / "sweep.json")
    trained = next(folders.done(Path(fit)) for fit in fits if Path(fit).name == swept["chosen"]["folder"])
    said = {k: swept[k] for k in ("view", "select_by", "calibration", "differences", "checkpoints")}
    return {k: bundle[k] for k in _OF_BUNDLE} | said | {"of": trained and trained["phase"]}


def _export(folder: Path) -> dict[str, Any]:
    """The exported student: parity of its file, latency, and the small bundle for the package where there is one."""
    with open(folder / "latencybenchmarks.csv", newline="", encoding="utf-8") as stream:
        latency = [{k: _number(v) for k, v in row.items()} for row in csv.DictReader(stream)]
    report = {"parity": read_json(folder / "onnxparity.json"), "latency": latency}
    for name in ("bundle", "packaged"):
        meta = folder / name / "bundle.json"
        if name == "packaged" and not meta.is_file():
            continue  # only a compact export writes one
        said = read_json(meta)
        sizes = {file: (meta.parent / file).stat().st_size for file in sorted(said["files"])}
        report[name] = {k: said[k] for k in ("name", "temperature", "ids", "metrics")} | {"bytes": sizes}
    return report


def _number(text: str) -> Any:
    try:
        return float(text) if re.search(r"[.eE]", text) else int(text)
    except ValueError:  # a name
        return text


def _same_weights(report: dict[str, Any]) -> None:
    """What was evaluated and exported are the weights of the fits; FerError when one was trained again since."""
    fits = {f["ids"]["weights_sha256"] for part in ("fits", "checkpoints") for f in report[part].values()}
    measured = [(n, m["weights_sha256"]) for n, m in report["evaluation"]["models"].items() if m.get("weights_sha256")]
    if report["export"] is not None:
        measured.append(("the exported bundle", report["export"]["bundle"]["ids"]["weights_sha256"]))
    if stale := [name for name, weights in measured if weights not in fits]:
        raise FerError(f"{', '.join(stale)}: the evaluated weights are of no training of this run; run its file again")


class _Scrubber:
    """Copies JSON values without paths of this machine (below the home: relative; else their last part) and NaN."""

    def __init__(self, base: Path):
        self.prefixes = sorted({base.as_uri(), base.as_posix(), str(base)}, key=len, reverse=True)

    def __call__(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {str(k): self(v) for k, v in value.items() if k != "uri"}
        if isinstance(value, (list, tuple)):
            return [self(item) for item in value]
        if isinstance(value, float) and not math.isfinite(value):
            return None
        return self._text(value) if isinstance(value, str) else value

    def _text(self, text: str) -> str:
        for prefix in self.prefixes:
            text = text.replace(f"{prefix}/", "").replace(f"{prefix}\\", "")
        if re.match(r"/[^/\s]|[A-Za-z]:[\\/]", text) and "\n" not in text:  # all of it is one, blanks included
            return re.split(r"[\\/]", text.rstrip("\\/"))[-1]
        return _PATH.sub(r"\1", text)


def without_paths(value: Any) -> Any:
    """A JSON value as :func:`collect` would keep it: no absolute path, no folder keys, no NaN."""
    return _Scrubber(paths.home())(value)
