"""``fer report``: the exported JSON of a run, its page, its figures and the README sections."""

import copy
import json
import re

import mlflow
import numpy as np
import pytest
from jinja2 import UndefinedError

from fer_lib.calibration import metrics
from fer_lib.cli.main import main
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import FerError
from fer_lib.evaluation.report import model_report, temperature_for
from fer_lib.faces.contract import FaceContract
from fer_lib.report import collect, facts, figures
from fer_lib.report.markdown import ENVIRONMENT, replace_section, table
from fer_lib.report.render import render, render_page
from fer_lib.tracking import store

README = (
    "# x\n<!-- pictures:begin -->\nold\n<!-- pictures:end -->\n<!-- results:begin -->\nold\n<!-- results:end -->\nend\n"
)
ABSOLUTE_PATH = re.compile(r"(?<![\w.])/(?:tmp|home|root|work|Users)/")
N = 400
NO_FIGURES = dict.fromkeys(("reliability", "per_class", "confusion", "curves"), {})


def rows(seed, n=N, right=2.0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 7, n)
    logits = rng.normal(size=(n, 7)) * 1.5
    logits[np.arange(n), y] += right
    return logits * 1.6, y


def reports(seed, right):
    """One model's views as the evaluate phase writes them."""
    views = {}
    for i, view in enumerate(("none", "flip")):
        views[view] = {}
        for of, keep in (("all", slice(None)), ("leak_free", slice(40, None))):
            logits, y = rows(seed, right=right + 0.3 * i)
            logits, y = logits[keep], y[keep]
            report = model_report(logits, y, temperature_for(*rows(seed + 1, 200, right), "global"), resamples=100)
            ids = {
                "protocol_id": f"{seed:04d}{view}{of[:3]}",
                "evalset_id": f"set-{of}",
                "n_expected": len(y),
                "n_used": len(y),
            }
            views[view][of] = ids | report
    return views


def val_select(seed):
    return metrics.summary(*rows(seed, 150)) | {"n_expected": 150, "n_used": 150}


MODELS = {  # name: (kind, seed, logit margin of the true class, image size)
    "teacher_a": ("teacher", 10, 2.2, 80),
    "teacher_b": ("teacher", 20, 2.1, 72),
    "student_ce": ("student", 30, 2.0, 64),
    "student_kd": ("student", 40, 2.6, 64),
}


def evaluation():
    models = {}
    for name, (kind, seed, right, size) in MODELS.items():
        identity = {"kind": kind, "backbone": "test_net", "image_size": size, "weights_sha256": f"weights-{name}"}
        scores = {"parameters": 1_234_000 + seed, "val_select": val_select(seed), "views": reports(seed, right)}
        models[name] = identity | scores
    members = [{"name": f"teacher_{x}", "weight": 0.5, "weights_sha256": f"weights-teacher_{x}"} for x in "ab"]
    both = {"kind": "ensemble", "backbone": "test_net+test_net", "image_size": [80, 72], "weights_sha256": None}
    models["ensemble"] = models["teacher_a"] | both | {"members": members, "views": reports(50, 2.5)}
    sets = {}
    for of, removed in (("all", 0), ("leak_free", 40)):
        n = N - removed
        sets[of] = {"evalset_id": f"set-{of}", "n_expected": n, "n_used": n, "removed": removed}
    identity = {"suite": "fer2013_official", "split": "test", "manifest_sha256": "ab" * 32, "metric_version": "1"}
    return identity | {"sets": sets, "models": models}


def write_phase(base, name, kind, inputs, files, seconds=60.0):
    folder = base / "mlruns" / "phases" / f"{name}-0123456789ab"
    record = {"phase": name, "kind": kind, "key": "0" * 64, "params": {"seed": 1337}, "run_id": f"run-{name}",
              "inputs": inputs, "finished": "2026-01-02T03:04:05+00:00", "seconds": seconds}  # fmt: skip
    if kind == "import":
        record["params"]["sources"] = [
            {"source": "fer2013", "root": str(base / "raw"), "votes": "/data/some where/votes.csv"}
        ]
    outputs = {"ids": {"manifest_sha256": "ab" * 32}, "headline": {"rows": 7}}
    for file, value in {"done.json": record, "outputs.json": outputs, **files}.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(json.dumps(value, default=str), encoding="utf-8")
    return f"mlruns/phases/{folder.name}"


