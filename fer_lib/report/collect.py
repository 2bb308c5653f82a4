"""A finished run as one JSON value: parameters, ids, durations, training curves, scores with intervals.

Pages, model cards and comparisons are made from it after the run's folders are gone. It holds no absolute path.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import pandas as pd

from fer_lib.errors import FerError
from fer_lib.pipeline import folders
from fer_lib.storage import paths
from fer_lib.storage.atomic import write_json
from fer_lib.storage.json_files import now, read_json, read_outputs
from fer_lib.tracking import store

FORMAT = 1
_PATH = re.compile(  # an absolute path or a file URI inside a text; group 1 is its last part
    r"(?:(?:file|sqlite):/{1,3}|(?<![\w.:/~@])(?:[A-Za-z]:[\\/]|/))(?:[^\s\\/'\"]+[\\/])+([^\s\\/'\",;)]*)"
)
_DATA_FIELDS = ("manifest_sha256", "rows_total", "rows_valid", "missing_paths", "decode", "duplicates", "counts")
_BUNDLE_FIELDS = ("name", "kind", "model", "face_contract", "temperature", "training_prior", "ids", "metrics")
_SWEEP_FIELDS = ("view", "select_by", "calibration", "differences", "checkpoints")
_EXPORT_FIELDS = ("name", "temperature", "ids", "metrics")


def export(run: str, output: Path | None = None) -> Path:
    """Write :func:`collect` of a run to ``output`` (None: ``<home>/docs/results/<name>.json``) and return the path."""
    results = collect(run)
    return write_json(output or paths.home() / "docs" / "results" / f"{results['name']}.json", results)


def collect(run: str) -> dict[str, Any]:
    """The results of a run as a JSON value, its phases in the order of the plan.

    ``run``: the name of a run (its newest finished one that has an evaluation), an id, or the first digits of an id.
    The phases are those of the run and all that they were built from, whichever run computed these.

    Raises:
        FerError: no such run, no finished evaluation, or a phase has been run again since.
    """
    base = store.configure()
    parent, records = _find_run(run, base)
    tags = parent.data.tags
    results: dict[str, Any] = {
        "format": FORMAT, "name": parent.info.run_name, "created": now(), "run_id": parent.info.run_id,
        "run_file": tags.get("fer.run_file"), "git": tags.get("fer.git"),
        "phases": {r["phase"]: _phase(r, base) for r in records}, "environment": None, "data": None,
        "fits": {}, "checkpoints": {}, "softlabels": {}, "evaluation": None, "stages": {},
        "export": None,
    }  # fmt: skip
    elsewhere = False  # whether the evaluation has models of no phase: packaged, registered or a bundle's folder
    for record in records:
        folder, phase = Path(record["folder"]), record["phase"]
        match record["kind"]:
            case "teacher" | "student":
                results["fits"][phase] = _fit(folder)
                results["environment"] = results["environment"] or read_json(folder / "environment.json")
            case "checkpoints":
                results["checkpoints"][phase] = _checkpoint_sweep(folder, record["inputs"]["fits"])
            case "manifest":
                results["data"] = _fields(read_json(folder / "manifest_validation.json"), _DATA_FIELDS)
            case "softlabels":
                ensemble = read_json(folder / "ensemble_metrics.json")
                results["softlabels"][phase] = read_json(folder / "alignmentreport.json") | {"ensemble": ensemble}
            case "evaluate":
                results["evaluation"] = read_json(folder / "evaluation.json")
                named = record["inputs"].get("models", ())
                elsewhere = any(folders.read_record(Path(value)) is None for value in named)
                if (folder / "stages.json").is_file():
                    results["stages"][phase] = read_json(folder / "stages.json")
            case "export":
                results["export"] = _export(folder)
    _refuse_other_weights(results, elsewhere)
    return without_paths(results)


def packaged_folder(run: str) -> Path:
    """The ONNX-only bundle that the run's export phase made; FerError when it made none."""
    _, records = _find_run(run, store.configure())
    for record in records:
        folder = Path(record["folder"]) / "packaged"
        if record["kind"] == "export" and folder.is_dir():
            return folder
    raise FerError(f"run {run!r} made no bundle for the package: set compact: true in its export phase, run again")


