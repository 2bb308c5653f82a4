"""Each notebook, run by papermill on drawn faces: what lands in MLflow, down to the keys of its JSON files."""

import base64
import csv
import json
import math
import re
from pathlib import Path

import pytest
from road import PHASES, red_boxes

from fer_lib.emotions import EMOTIONS
from fer_lib.params import KINDS
from fer_lib.pipeline.runfile import input_fields, load_run
from fer_lib.storage.paths import below

TEACHERS = ("teacher_a", "teacher_b")
STUDENTS = ("student_ce", "student_kd", "student_dkd")
FITS = TEACHERS + STUDENTS
IDS = "evalset_id, protocol_id, n_expected, n_used"
LIVE = "accuracy, macro_f1, macro_f1_present, coverage, per_class_f1, support, confusion, flips_per_min"
SCORES = "accuracy, macro_f1, per_class_f1, nll, ece, brier"
# the keys that a reader of these files may rely on; a{b, c}: a mapping, a[{b}]: a list of mappings, |null: or nothing
FIT_FILES = {
    "alignmentreport.json":
        "time, device{backend, detail}, paths{manifest, manifest_sha256}, seed, model{name, pretrained, "
        "weights_sha256, image_size, embed_dim}, data{rows_total_before_filter, rows_total_after_filter, "
        "source_counts_after_filter, train_rows, val_rows, class_counts, source_filter{include_sources, "
        "exclude_sources}}, protocol{"
        "plain_logits_warmup_epochs, margin_ramp_start, margin_ramp_end, arcface_m_max, arcface_s}, optim{name, lr, "
        "weight_decay, lr_warmup_epochs, min_lr, total_steps, warmup_steps}, batching{batch_size, accum_steps, "
        "min_per_class, cb_beta}, aug{clahe, clahe_clip, clahe_tile}, calibration{eval_every, temperature_scaling}, "
        "init{init_from, resume}",
    "history.json":
        "[{epoch, train{loss, coverage}, val{accuracy, macro_f1, per_class_f1, nll, ece}|null, "
        "calibration{mode, temperature}, lr, timing{epoch_sec, total_sec, images_per_sec}}]",
    "reliabilitymetrics.json":
        f"epoch, {IDS}, raw{{{SCORES}}}, temperature_scaled{{mode, global_temperature, temperature_vector, {SCORES}}}",
    "calibration.json": "epoch, mode, global_temperature, temperature_vector, fitted_on, view, n, note",
    "environment.json": "time, python, git{commit, dirty}, packages, torch, device, lock_sha256",
}  # fmt: skip
MANIFEST_FILES = {
    "manifest_validation.json":
        "manifest, root, rows_total, rows_valid, bad_labels, missing_paths, decode{attempted, ok, fail}, "
        "boxes_outside, duplicates{exact, near, across_splits}, counts{by_source, by_source_split_label}, canonical",
}  # fmt: skip
GROUPS = "groups, rows, across_splits, across_sources, conflicting_labels"
FILES = {
    "check": {"environment.json": FIT_FILES["environment.json"], "device.json": "name, step_seconds"},
    "import": {
        "clean_report.json":
            "canonical, mode, source_root, out_root, warnings, reports[{type, dataset, source, output, splits, "
            "excluded, missing_images, notes}], manifest{rows, counts}",
    },
    "manifest": MANIFEST_FILES,
    "curated": MANIFEST_FILES | {
        "curation_report.json":
            "selection, params, inputs[{manifest_sha256, rows}], steps[{step, removed, left}], rows_total, rows_kept, "
            "manifest_sha256, counts{by_source, by_source_split_label}",
    },
    **{name: FIT_FILES for name in FITS},
    "checkpoints": {
        "sweep.json":
            "manifest_sha256, evalset_id, n_expected, n_used, view, select_by, leaks, differences, checkpoints[{fit, "
            f"checkpoint, epochs, weights_sha256, temperature{{mode}}, raw{{{SCORES}}}, calibrated{{{SCORES}}}, "
            f"{IDS}}}], chosen{{fit, checkpoint, epochs, interval}}",
    },
    "softlabels": {
        "alignmentreport.json":
            "manifest_sha256, split, rows, image_size, use_clahe, teachers[{uri, model, epoch, weight}], "
            "ensemble_space, logits_kind",
        "ensemble_metrics.json": f"{SCORES}, {IDS}",
    },
    "evaluate": {
        "evaluation.json":
            "suite, split, sources, manifest_sha256, temperature_from, sets{all, leak_free}, by_source, models",
        "stages.json":
            "suite, split, sources, manifest_sha256, view, interval{method, level, resamples, seed, ece}, "
            "stages[{parent, child, changed, scores{all{evalset_id, protocol_id, n_expected, n_used, "
            "difference{macro_f1{value, lo, hi}}, mcnemar{only_before, only_after, p}}, leak_free}, "
            "cost{parent{train_seconds}, child{train_seconds}}, said}]",
    },
    "ablation": {
        "ablation.json":
            "control, variants{ce, kd, dkd}, interval{method, level, resamples, seed}, evaluations[{suite, split, "
            "manifest_sha256, metric_version, evalset_id, sources{fer2013{evalset_id, n, leaked, classes_present, "
            "variants{ce{accuracy{values, mean, sd}, macro_f1_present}, kd{accuracy{values, mean, sd, "
            "difference{value, lo, hi, by_seed, verdict}}}}}}}]",
    },
    "export": {"onnxparity.json": "max_abs_diff, providers, opset, n"},
    "audit": {
        "audit.json":
            f"manifest_sha256, rows, params{{near, similarity, remove}}, exact{{{GROUPS}}}, with_near{{{GROUPS}}}, "
            "sources{names, groups, rows}, splits{names, groups, rows}, leaks{test{rows, exact, by_source}, val}, "
            "conflicts, rule, removed{rows, by_split, by_source, by_label}, clean{manifest, sha256, rows, leaks}",
        "label_noise.json": "manifest_sha256, rows, noise_matrix, per_class, top",
    },
    "adapt": FIT_FILES | {
        "gates.json":
            "passed, mark, learned_from_gate_session, said, manifest_sha256, base{name, weights_sha256}, "
            "candidate{name, weights_sha256}, gates[{gate, evalset_id, protocol_id{base, candidate}, n_expected, "
            "n_used, decide_by, scores, passed}]",
        "buffers/0/buffer.json": "session, session_sha256, frames, rows, manifest_sha256, counts, left_out, params",
    },
    "score": {
        "score.json":
            f"protocol, model, ckpt, detector, segments, segments_scored, smoothing, {IDS}, raw{{{LIVE}}}, "
            f"smoothed{{{LIVE}}}",
    },
}  # fmt: skip
COLUMNS = "model precision runtime threads batch size p50_ms p95_ms p99_ms images_per_sec".split()
FIGURES = {
    "check": set(),
    "import": {"imported_rows.png", "contact_fer2013.png"},
    **{n: {"rows.png", "contact_fer2013.png", "face_contract_steps.png"} for n in ("manifest", "curated")},
    **{
        name: {"augmented_batch.png", "training_curves.png", "confusion_val_select.png", "per_class_f1_val_select.png"}
        | {"answers_val_select.png"}
        for name in FITS
    },
    "checkpoints": {"checkpoints.png", "reliability_chosen.png"},
    "softlabels": {"disagreement.png", "ensemble_ranking.png"},
    "evaluate": {"reliability_raw.png", "reliability_scaled.png", "confusion_matrix.png", "per_class_f1.png"}
    | {"stages.png", "sources.png", "transfer.png"}
    | {
        f"{name}_{of}.png"
        for name in (*FITS, "ensemble")
        for of in ("reliability_raw", "reliability_scaled", "confusion")
    },
    "ablation": {"differences.png"},
    "export": {"annotated_photo.png"},
    "audit": {"matrices.png", "across_splits.png", "noise_matrix.png", "label_noise.png"},
    "adapt": {"contact_live.png", "training_curves.png", "before_after.png"},
    "score": {"faces_1.png", "timeline.png", "per_class.png", "study.png"},
}