def fit_files(name, base):
    kind, seed, _, size = MODELS[name]
    history = []
    for epoch in range(3):
        val = {"accuracy": 0.5, "macro_f1": 0.4, "nll": 1.5, "ece": float("nan")}
        timing = {"epoch_sec": 11.0, "total_sec": 11.0 * (epoch + 1), "images_per_sec": 99.6}
        row = {"epoch": epoch, "train": {"loss": 2.0 - 0.1 * epoch, "coverage": 1.0}, "val": val, "lr": 1e-3}
        history.append(row | {"calibration": {"mode": "global", "temperature": 1.1}, "timing": timing})
    bundle = {
        "name": name,
        "kind": kind,
        "model": {"backbone": "test_net", "image_size": size},
        "face_contract": FaceContract(image_size=size).model_dump(mode="json"),
        "temperature": None,
        "training_prior": [1 / 7] * 7,
        "ids": {"weights_sha256": f"weights-{name}", "epoch": 1},
        "metrics": {"val_select": val_select(seed)},
    }
    alignment = {
        "data": {"train_rows": 700, "class_counts": [100] * 7, "source_counts_after_filter": {"fer2013": 900}},
        "optim": {"lr": 1e-3},
        "init": {"resume": False, "init_from": str(base / "x")},
        "model": {"pretrained": "package"},
        "paths": {"manifest": str(base / "m.parquet")},
    }
    environment = {"python": "3.11.7", "packages": {"torch": "2.13.0"}, "device": {"backend": "cpu", "threads": 1}}
    files = {"best/bundle.json": bundle, "history.json": history, "alignmentreport.json": alignment}
    return files | {"environment.json": environment}


def write_home(base):
    """Phases of a run as the notebooks leave them; the last folder's relative path by phase name."""
    imports = write_phase(base, "import", "import", {}, {})
    validation = {"manifest": "manifest.parquet", "root": str(base), "manifest_sha256": "ab" * 32, "rows_total": 900}
    validation |= {"rows_valid": 900, "missing_paths": 0, "decode": {}, "duplicates": {"exact": 3}, "counts": {}}
    manifest = write_phase(base, "manifest", "manifest", {"imports": imports}, {"manifest_validation.json": validation})
    fits = {}
    for name, (kind, *_) in MODELS.items():
        inputs = {"manifest": manifest, "init_from": "models:/x@y"}
        fits[name] = write_phase(base, name, kind, inputs, fit_files(name, base))
    teachers = [
        {"uri": str(base / fits[t] / "best"), "model": t, "backbone": "test_net", "epoch": 1, "weight": 0.5}
        | {"val_select": val_select(1)}
        for t in ("teacher_a", "teacher_b")
    ]
    alignment = {"teachers": teachers, "ensemble_space": "logit", "flip_average": True}
    alignment |= {"evalset_id": "val-set", "rows": 700}
    files = {"alignmentreport.json": alignment, "ensemble_metrics.json": val_select(3)}
    inputs = {"manifest": manifest, "teachers": [fits["teacher_a"], fits["teacher_b"]]}
    softlabels = write_phase(base, "softlabels", "softlabels", inputs, files)
    inputs = {"manifest": manifest, "models": list(fits.values()), "ensembles": [softlabels]}
    evaluated = write_phase(base, "evaluate", "evaluate", inputs, {"evaluation.json": evaluation()})
    bundle = fit_files("student_ce", base)["best/bundle.json"] | {"files": {}}
    small = {"bytes": 4_100_000, "bytes_fp32": 15_000_000, "label_agreement": 0.996, "n": 256}
    parity = {"max_abs_diff": 3.21e-6, "providers": ["CPU"], "opset": 18, "n": 64, "compact": small}
    inputs = {"evaluation": evaluated, "manifest": manifest, "candidates": [fits["student_ce"]]}
    files = {"onnxparity.json": parity, "bundle/bundle.json": bundle}
    exported = write_phase(base, "export", "export", inputs, files)
    (base / exported / "latencybenchmarks.csv").write_text(
        "model,precision,runtime,threads,batch,size,p50_ms,p95_ms,p99_ms,images_per_sec\n"
        "student_ce,fp32,onnxruntime,1,32,64,12.5,13.0,14.25,2560.0\n"
    )
    return {"manifest": manifest, **fits, "softlabels": softlabels, "evaluate": evaluated, "export": exported}