def _find_run(run: str, base: Path) -> tuple[Any, list[dict[str, Any]]]:
    """The parent run and the records of its phases, in order."""
    parents = _search("tags.`fer.kind` = 'run'", "DESC")
    is_id = bool(re.fullmatch(r"[0-9a-f]{6,32}", run))
    candidates = [p for p in parents if p.info.run_name == run or (is_id and p.info.run_id.startswith(run))]
    if not candidates:
        names = ", ".join(dict.fromkeys(p.info.run_name for p in parents)) or "none"
        raise FerError(f"no run is called {run!r} (there are: {names}); `fer runs` lists them with their ids")
    for parent in candidates:
        artifacts = Path(url2pathname(urlparse(parent.info.artifact_uri).path))  # the store's artifacts are local files
        if not ((artifacts / "phases.json").is_file() and (artifacts / "plan.json").is_file()):
            continue  # killed before it wrote its phases
        if parent.info.status != "FINISHED" and parent.info.run_name == run:
            continue  # a name selects finished runs only; an id also selects the finished phases of a failed run
        rows, plan = read_json(artifacts / "phases.json")["phases"], read_json(artifacts / "plan.json")
        if parent.info.run_name == run and all(phase.get("smoke") for phase in plan.values()):
            continue  # a --smoke run of the same file
        records = _lineage([base / row["folder"] for row in rows if row["status"] in ("ran", "re-used")], list(plan))
        if any(record["kind"] == "evaluate" for record in records):
            return parent, records
    raise FerError(
        f"no run {run!r} has a finished evaluation to report: run its file to the end without --smoke, then export it "
        "again; a smoke run is exported by its id"
    )


def _search(condition: str, order: str) -> list[Any]:
    """The MLflow runs for which a filter string holds, by start time (``ASC`` or ``DESC``)."""
    import mlflow

    return mlflow.search_runs(
        search_all_experiments=True, filter_string=condition, output_format="list",
        order_by=[f"attributes.start_time {order}"], max_results=1000,
    )  # fmt: skip


def _lineage(phase_folders: list[Path], order: list[str]) -> list[dict[str, Any]]:
    """Records of these phase folders and of all that they were built from, in the order of the plan."""
    records: dict[str, dict[str, Any]] = {}
    waiting = list(phase_folders)
    while waiting:
        folder = waiting.pop(0)
        record = folders.read_record(folder)
        if record is None:
            continue  # an input that is no phase: a bundle, a registry URI, a raw folder
        first = records.setdefault(record["phase"], record)
        if Path(first["folder"]) != folder:
            raise FerError(
                f"the run was built from two attempts of phase {record['phase']!r}: {Path(first['folder']).name} and "
                f"{folder.name}; run its file again with --fresh, so that all phases share one"
            )
        if first is record:
            inputs = (v for value in record["inputs"].values() for v in (value if isinstance(value, list) else [value]))
            waiting += [Path(value) for value in inputs if value]
    return sorted(records.values(), key=lambda r: order.index(r["phase"]) if r["phase"] in order else len(order))


def _phase(record: dict[str, Any], base: Path) -> dict[str, Any]:
    """Parameters, outputs and attempts of one phase."""
    outputs = read_outputs(record["folder"])
    attempts, git = _attempts(record, base)
    return {
        "kind": record["kind"], "key": record["key"], "run_id": record["run_id"], "git": git,
        "finished": record["finished"], "seconds": round(sum(a["seconds"] or 0 for a in attempts), 1),
        "attempts": attempts, "params": record["params"], "ids": outputs.get("ids", {}),
        "headline": outputs.get("headline"),
    }  # fmt: skip


def _attempts(record: dict[str, Any], base: Path) -> tuple[list[dict[str, Any]], str | None]:
    """The MLflow runs that wrote this phase folder, oldest first, and the commit of the last one."""
    attempts, git = [], None
    for run in _search(f"tags.`fer.folder` = '{paths.below(Path(record['folder']), base)}'", "ASC"):
        tags, info = run.data.tags, run.info
        if info.run_id == record["run_id"]:
            git = tags.get("fer.git")
            continue
        # a killed attempt ended when ``fer runs reap`` noticed
        ended = info.end_time is not None and "fer.reaped" not in tags
        seconds = round((info.end_time - info.start_time) / 1000, 1) if ended else None
        attempts.append({"run_id": info.run_id, "status": info.status, "seconds": seconds})
    attempts.append({"run_id": record["run_id"], "status": "FINISHED", "seconds": record["seconds"]})
    return attempts, git