def shape(text: str):
    """``a, b{c}, d[{e}]|null`` as nested dicts, one-element lists and None for leaves; ``?`` ends names that may be
    null."""
    tokens = re.findall(r"\w+|\[\{|\}\]|\|null|[{},]", text)

    def members():
        found = {}
        while tokens:
            if tokens[0] == ",":
                tokens.pop(0)
            elif tokens[0] in ("}", "}]"):
                return found
            else:
                name, inner = tokens.pop(0), None
                if tokens and tokens[0] in ("{", "[{"):
                    inner = [members()] if tokens.pop(0) == "[{" else members()
                    tokens.pop(0)
                if tokens and tokens[0] == "|null":
                    tokens.pop(0)
                    name += "?"
                found[name] = inner
        return found

    if tokens[0] != "[{":
        return members()
    tokens.pop(0)
    return [members()]


def lacking(wanted, value, where: str = "") -> list[str]:
    """What ``value`` lacks of a shape, as dotted paths."""
    if wanted is None:
        return []
    if isinstance(wanted, list):
        if not isinstance(value, list) or not value:
            return [f"{where}: not a filled list"]
        return [path for i, item in enumerate(value) for path in lacking(wanted[0], item, f"{where}[{i}]")]
    if not isinstance(value, dict):
        return [f"{where}: not a mapping"]
    found = []
    for name, inner in wanted.items():
        optional, name = name.endswith("?"), name.removesuffix("?")
        if name not in value:
            found.append(f"{where}.{name}")
        elif not (optional and value[name] is None):
            found += lacking(inner, value[name], f"{where}.{name}")
    return found