@pytest.fixture(scope="module")
def home(home):
    written = write_home(home)
    (home / "README.md").write_text(README)
    finished_run("real", written, [n for n in written if n not in ("manifest", "teacher_b")])
    return home


def finished_run(name, folders, phases, status="FINISHED"):
    """A parent run that lists ``phases``; ``student_kd`` of the run "real" has two earlier attempts."""
    client, experiment = mlflow.MlflowClient(), store.experiment_id()
    parent = client.create_run(
        experiment, run_name=name, tags={"fer.kind": "run", "fer.run_file": "params/real.yaml", "fer.git": "abc"}
    )
    rows = [{"phase": n, "status": "re-used", "folder": folders[n]} for n in phases]
    client.log_dict(parent.info.run_id, {"phases": rows}, "phases.json")
    client.log_dict(parent.info.run_id, {n: {} for n in ("import", *folders)}, "plan.json")
    client.set_terminated(parent.info.run_id, status)
    for start, end, tags in ((1000, 31_000, {}), (2000, 9_999_000, {"fer.reaped": "later"})):
        if name == "real":
            run = client.create_run(experiment, start_time=start, tags={"fer.folder": folders["student_kd"], **tags})
            client.set_terminated(run.info.run_id, "KILLED", end_time=end)
    return parent.info.run_id


def command(*arguments):
    with pytest.raises(SystemExit) as stop:
        main(["report", *arguments])
    return stop.value.code


@pytest.fixture(scope="module")
def exported(home):
    assert command("export", "real") == 0
    return home / "docs" / "results" / "real.json"


@pytest.fixture(scope="module")
def results(exported):
    return json.loads(exported.read_text())


@pytest.fixture(scope="module")
def page(exported, home):
    assert command("render", str(exported)) == 0
    return exported.with_suffix(".md").read_text()


def test_export_has_every_phase_in_plan_order(exported, results, home):
    assert exported == home / "docs" / "results" / "real.json"
    assert list(results["phases"]) == ["import", "manifest", *MODELS, "softlabels", "evaluate", "export"]
    assert results["evaluation"] == evaluation()
    assert results["run_file"] == "params/real.yaml" and results["git"] == "abc"
    assert set(results["fits"]) == set(MODELS) and results["fits"]["teacher_b"]["train_seconds"] == 33.0
    assert results["fits"]["student_kd"]["history"][2]["train"]["loss"] == 2.0 - 0.1 * 2
    assert results["softlabels"]["softlabels"]["ensemble"]["macro_f1"] == val_select(3)["macro_f1"]
    assert results["export"]["latency"][0]["p99_ms"] == 14.25 and results["export"]["latency"][0]["batch"] == 32
    assert results["environment"]["packages"] == {"torch": "2.13.0"}
    again = collect.collect("real")
    assert {**again, "created": 0} == {**results, "created": 0} and list(again) == list(results)


def test_export_is_strict_json_without_absolute_paths(exported, home, results):
    text = exported.read_text()
    assert str(home) not in text and not ABSOLUTE_PATH.search(text) and '"uri"' not in text
    assert "NaN" not in text and results["fits"]["teacher_a"]["history"][0]["val"]["ece"] is None
    (source,) = results["phases"]["import"]["params"]["sources"]
    assert source["root"] == "raw" and not source["votes"].startswith("/") and source["votes"].endswith("votes.csv")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/data/x/y.csv", "y.csv"),
        ("/data", "data"),
        (r"C:\data\x y\a.png", "a.png"),
        ("read file:///srv/a/b.npz twice", "read b.npz twice"),
        ("val/temperature and models:/fer-student@champion", "val/temperature and models:/fer-student@champion"),
        ("https://host/a/b", "https://host/a/b"),
        ("~/faces", "~/faces"),
        ("12/08 n/a", "12/08 n/a"),
    ],
)
def test_without_paths_shortens_absolute_paths_only(text, expected, home):
    assert collect.without_paths({"a": [text], "n": float("inf")}) == {"a": [expected], "n": None}


def test_seconds_sum_over_attempts_and_are_unknown_for_a_killed_one(results, page):
    phase = results["phases"]["student_kd"]
    assert [a["seconds"] for a in phase["attempts"]] == [30.0, None, 60.0] and phase["seconds"] == 90.0
    assert "| `student_kd` | student | > 1.5 min | 3 | 33 s | 3 | 100 | 1 |" in page.replace("\u00a0", " ")