def _fit(folder: Path) -> dict[str, Any]:
    """Training curves of a fit, its data and settings, and the bundle of its best epoch."""
    history, alignment = read_json(folder / "history.json"), read_json(folder / "alignmentreport.json")
    return _fields(read_json(folder / "best" / "bundle.json"), _BUNDLE_FIELDS) | {
        "train_seconds": history[-1]["timing"]["total_sec"],
        "data": alignment["data"],
        "optim": alignment["optim"],
        "init": {"resume": alignment["init"]["resume"], "pretrained": alignment["model"]["pretrained"]},
        "device": read_json(folder / "environment.json")["device"],
        "history": history,
    }


def _checkpoint_sweep(folder: Path, fits: list[str]) -> dict[str, Any]:
    """Scores of each checkpoint, the selected bundle, and ``of``, the phase that trained it."""
    sweep = read_json(folder / "sweep.json")
    fit = next(folders.read_record(Path(fit)) for fit in fits if Path(fit).name == sweep["chosen"]["folder"])
    bundle = _fields(read_json(folder / "bundle" / "bundle.json"), _BUNDLE_FIELDS)
    return bundle | _fields(sweep, _SWEEP_FIELDS) | {"of": fit and fit["phase"]}


def _export(folder: Path) -> dict[str, Any]:
    """The exported student: ONNX parity, latency, its bundle, and the packaged bundle of a compact export."""
    latency = pd.read_csv(folder / "latencybenchmarks.csv", float_precision="round_trip").to_dict("records")
    results = {"parity": read_json(folder / "onnxparity.json"), "latency": latency}
    for name in ("bundle", "packaged"):
        if name == "bundle" or (folder / name / "bundle.json").is_file():
            bundle = read_json(folder / name / "bundle.json")
            sizes = {file: (folder / name / file).stat().st_size for file in sorted(bundle["files"])}
            results[name] = _fields(bundle, _EXPORT_FIELDS) | {"bytes": sizes}
    return results


def _fields(record: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: record[name] for name in names}


def _refuse_other_weights(results: dict[str, Any], elsewhere: bool = False) -> None:
    """FerError when the evaluated or exported weights are not those of the fits: a fit was trained again since."""
    trained = {fit["ids"]["weights_sha256"] for part in ("fits", "checkpoints") for fit in results[part].values()}
    names = {fit.get("name") for part in ("fits", "checkpoints") for fit in results[part].values()}
    models = results["evaluation"]["models"].items()
    # packaged and registered models come from no fit of this run
    weights = [(name, model.get("weights_sha256")) for name, model in models if name in names or not elsewhere]
    if results["export"] is not None:
        weights.append(("the exported bundle", results["export"]["bundle"]["ids"]["weights_sha256"]))
    if stale := [name for name, sha256 in weights if sha256 and sha256 not in trained]:
        raise FerError(f"{', '.join(stale)}: evaluated with weights of no fit of this run; run its file again")


def without_paths(value: Any, home: Path | None = None) -> Any:
    """A JSON value without ``uri`` keys, absolute paths and non-finite numbers.

    A path below the home becomes relative to it; of any other path, the last part is left. NaN and infinity become
    None. ``home`` is by default :func:`fer_lib.storage.paths.home`.
    """
    home = home or paths.home()
    if isinstance(value, dict):
        return {str(k): without_paths(v, home) for k, v in value.items() if k != "uri"}
    if isinstance(value, (list, tuple)):
        return [without_paths(item, home) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if not isinstance(value, str):
        return value
    for prefix in sorted({home.as_uri(), home.as_posix(), str(home)}, key=len, reverse=True):
        value = value.replace(f"{prefix}/", "").replace(f"{prefix}\\", "")
    if re.match(r"/[^/\s]|[A-Za-z]:[\\/]", value) and "\n" not in value:  # the whole text is a path, blanks included
        return re.split(r"[\\/]", value.rstrip("\\/"))[-1]
    return _PATH.sub(r"\1", value)