def test_the_reading_of_shapes_sees_what_is_missing():
    wanted = shape("[{a, b{c}|null, d[{e, f}]}]")
    assert wanted == [{"a": None, "b?": {"c": None}, "d": [{"e": None, "f": None}]}]
    assert lacking(wanted, [{"a": 1, "b": None, "d": [{"e": 1, "f": 2}], "more": 1}]) == []
    assert lacking(wanted, [{"b": {}, "d": [{"e": 1}]}]) == ["[0].a", "[0].b.c", "[0].d[0].f"]
    assert lacking(wanted, []) and lacking(wanted, [{"a": 1, "b": {"c": 1}, "d": []}])


@pytest.fixture
def parent(walked):
    return walked.walk[0]


@pytest.fixture
def nested(walked):
    return walked.walk[1]


def names(walked, run, folder: str) -> set[str]:
    import mlflow

    found = mlflow.MlflowClient().list_artifacts(run.info.run_id, folder)
    return {item.path.removeprefix(f"{folder}/") for item in found}


def test_one_parent_with_a_nested_run_a_phase(walked, parent, nested):
    assert walked.first.code == 0, walked.first.out + walked.first.err
    assert parent.info.run_name == "tiny" and parent.info.status == "FINISHED"
    assert set(nested) == set(PHASES) and {run.info.status for run in nested.values()} == {"FINISHED"}
    assert walked.statuses(parent) == dict.fromkeys(PHASES, "ran")
    plan = walked.json(parent, "plan.json")
    assert list(plan) == list(PHASES) and plan["student_kd"]["mode"] == "kd"
    assert "tiny.yaml" in names(walked, parent, "")
    for name in PHASES:
        assert re.search(rf"│ {name} +│ ran ", walked.first.out), f"{name} is not in the printed table"
    assert "chance" in walked.first.out and "fer ui" in walked.first.out


def test_no_hidden_file_is_attached(walked, nested):
    for name in PHASES:
        assert not [path for path in names(walked, nested[name], "") if path.startswith(".")], name


def test_a_phase_that_read_test_rows_says_so(walked, nested):
    opened = {name for name in PHASES if "test_openings.jsonl" in names(walked, nested[name], "")}
    assert opened == {"evaluate"}
    lines = map(json.loads, (walked.home / "mlruns" / "test_openings.jsonl").read_text().splitlines())
    run = nested["evaluate"]
    [line] = [line for line in lines if line["run_id"] == run.info.run_id]
    assert (line["phase"], line["purpose"]) == ("evaluate", "evaluation")
    assert line["evalset_id"] == run.data.tags["fer.id.evalset_id"]
    assert "Readings of these test rows in this store so far: 1." in run.data.tags["mlflow.note.content"]