def test_collect_takes_a_run_name_or_id_and_lists_names_when_unknown(home, results):
    assert collect.collect(results["run_id"][:8])["name"] == "real"
    with pytest.raises(FerError, match="no run is called 'reel'.*real"):
        collect.collect("reel")
    finished_run("half", {n: "mlruns/phases/import-0123456789ab" for n in ("import", "manifest")}, ["import"])
    with pytest.raises(FerError, match="'half' has a finished evaluation|no run 'half'"):
        collect.collect("half")


def test_collect_refuses_weights_of_an_earlier_training(home):
    folder = next((home / "mlruns" / "phases").glob("student_ce-*")) / "best" / "bundle.json"
    before = folder.read_text()
    folder.write_text(before.replace("weights-student_ce", "weights-other"))
    try:
        with pytest.raises(FerError, match="student_ce, the exported bundle: .* of no fit of this run"):
            collect.collect("real")
    finally:
        folder.write_text(before)


def test_best_student_is_exported_or_best_on_validation(results):
    assert facts.best_student(results) == "student_ce"  # exported, though student_kd has the better test score
    unexported = results | {"export": None}
    models = unexported["evaluation"]["models"]
    best = max(("student_ce", "student_kd"), key=lambda n: models[n]["val_select"]["macro_f1"])
    assert facts.best_student(unexported) == best


def test_a_page_of_teachers_on_val_rows_names_the_best_and_reads_no_test_row(results):
    changed = copy.deepcopy(results)
    evaluation, changed["export"] = changed["evaluation"], None
    evaluation["split"] = "val"
    evaluation["models"] = {name: m for name, m in evaluation["models"].items() if m["kind"] == "teacher"}
    best = max(evaluation["models"], key=lambda name: evaluation["models"][name]["val_select"]["macro_f1"])
    assert facts.best_student(changed) == best
    text = render_page(changed, NO_FIGURES, "teachers.json")
    assert f"The teacher `{best}`" in text and "No test row was read" in text
    assert "the test rows had no part in it" not in text and "by frozen weights" not in text


def test_checkpoint_of_a_sweep_has_contract_and_training_time_of_its_fit(results):
    """The training time of an ensemble of two epochs counts their fit once."""
    changed = copy.deepcopy(results)
    fit, model = changed["fits"]["teacher_a"], copy.deepcopy(changed["evaluation"]["models"]["teacher_a"])
    changed["evaluation"]["models"]["swept"] = model | {"weights_sha256": "5" * 64}
    assert facts.face_contracts(changed)["swept"] == [] and facts.training_seconds(changed, "swept") is None
    changed["checkpoints"] = {"swept": {"of": "teacher_a", "ids": {"weights_sha256": "5" * 64}},
                              "foreign": {"of": None, "ids": {"weights_sha256": "6" * 64}}}  # fmt: skip
    assert facts.fits_by_weights(changed)["5" * 64] is fit
    assert facts.face_contracts(changed)["swept"] == [fit["face_contract"]]
    assert facts.training_seconds(changed, "swept") == fit["train_seconds"]
    members = [{"weights_sha256": w} for w in ("5" * 64, fit["ids"]["weights_sha256"])]
    changed["evaluation"]["models"]["ensemble"]["members"] = members
    assert facts.training_seconds(changed, "ensemble") == fit["train_seconds"]
    collect._refuse_other_weights(changed)
    changed["checkpoints"] = {}
    with pytest.raises(FerError, match="swept: evaluated with weights of no fit of this run"):
        collect._refuse_other_weights(changed)


def with_accuracy(results, name, none, flip):
    changed = copy.deepcopy(results)
    for view, value in (("none", none), ("flip", flip)):
        changed["evaluation"]["models"][name]["views"][view]["all"]["raw"]["accuracy"] = value
    return changed


@pytest.mark.parametrize(
    ("none", "flip", "outcome"),
    [
        (0.6699, 0.6701, "reached by flip average only"),
        (0.68, 0.69, "reached"),
        (0.66, 0.67, "not reached"),
    ],
)
def test_goal_outcome_compares_accuracy_of_each_view(results, none, flip, outcome):
    goals = facts.goal_outcomes(with_accuracy(results, "student_ce", none, flip))
    (student,) = (model for goal in goals if goal["accuracy"] == 0.67 for model in goal["models"])
    assert student["name"] == "student_ce" and student["outcome"] == outcome
    without = copy.deepcopy(results)
    del without["evaluation"]["models"]["ensemble"]
    models = [model for goal in facts.goal_outcomes(without) for model in goal["models"]]
    assert [model["outcome"] for model in models if model["kind"] == "ensemble"] == ["not measured"] * 2