@pytest.mark.parametrize("phase", PHASES)
def test_every_parameter_is_logged(walked, nested, phase):
    from fer_lib.storage.json_files import flatten

    planned = load_run(walked.file).phase(phase)
    values = flatten(planned.params.model_dump(mode="json", exclude={"output_dir"}))
    wanted = {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
    logged = nested[phase].data.params
    assert set(logged) == set(wanted)
    inputs = input_fields(planned.kind)
    assert {k: v for k, v in logged.items() if k not in inputs} == {k: v for k, v in wanted.items() if k not in inputs}
    for name, spec in inputs.items():
        folders = {source.name: nested[source.name].data.tags["fer.folder"] for source in planned.inputs[name]}
        value = json.loads(logged[name]) if spec.many else [logged[name]] if logged[name] else []
        assert value == list(folders.values()), "an input is written as the folder that it was, relative to the home"


@pytest.mark.parametrize("phase", PHASES)
def test_the_executed_notebook_and_its_page_are_attached(walked, nested, phase):
    run = nested[phase]
    stem = KINDS[run.data.tags["fer.kind"]][1]
    assert names(walked, run, "notebook") == {f"{stem}.ipynb", f"{stem}.html"}
    cells = walked.json(run, f"notebook/{stem}.ipynb")["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code), "a cell was not executed"
    assert red_boxes(cells) == []
    outputs = [output for cell in code for output in cell["outputs"]]
    assert "<Figure" not in json.dumps(outputs), "a figure is drawn again, or named instead of shown"
    figures = {base64.b64decode(o["data"]["image/png"]) for o in outputs if "image/png" in o.get("data", {})}
    assert figures <= {walked.artifact(run, f"figures/{name}").read_bytes() for name in FIGURES[phase]}
    assert bool(figures) == bool(FIGURES[phase])
    page = walked.artifact(run, f"notebook/{stem}.html").read_text()
    title = "".join(cells[0]["source"]).splitlines()[0].lstrip("# ")
    assert title in page and len(page) > 10_000


@pytest.mark.parametrize("phase", PHASES)
def test_figures_json_files_and_log_entry(walked, nested, phase):
    run = nested[phase]
    assert names(walked, run, "figures") == FIGURES[phase]
    for name in FIGURES[phase]:
        assert walked.artifact(run, f"figures/{name}").read_bytes()[:4] == b"\x89PNG"
    for name, keys in FILES[phase].items():
        assert lacking(shape(keys), walked.json(run, name), name) == []
    note = run.data.tags["mlflow.note.content"]
    headings = re.findall(r"\*\*(\w+)\.\*\* \S", note)
    assert headings[0] == "Intent" and headings[-1] == "Next"
    assert [h for h in ("Intent", "Action", "Result", "Decision", "Next") if h in headings] == headings
    assert "Action" in headings and "Result" in headings
    assert re.fullmatch(r"[0-9a-f]{64}", run.data.tags["fer.key"]) and run.data.tags["fer.phase"] == phase
    outputs = walked.json(run, "outputs.json")
    assert outputs["ids"] and outputs["headline"]
    assert {run.data.tags[f"fer.id.{name}"] for name in outputs["ids"]} == {str(v) for v in outputs["ids"].values()}


def test_rows_are_counted_alike_from_the_raw_files_to_the_evaluation(walked, nested):
    report = walked.json(nested["import"], "clean_report.json")
    [entry] = report["reports"]
    counted = {split: sum(labels.values()) for split, labels in entry["splits"].items()}
    assert sum(counted.values()) == report["manifest"]["rows"] == sum(report["manifest"]["counts"].values())
    validation = walked.json(nested["manifest"], "manifest_validation.json")
    assert validation["rows_total"] == validation["rows_valid"] == report["manifest"]["rows"]
    assert validation["decode"] == {"attempted": validation["rows_total"], "ok": validation["rows_total"], "fail": 0}
    assert validation["duplicates"]["exact"] == 6 + 9 and validation["duplicates"]["across_splits"] == 9
    assert validation["canonical"] == list(EMOTIONS) == report["canonical"]
    evaluation = walked.json(nested["evaluate"], "evaluation.json")
    every, clean = evaluation["sets"]["all"], evaluation["sets"]["leak_free"]
    assert every["n_used"] == every["n_expected"] == counted["test"]
    twins = walked.json(nested["manifest"], "outputs.json")["headline"]["test twins in train"]
    assert 0 < twins <= 9 and clean["n_used"] == every["n_used"] - twins and clean["removed"] == twins
    known = {"rows": twins, "by_source": {"fer2013": twins}, "chosen_on": 0}
    assert evaluation["leaks"] == known | {"allowed": ["fer2013"], "unrecorded": []}
    assert f"{twins} of these rows are also in train" in nested["evaluate"].data.tags["mlflow.note.content"]
    audit = walked.json(nested["audit"], "audit.json")
    assert audit["rows"] == validation["rows_total"] and audit["exact"]["groups"] == 6 + 9
    assert audit["leaks"]["test"]["exact"] == twins and audit["clean"]["leaks"] == {"test": 0, "val": 0}
    assert audit["clean"]["by_split"]["test"] == counted["test"]
    left = nested["audit"].data.tags["fer.id.manifest_sha256"]
    assert left == audit["clean"]["sha256"] != validation["manifest_sha256"]


def test_a_run_file_curates_and_joins(walked, nested):
    """The manifest of the imports joined with an earlier one of the same, then narrowed: all of it counted and kept."""
    import pandas as pd

    from fer_lib.datasets.manifest import Manifest

    run, built = nested["curated"], Manifest.read(walked.folder(nested["manifest"]) / "manifest.parquet")
    report = walked.json(run, "curation_report.json")
    assert report["rows_in_several"] == report["rows_total"] == len(built)
    assert report["inputs"] == [{"manifest_sha256": built.sha256, "rows": len(built)}], "both are the same rows"
    kept = Manifest.read(walked.folder(run) / "manifest.parquet")
    assert kept.sha256 == run.data.tags["fer.id.manifest_sha256"] == report["manifest_sha256"] != built.sha256
    assert set(kept.frame["split"]) == {"train", "test"} and kept.frame["content_id"].is_unique
    assert kept.rows(split="train").frame.groupby("label").size().max() == 20
    gone = pd.read_csv(walked.artifact(run, "removed.csv"))
    assert len(gone) == len(built) - len(kept) == sum(step["removed"] for step in report["steps"])
    assert set(gone["sample_id"]) | set(kept.sample_ids) == set(built.sample_ids)
    assert Manifest.read(walked.artifact(run, "built.parquet")).sha256 == built.sha256
    assert f"chose classification_manifest: {len(kept)} rows" in run.data.tags["mlflow.note.content"]


@pytest.mark.parametrize("phase", FITS)
def test_a_fit_tells_its_epochs_and_describes_the_weights_it_keeps(walked, nested, phase):
    import mlflow

    run, client = nested[phase], mlflow.MlflowClient()
    params = load_run(walked.file).phase(phase).params
    history = walked.json(run, "history.json")
    assert [row["epoch"] for row in history] == list(range(params.epochs))
    keys = ["train/loss", "lr", "train/coverage", "val/macro_f1", "val/per_class_f1/Fear", "timing/images_per_sec",
            "timing/peak_memory_gb", "timing/data_wait_share"]  # fmt: skip
    for key in keys + ["train/arcface_margin"] * (phase in TEACHERS):
        path = key.split("/")
        logged = {m.step: m.value for m in client.get_metric_history(run.info.run_id, key)}
        for row in history:
            value = row
            for name in path:
                value = value[name]
            assert logged[row["epoch"]] == value and math.isfinite(value)
        assert len(logged) == len(history)
    best = max(range(len(history)), key=lambda i: history[i]["val"]["macro_f1"])
    kept = walked.json(run, "reliabilitymetrics.json")
    calibration = walked.json(run, "calibration.json")
    bundle = walked.json(run, "best/bundle.json")
    assert kept["epoch"] == calibration["epoch"] == bundle["ids"]["epoch"] == best
    assert kept["raw"]["macro_f1"] == history[best]["val"]["macro_f1"] == run.data.metrics["best/macro_f1"]
    assert kept["n_used"] == kept["n_expected"] and kept["evalset_id"] == bundle["ids"]["evalset_id"]
    assert kept["temperature_scaled"]["accuracy"] == kept["raw"]["accuracy"], "one temperature keeps every arg-max"
    assert calibration["fitted_on"] == "val/temperature" and calibration["n"] > 0
    assert calibration["global_temperature"] == run.data.metrics["temperature"]
    assert bundle["ids"]["run_id"] == run.info.run_id
    alignment = walked.json(run, "alignmentreport.json")
    steps, left_over = divmod(alignment["optim"]["total_steps"], params.epochs)
    rows = alignment["data"]["train_rows"]
    assert left_over == 0 and steps in (rows // 28, math.ceil(rows / 28))
    assert alignment["paths"]["manifest_sha256"] == nested["manifest"].data.tags["fer.id.manifest_sha256"]
    began = walked.json(run, "starting_weights.json")
    tagged = {key: run.data.tags[f"fer.weights.{key}"] for key in ("source", "origin", "sha256")}
    origin = began["origin"] and below(Path(began["origin"]), walked.home)
    assert tagged == {"source": began["source"], "origin": origin, "sha256": began["weights_sha256"]}
    assert not Path(origin).is_absolute(), "a checkout can be moved"
    assert alignment["init"]["resume"] is False and alignment["seed"] == params.seed


@pytest.mark.parametrize("phase", TEACHERS)
def test_a_teacher_ends_with_files_of_its_best_and_its_last_weights(walked, nested, phase):
    run = nested[phase]
    report, best = walked.json(run, "onnxparity.json"), walked.json(run, "best/bundle.json")["ids"]
    assert set(report) == {"best.onnx", "last.onnx"} <= names(walked, run, "")
    last = len(walked.json(run, "history.json")) - 1
    for file, epoch in (("best.onnx", best["epoch"]), ("last.onnx", last)):
        assert report[file]["epoch"] == epoch and report[file]["max_abs_diff"] < 1e-4
    assert report["best.onnx"]["weights_sha256"] == best["weights_sha256"]


def test_numbers_that_are_ranked_together_were_measured_on_the_same_rows(walked, nested):
    chosen_on = {name: walked.json(nested[name], "reliabilitymetrics.json")["evalset_id"] for name in FITS}
    chosen_on["ensemble"] = walked.json(nested["softlabels"], "ensemble_metrics.json")["evalset_id"]
    assert len(set(chosen_on.values())) == 1, chosen_on
    models = walked.json(nested["evaluate"], "evaluation.json")["models"]
    assert set(models) == {*FITS, "ensemble"}
    for rows in ("all", "leak_free"):
        reports = [(name, view, m["views"][view][rows]) for name, m in models.items() for view in ("none", "flip")]
        assert {(r["evalset_id"], r["n_used"], r["n_expected"]) for _, _, r in reports} == {
            (reports[0][2]["evalset_id"], reports[0][2]["n_used"], reports[0][2]["n_used"])
        }
        protocols = {(view, r["protocol_id"]) for _, view, r in reports}
        assert len({p for _, p in protocols}) == len(protocols), "another view is another protocol"
        for name, view, report in reports:
            assert report["raw"]["n"] == report["n_used"] and report["temperature"]["fitted_on"] == "val/temperature"
            if rows == "all":
                for key in ("accuracy", "macro_f1", "nll", "ece"):
                    assert nested["evaluate"].data.metrics[f"{name}/{view}/{key}"] == report["scaled"][key]
    assert chosen_on["ensemble"] != models["ensemble"]["views"]["none"]["all"]["evalset_id"]


def test_the_chosen_checkpoint_is_registered_under_the_alias(walked, nested):
    import mlflow

    run = nested["checkpoints"]
    swept = walked.json(run, "sweep.json")
    kept = {(e["fit"], e["checkpoint"]) for e in swept["checkpoints"]}
    numbered = {(name, f"checkpoint_epoch{n:03d}") for name, last in (("teacher_a", 3), ("teacher_b", 2))
                for n in range(1, last + 1)}  # fmt: skip
    assert kept == numbered | {(name, file) for name in TEACHERS for file in ("checkpoint_last", "best")}
    assert swept["evalset_id"] == walked.json(nested["teacher_a"], "reliabilitymetrics.json")["evalset_id"]
    for name in TEACHERS:
        [best] = [e for e in swept["checkpoints"] if (e["fit"], e["checkpoint"]) == (name, "best")]
        assert best["raw"]["macro_f1"] == nested[name].data.metrics["best/macro_f1"], "the same rows, the same weights"
    chosen = swept["chosen"]
    assert chosen["calibrated"]["macro_f1"] == max(e["calibrated"]["macro_f1"] for e in swept["checkpoints"])
    assert run.data.metrics["chosen/calibrated/macro_f1"] == chosen["calibrated"]["macro_f1"]
    version = mlflow.MlflowClient().get_model_version_by_alias("fer-teacher", "candidate")
    assert version.run_id == run.info.run_id and version.tags["weights_sha256"] == chosen["weights_sha256"]
    assert version.tags["evalset_id"] == swept["evalset_id"] == run.data.tags["fer.id.evalset_id"]
    note = run.data.tags["mlflow.note.content"]
    assert "test rows were not opened" in note and "no version had the alias before" in note
    assert "other pixels of the same rows: image_size: 40 (teacher_a); 32 (teacher_b)" in note


def test_the_soft_labels_cover_the_training_rows_in_the_ensembles_weights(walked, nested):
    import numpy as np

    record = walked.json(nested["softlabels"], "alignmentreport.json")
    assert [t["model"] for t in record["teachers"]] == list(TEACHERS) and record["split"] == "train"
    assert sum(t["weight"] for t in record["teachers"]) == pytest.approx(1.0)
    assert sorted(record["ranking"]) == list(TEACHERS)
    with np.load(walked.artifact(nested["softlabels"], "softlabels.npz")) as stored:
        assert stored["logits"].shape == (record["rows"], 7) and np.isfinite(stored["logits"]).all()
        y = stored["y"]
    lines = walked.artifact(nested["softlabels"], "softlabels_index.jsonl").read_text().splitlines()
    index = [json.loads(line) for line in lines]
    assert all(set(line) == {"i", "sample_id", "image_path", "source", "y"} for line in index)
    assert [line["i"] for line in index] == list(range(record["rows"])) and [line["y"] for line in index] == y.tolist()
    assert walked.json(nested["softlabels"], "classorder.json") == list(EMOTIONS)
    hashes = walked.json(nested["softlabels"], "hash_manifest.json")
    assert {"softlabels.npz", "softlabels_index.jsonl", "classorder.json"} <= set(hashes)


@pytest.mark.parametrize("phase", STUDENTS[1:])
def test_distilled_students_say_what_they_learned_from(walked, nested, phase):
    alignment = walked.json(nested[phase], "alignmentreport.json")
    assert alignment["ids"]["softlabels_sha256"] == nested["softlabels"].data.tags["fer.id.softlabels_sha256"]
    started = nested["student_ce"].data.tags["fer.id.weights_sha256"]
    assert alignment["model"]["weights_sha256"] == started, "it starts from the CE student's best"
    assert alignment["protocol"]["mode"] == phase.removeprefix("student_")


def test_the_export_is_checked_timed_and_registered(walked, nested):
    import mlflow

    run = nested["export"]
    parity = walked.json(run, "onnxparity.json")
    assert 0 <= parity["max_abs_diff"] < 1e-4 and parity["n"] > 0 and parity["opset"] == 18
    assert run.data.metrics["max_abs_diff"] == parity["max_abs_diff"]
    with open(walked.artifact(run, "latencybenchmarks.csv"), newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert reader.fieldnames == COLUMNS
    assert rows and all(0 < float(r["p50_ms"]) <= float(r["p95_ms"]) <= float(r["p99_ms"]) for r in rows)
    ranked = {name: nested[name].data.metrics["best/macro_f1"] for name in STUDENTS}
    assert ranked[walked.json(run, "outputs.json")["headline"]["from"]] == max(ranked.values())
    version = mlflow.MlflowClient().get_model_version("fer-student", "1")
    assert version.run_id == run.info.run_id
    assert version.tags["weights_sha256"] == run.data.tags["fer.id.weights_sha256"]


def test_an_adapted_model_that_passed_takes_the_alias_and_says_that_no_session_gated(walked, nested):
    import mlflow

    run = nested["adapt"]
    gates, bundle = walked.json(run, "gates.json"), walked.json(run, "bundle/bundle.json")
    assert gates["passed"] and gates["mark"] == "offline-only" == bundle["metrics"]["gates"]["mark"]
    assert gates["base"]["weights_sha256"] == nested["student_ce"].data.tags["fer.id.weights_sha256"]
    assert bundle["ids"]["starting_weights_sha256"] == gates["base"]["weights_sha256"]
    [val] = gates["gates"]
    assert val["suite"] == "val" and val["n_used"] == val["n_expected"] > 0
    assert {"model.onnx", "model.safetensors", "seen.npz"} <= set(bundle["files"])
    version = mlflow.MlflowClient().get_model_version_by_alias("adapted", "candidate")
    assert version.run_id == run.info.run_id and version.description.startswith("offline-only: Offline, suite val")
    assert version.tags["weights_sha256"] == gates["candidate"]["weights_sha256"] == bundle["ids"]["weights_sha256"]
    history = walked.json(run, "history.json")
    assert 0 < history[0]["train"]["negl_applied_frac"] < 1
    assert run.data.metrics["train/negl_applied_frac"] == history[0]["train"]["negl_applied_frac"]
    assert run.data.tags["fer.gates"] == "passed"