def cells(page, start):
    """The cells of the first table row that begins with `start`."""
    line = next(line for line in page.splitlines() if line.startswith(start))
    return [cell.strip().replace("\u00a0", " ") for cell in line.strip("|").split("|")]


def test_page_tables_show_the_exported_scores(page, results):
    view = results["evaluation"]["models"]["student_ce"]["views"]["none"]
    section = page.split("## Scores, without")[1]
    row = cells(section, "| `student_ce` | single view")
    low, high = view["leak_free"]["accuracy_interval"]
    assert row[2] == f"{100 * view['leak_free']['raw']['accuracy']:.2f} % [{100 * low:.1f}, {100 * high:.1f}]"
    assert row[3].startswith(f"{view['leak_free']['raw']['macro_f1']:.4f} [")
    assert row[7] == f"`{view['leak_free']['protocol_id']}`"
    assert row[6] == f"{results['evaluation']['models']['student_ce']['val_select']['macro_f1']:.4f}"
    section = page.split("## Calibration")[1]
    row, ece = cells(section, "| `student_ce` | single view"), view["all"]["ece_scaled"]
    assert row[4] == f"{ece['value']:.4f} [{ece['lo']:.3f}, {ece['hi']:.3f}]"
    assert row[5] == f"{ece['null_mean']:.4f} ({ece['null_q95']:.4f})"
    section = page.split("## F1 by class")[1]
    per_class = view["all"]["raw"]["per_class_f1"]
    assert cells(section, "| `student_ce` | single view")[2:] == [f"{per_class[e]:.3f}" for e in EMOTIONS]


@pytest.fixture(scope="module")
def transferred(results):
    """The results of an evaluation on two sources, of which the second has no Fear; one model came with the package."""
    changed = copy.deepcopy(results)
    evaluation = changed["evaluation"]
    for i, (name, model) in enumerate(evaluation["models"].items()):
        logits, y = rows(60, right=1 + i / 2)
        parts = {"ours": np.arange(N) < 250, "theirs": (np.arange(N) >= 250) & (y != 2)}
        model["by_source"] = {
            view: {
                source: model_report(logits[keep], y[keep], temperature_for(None, None, "none"), resamples=100)
                | {"n_used": int(keep.sum()), "leaked": 3}
                for source, keep in parts.items()
            }
            for view in ("none", "flip")
        }
        model["trained_on"] = None if name == "student_kd" else ["ours"]
        by_source = model["by_source"]["none"]
    evaluation["by_source"] = {source: {"n_used": own["n_used"]} for source, own in by_source.items()}
    difference = {"value": 0.0123, "lo": -0.01, "hi": 0.03}
    correction = {
        "corrected": {"ece": 0.02},
        "difference": dict.fromkeys(("accuracy", "macro_f1_present", "nll"), difference),
    }
    evaluation["models"]["student_kd"]["by_source"]["none"]["theirs"]["prior_correction"] = correction
    evaluation["models"]["student_kd"]["val_select"] = None
    evaluation["temperature_from"] = "bundle"
    return changed


def test_page_shows_each_source_and_what_each_model_was_trained_on(transferred, page):
    text = render_page(transferred, NO_FIGURES, "real.json")
    assert "## By source" not in page and "## Trained on" not in page and "Prior correction" not in page
    model = transferred["evaluation"]["models"]["student_ce"]
    ours, theirs = (model["by_source"]["none"][source] for source in ("ours", "theirs"))
    section = text.split("## Trained on, tested on")[1]
    row = cells(section, "| `student_ce` |")
    assert row[1] == "ours" and row[2].startswith(f"**{ours['raw']['macro_f1_present']:.4f} [")
    assert row[3].startswith(f"{theirs['raw']['macro_f1_present']:.4f} [")
    assert cells(section, "| `student_kd` |")[1] == "not recorded"
    section = text.split("## By source")[1]
    row = cells(section.split("| theirs |", 1)[1].split("`teacher_b`")[0], "")
    assert [row[0], row[1], row[2]] == [str(theirs["n_used"]), "3", "6"]
    section = section.split("F1 and recall by class on theirs")[1]
    recall = [line for line in section.splitlines() if line.startswith("| `student_ce` | recall")][0]
    own = theirs["per_class"]["Sad"]
    low, high = own["recall_interval"]
    assert f"{own['recall']:.3f} [{low:.3f}, {high:.3f}]" in recall.replace("\u00a0", " ") and "| – |" in recall
    row = cells(text.split("## Prior correction")[1], "| `student_kd` |")
    assert row[2:] == ["theirs", *["+0.0123 [-0.0100, +0.0300]"] * 3, f"{theirs_ece(transferred):.4f} → 0.0200"]
    assert "each model's own temperature is applied" in text and "each model's own" not in page
    assert not re.search(r"\b(None|nan)\b", text)


def theirs_ece(results):
    return results["evaluation"]["models"]["student_kd"]["by_source"]["none"]["theirs"]["scaled"]["ece"]


def test_page_draws_the_sources_of_an_evaluation_that_has_several(transferred, tmp_path):
    drawn = figures.draw_figures(transferred, tmp_path / "real")
    assert drawn["sources"] == {"sources": "real/sources.png"} and (tmp_path / "real/sources.png").stat().st_size > 5000
    assert "![sources](real/sources.png)" in render_page(transferred, drawn, "real.json")


def test_macro_f1_of_absent_classes_is_over_those_present(results):
    changed = copy.deepcopy(results)
    for model in changed["evaluation"]["models"].values():
        for sets in model["views"].values():
            sets["all"]["raw"]["macro_f1_present"] = 0.7777
            sets["all"] |= {"classes_present": ["Happy", "Sad"], "macro_f1_present_interval": [0.7, 0.8]}
    text = render_page(changed, NO_FIGURES, "real.json")
    assert cells(text.split("## Scores, all")[1], "| `student_ce` | single view")[3] == "0.7777 [0.700, 0.800]"
    assert "Only Happy, Sad have rows here: macro-F1 is over these, and guessing has an accuracy of 50.00 %." in text
    assert "Only" not in text.split("## Scores, without")[1].split("## Calibration")[0]


def test_weights_from_elsewhere_are_refused_only_under_the_name_of_a_fit(results):
    changed = copy.deepcopy(results)
    changed["evaluation"]["models"]["packaged"] = {"weights_sha256": "7" * 64}
    collect._refuse_other_weights(changed, elsewhere=True)
    with pytest.raises(FerError, match="packaged: evaluated with weights of no fit"):
        collect._refuse_other_weights(changed)
    changed["evaluation"]["models"]["student_ce"]["weights_sha256"] = "8" * 64
    with pytest.raises(FerError, match="^student_ce: evaluated with weights of no fit"):
        collect._refuse_other_weights(changed, elsewhere=True)


def test_page_names_protocol_model_selection_and_figures(page, exported):
    assert "`image_size`: 80 (teacher_a); 72 (teacher_b); 80 + 72 (ensemble); 64 (student_ce, student_kd)" in page
    assert "chosen on val/select alone" in page and "without the 40 images that have a known twin" in page
    assert "val/temperature (n = 200)" in page
    links = re.findall(r"!\[.*?\]\((.*?)\)", page) + re.findall(r'<img src="(.*?)"', page)
    assert len(links) == 2 + 5 + 4 and all((exported.parent / name).stat().st_size > 5000 for name in links)
    assert not re.search(r"\b(None|nan)\b", page)


def test_readme_sections_are_written_on_request_and_the_rest_is_unchanged(home, exported, page, results):
    assert (home / "README.md").read_text() == README  # the page alone was rendered
    assert command("render", str(exported), "--readme") == 0
    assert (home / "README.md").read_text().count("\nold\n") == 1  # results are new, images are not
    images = figures.readme_images(exported, home / "README.md")
    text = (home / "README.md").read_text()
    assert [p.name for p in images] == ["faces.png", "reliability.png"]
    assert text.startswith("# x\n<!-- pictures:begin -->\n![Drawn") and text.endswith("<!-- results:end -->\nend\n")
    assert "old" not in text and "(docs/pictures/reliability.png)" in text
    raw = results["evaluation"]["models"]["ensemble"]["views"]["flip"]["all"]["raw"]
    assert f"{100 * raw['accuracy']:.2f}\u00a0%\u00a0[" in next(
        x for x in text.splitlines() if x.startswith("| `ensemble`")
    )


def test_readme_refuses_results_on_drawn_faces(home, exported, results, capsys):
    drawn = copy.deepcopy(results)
    drawn["phases"]["import"]["params"]["sources"].append({"source": "expw_hq", "root": "embedded", "name": "faces"})
    file = home / "docs" / "results" / "drawn.json"
    file.write_text(json.dumps(drawn))
    before = (home / "README.md").read_text()
    assert command("render", str(file), "--readme") == 1
    assert "drawn faces (source faces, root: embedded)" in capsys.readouterr().err
    assert not file.with_suffix(".md").exists(), "refused before anything is written"
    assert command("render", str(file)) == 0 and file.with_suffix(".md").is_file()
    assert command("pictures", str(file)) == 1 and "drawn faces" in capsys.readouterr().err
    assert (home / "README.md").read_text() == before


@pytest.mark.parametrize("damage", [
    lambda r: r.pop("evaluation"),
    lambda r: r["evaluation"]["models"].update(student="x"),
    lambda r: next(iter(r["evaluation"]["models"].values()))["views"].clear(),
    lambda r: next(iter(r["fits"].values())).update(history=[{}]),
    lambda r: r.update(fits=7),
])  # fmt: skip
def test_render_refuses_a_changed_file(exported, tmp_path, damage):
    results = json.loads(exported.read_text())
    damage(results)
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(results))
    with pytest.raises(FerError, match=r"changed\.json has an entry that is missing or changed.*fer report export"):
        render(changed)
    assert not changed.with_suffix(".md").exists()


def test_render_names_a_missing_readme(home, exported, tmp_path):
    with pytest.raises(FerError, match="README.md is missing.*without --readme"):
        render(exported, tmp_path / "README.md")


def test_commands_name_the_next_command(home, exported, capsys):
    (home / "c.json").write_text('{"format": 0}')
    commands = {("render", str(home / "c.json")): "fer report export", ("package", "real"): "compact: true",
                ("pictures", str(home / "c.json")): "fer report render"}  # fmt: skip
    for arguments, advice in commands.items():
        assert command(*arguments) == 1
        assert advice in capsys.readouterr().err
    assert command("export", "real", "--output", str(home / "elsewhere.json")) == 0
    assert "fer report render" in capsys.readouterr().out and (home / "elsewhere.json").is_file()


def test_replace_section_needs_both_markers_in_order():
    with pytest.raises(FerError, match="results:begin"):
        replace_section("no markers", "results", "x")
    with pytest.raises(FerError, match="markers"):
        replace_section("<!-- a:end --> <!-- a:begin -->", "a", "x")


def test_table_aligns_number_columns_right_and_escapes_bars():
    template = "{% filter table %}\n| a | b |\n| {{ x }} | 1 % |\n| z z |\n  {{ none }} |\n{% endfilter %}\n"
    text = ENVIRONMENT.from_string(template).render(x="x|y")
    assert text == "| a | b |\n| --- | ---: |\n| x\\|y | 1\u00a0% |\n| z z | – |\n"
    assert table("| a |\n") == "| a |\n| --- |\n"


def test_templates_refuse_unknown_names():
    with pytest.raises(UndefinedError, match="'macro_f2'"):
        ENVIRONMENT.from_string("{{ report.macro_f2 }}").render(report={"macro_f1": 0.5})


def test_page_shows_changed_settings_of_consecutive_trainings(results):
    stage = {"parent": "a", "child": "b", "said": ["B gains 0.02.", "It took 5 s."], "changed": {}}
    changed = stage | {"changed": {"optim.lr": [0.01, 0.001], "name": [None, "x|y"]}}
    for stages, expected in (
        ([stage], "`on_test`, test: B gains 0.02. It took 5 s.\n\nNo setting differs.\n\n## Confusion"),
        ([changed], "| `a` → `b` | `optim.lr` | 0.01 | 0.001 |\n| `a` → `b` | `name` | – | x\\|y |\n\n## Confusion"),
    ):
        page = render_page(results | {"stages": {"on_test": {"suite": "test", "stages": stages}}}, NO_FIGURES, "x.json")
        assert expected in page
    older = {key: value for key, value in results.items() if key != "stages"}
    assert "Trained on from another" not in render_page(older, NO_FIGURES, "x.json")
