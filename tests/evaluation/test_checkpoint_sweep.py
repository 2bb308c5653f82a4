"""A sweep over saved checkpoints: its numbers, what it chooses, what it refuses, and the bundle that it leaves."""

import io
import json
import shutil

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from watched_steps import counts, watched_steps

from fer_lib.calibration import temperature
from fer_lib.datasets.evalset_ids import evalset_id, protocol_id
from fer_lib.datasets.facepack import open_or_build
from fer_lib.datasets.manifest import Manifest
from fer_lib.datasets.provenance import content_numbers, read_exposure
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import BundleError, DataError, FerError
from fer_lib.evaluation.checkpoint_sweep import best_index, candidates, sweep
from fer_lib.evaluation.evaluate import subjects
from fer_lib.evaluation.sweep_view import chosen_reliability, sweep_curves, sweep_summary, sweep_table
from fer_lib.models.bundle import read_bundle
from fer_lib.models.classifier import build_classifier
from fer_lib.models.inference import predict_logits
from fer_lib.params import CheckpointParams, TeacherParams
from fer_lib.tracking.registry import resolve
from fer_lib.training.checkpoint import STATE, load_checkpoint
from fer_lib.training.teacher import train_teacher

SMALL = dict(
    backbone="test_resnet", image_size=32, embed_dim=16, epochs=3, batch_size=14, lr=4e-3, warmup_epochs=0.0,
    plain_epochs=3, ramp_end=3, arcface_s=8.0, ema_decay=0.6, checkpoint_every=1, threads=1,
    device="cpu", onnx="none", name="small",
)  # fmt: skip
FILES = ["checkpoint_epoch001", "checkpoint_epoch002", "checkpoint_epoch003", "checkpoint_last", "best"]
CPU = torch.device("cpu")


def fitted(folder, manifest, cache, **changes):
    list(train_teacher(TeacherParams(**SMALL | changes), manifest, folder, cache))
    return folder


@pytest.fixture(scope="module")
def drawn_manifest(drawn_manifest):
    """The drawn faces with every second train row in val, for a choice among models wants rows to choose on."""
    frame = drawn_manifest.frame.copy()
    more = frame.index[frame["split"] == "train"][::2]
    frame.loc[more, "split"] = "val"
    frame.loc[more[::2], "val_role"], frame.loc[more[1::2], "val_role"] = "select", "temperature"
    return Manifest(frame, drawn_manifest.meta, drawn_manifest.path)


@pytest.fixture(scope="module")
def fits(drawn_manifest, pack_cache, tmp_path_factory):
    """Folders of two fits: other seeds, other image sizes."""
    folder = tmp_path_factory.mktemp("fits")
    wide = fitted(folder / "wide", drawn_manifest, pack_cache, seed=2, image_size=40, name="wide")
    return [fitted(folder / "small", drawn_manifest, pack_cache), wide]


@pytest.fixture(scope="module")
def swept(fits, drawn_manifest, pack_cache, tmp_path_factory):
    """(folder, result) of a sweep over both."""
    out = tmp_path_factory.mktemp("sweep")
    p = CheckpointParams(name="chosen", resamples=100)
    with watched_steps() as records:
        result = sweep(p, drawn_manifest, fits, out, pack_cache, CPU)
    calls = counts([record for record in records if record["text"].startswith("checkpoint")])
    assert list(dict.fromkeys(calls)) == [(i, 10) for i in range(10)]
    return out, result


@pytest.fixture
def again(drawn_manifest, pack_cache, tmp_path):
    """Sweep with other parameters, into a folder of its own."""

    def run(fits, manifest=drawn_manifest, cache=pack_cache, **changes):
        p = CheckpointParams(**{"name": "chosen", "resamples": 100} | changes)
        return sweep(p, manifest, fits, tmp_path / "sweep", cache, CPU)

    return run


def logits_of(folder, file, manifest, cache, role, prefix="ema.", flip=False):
    """From the checkpoint's own tensors, by way of no bundle: (logits, labels) of val rows of a role."""
    tensors, meta = load_checkpoint(folder / file)
    described = read_bundle(folder / "best")
    model = build_classifier(meta["bundle"]["model_config"])
    model.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    pack = open_or_build(manifest.rows(split="val"), described.contract, cache)
    held = pack.manifest.frame["val_role"].to_numpy(str) == role
    return predict_logits(model, pack, 64, "cpu", flip)[held], pack.manifest.labels[held]


def scored(logits, y):
    """The numbers of a set of rows, written out once more."""
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    top, sure = p.argmax(1), p.max(1)
    bins = np.clip(np.ceil(sure * 15) - 1, 0, 14)
    gaps = [(bins == b).mean() * abs((top == y)[bins == b].mean() - sure[bins == b].mean()) for b in np.unique(bins)]
    f1 = f1_score(y, top, labels=range(7), average=None, zero_division=0)
    return {
        "accuracy": (top == y).mean(), "macro_f1": f1.mean(), "nll": -np.log(p[np.arange(len(y)), y]).mean(),
        "ece": sum(gaps), "per_class_f1": dict(zip(EMOTIONS, f1, strict=True)),
    }  # fmt: skip


def assert_scores(found, logits, y):
    for key, value in scored(logits, y).items():
        assert found[key] == pytest.approx(value, abs=1e-5), key


# ---------------------------------------------------------------- what is measured


def test_every_checkpoint_is_measured_in_order(swept):
    entries = swept[1]["checkpoints"]
    assert [(e["fit"], e["checkpoint"]) for e in entries] == [(fit, f) for fit in ("small", "wide") for f in FILES]
    assert [e["epochs"] for e in entries[:4]] == [1.0, 2.0, 3.0, 3.0]
    for number in (2, 7):  # the last numbered one, and checkpoint_last of the same epoch
        assert entries[number]["weights_sha256"] == entries[number + 1]["weights_sha256"]
        assert entries[number]["raw"] == entries[number + 1]["raw"]
    assert json.loads((swept[0] / "sweep.json").read_text()) == swept[1]


@pytest.mark.parametrize("fit, file", [(0, FILES[0]), (0, FILES[2]), (1, FILES[1]), (1, FILES[3])])
def test_the_numbers_are_those_of_the_moving_average_of_the_checkpoint(
    swept, fits, drawn_manifest, pack_cache, fit, file
):
    [entry] = [e for e in swept[1]["checkpoints"] if (e["fit"], e["checkpoint"]) == (fits[fit].name, file)]
    logits, y = logits_of(fits[fit], file, drawn_manifest, pack_cache, "select")
    assert_scores(entry["raw"], logits, y)
    held, held_y = logits_of(fits[fit], file, drawn_manifest, pack_cache, "temperature")
    fitted = temperature.fit(held, held_y, allow_bound=True)
    assert entry["temperature"]["global_temperature"] == pytest.approx(fitted.global_temperature, rel=1e-3)
    assert entry["temperature"]["fitted_on"] == "val/temperature" and entry["temperature"]["n"] == len(held)
    assert_scores(entry["calibrated"], logits / entry["temperature"]["global_temperature"], y)
    plain, _ = logits_of(fits[fit], file, drawn_manifest, pack_cache, "select", prefix="model.")
    assert np.abs(plain - logits).max() > 0.01, "the weights that are trained are others than those deployed"


def test_each_number_carries_what_it_was_measured_on(swept, fits, drawn_manifest):
    rows = drawn_manifest.rows(split="val", val_role="select")
    evalset = evalset_id(rows.sample_ids, rows.labels, "val/select", 0)
    contracts = {folder.name: read_bundle(folder / "best").contract for folder in fits}
    for entry in swept[1]["checkpoints"]:
        assert entry["evalset_id"] == evalset and entry["n_used"] == entry["n_expected"] == len(rows)
        assert entry["protocol_id"] == protocol_id(evalset, contracts[entry["fit"]], "none")
    assert swept[1]["evalset_id"] == evalset and swept[1]["manifest_sha256"] == drawn_manifest.sha256
    assert swept[1]["differences"] == ["image_size: 32 (small); 40 (wide)"]
    assert any("other pixels" in s and "image_size: 32 (small); 40 (wide)" in s for s in sweep_summary(swept[1]))


def test_sources_narrow_the_rows_and_none_left_is_an_error(fits, again, drawn_manifest, pack_cache):
    frame = drawn_manifest.frame.copy()
    frame.loc[frame.index[::2], "source"] = "second"
    both = Manifest(frame, drawn_manifest.meta, drawn_manifest.path)
    found = {}
    for name, keep in (("of", {"include_sources": ["second"]}), ("without", {"exclude_sources": ["second"]})):
        result = again(fits[:1], both, **keep)
        rows = frame[(frame["val_role"] == "select") & ((frame["source"] == "second") == (name == "of"))]
        assert result["n_used"] == result["n_expected"] == len(rows) > 0
        assert result["evalset_id"] == evalset_id(rows["sample_id"].tolist(), rows["label"], "val/select", 0)
        found[name] = result["checkpoints"][0]["raw"]["nll"]
    assert found["of"] != found["without"]
    with pytest.raises(DataError, match="no source|unknown|closest"):
        again(fits[:1], include_sources=["elsewhere"])


# ---------------------------------------------------------------- what is chosen


def entry(raw, calibrated, epochs, evalset="a" * 12):
    scores = {"raw": {"macro_f1": raw}, "calibrated": {"macro_f1": calibrated}}
    return scores | {"epochs": epochs, "evalset_id": evalset, "fit": "f", "checkpoint": f"c{epochs}", "n_used": 9}


def test_the_best_index():
    entries = [entry(0.4, 0.7, 3.0), entry(0.5, 0.6, 2.0), entry(0.5, 0.7, 1.0), entry(0.3, 0.1, 0.5)]
    assert best_index(entries, "raw") == 2, "of two that are equal, the earlier epoch"
    assert best_index(entries[:2], "raw") == 1 and best_index(entries[:2], "calibrated") == 0
    assert best_index(entries, "calibrated") == 2
    with pytest.raises(DataError, match=r"different rows.*a{12}: f/c3.0 \(9\); b{12}: f/c2.0"):
        best_index([entries[0], entry(0.9, 0.9, 2.0, "b" * 12)], "raw")


def test_the_best_macro_f1_is_chosen_and_written(swept, fits, drawn_manifest, pack_cache):
    out, result = swept
    chosen, entries = result["chosen"], result["checkpoints"]
    best = max(e["raw"]["macro_f1"] for e in entries)
    assert chosen["raw"]["macro_f1"] == best and entries[chosen["index"]]["weights_sha256"] == chosen["weights_sha256"]
    ties = [e["epochs"] for e in entries if e["raw"]["macro_f1"] == best]
    assert chosen["epochs"] == min(ties)
    low, high = chosen["interval"]
    assert low <= best <= high
    near = {e["weights_sha256"] for e in entries if e["raw"]["macro_f1"] >= low}
    assert chosen["as_good"] == len(near) - 1 and chosen["weights_sha256"] in near
    bundle = read_bundle(resolve(out))
    assert bundle.path == (out / "bundle").resolve() and bundle.name == "chosen" and bundle.meta["kind"] == "teacher"
    assert bundle.weights_sha256 == chosen["weights_sha256"]
    ids = bundle.meta["ids"]
    assert (ids["fit"], ids["checkpoint"], ids["epochs"]) == (chosen["fit"], chosen["checkpoint"], chosen["epochs"])
    assert ids["epoch"] == chosen["epochs"] - 1 and ids["evalset_id"] == result["evalset_id"]
    pack = open_or_build(drawn_manifest.rows(split="val", val_role="select"), bundle.contract, pack_cache)
    logits = predict_logits(bundle.model(), pack)
    assert_scores(bundle.meta["metrics"]["val_select"], logits, pack.manifest.labels)
    assert_scores(bundle.meta["metrics"]["val_select_scaled"], bundle.temperature.apply(logits), pack.manifest.labels)
    assert bundle.meta["metrics"]["val_select"]["n_used"] == len(pack.manifest)
    assert not (out / "candidate").exists(), "nothing is left of the others"
    [subject] = subjects([out], [])
    assert subject.name == "chosen" and subject.val_select["macro_f1"] == best


def test_the_record_of_what_was_seen_travels(swept, fits, drawn_manifest):
    out, result = swept
    [folder] = [fit for fit in fits if fit.name == result["chosen"]["folder"]]
    ours, theirs = read_exposure(out / "bundle"), read_exposure(folder / "best")
    assert ours.complete and np.array_equal(ours.trained_on, theirs.trained_on)
    val = drawn_manifest.frame[drawn_manifest.frame["val_role"].isin(["select", "temperature"])]
    assert set(content_numbers(val["content_id"])) | set(theirs.selected_on) <= set(ours.selected_on)


def test_a_temperature_a_class_under_the_flip_average(fits, again, drawn_manifest, pack_cache, tmp_path):
    """What is chosen by is the flip average after scaling; what the bundle carries is what it predicts."""
    result = again(fits[:1], calibration="vector", select_by="calibrated", view="flip")
    logits, y = logits_of(fits[0], FILES[1], drawn_manifest, pack_cache, "select", flip=True)
    second = result["checkpoints"][1]
    assert_scores(second["raw"], logits, y)
    assert_scores(second["calibrated"], logits / np.array(second["temperature"]["temperature_vector"]), y)
    best = max(e["calibrated"]["macro_f1"] for e in result["checkpoints"])
    chosen = result["chosen"]
    assert chosen["calibrated"]["macro_f1"] == best and set(chosen["views"]) == {"flip", "none"}
    single = chosen["views"]["none"]
    assert single["protocol_id"] != second["protocol_id"] and single["evalset_id"] == second["evalset_id"]
    file = chosen["checkpoint"] if chosen["checkpoint"] != "best" else FILES[int(chosen["epochs"]) - 1]
    logits, y = logits_of(fits[0], file, drawn_manifest, pack_cache, "select")
    assert_scores(single["raw"], logits, y)
    reports = [(FILES[1], "flip", second), *((file, view, report) for view, report in chosen["views"].items())]
    for of, view, report in reports:
        held = logits_of(fits[0], of, drawn_manifest, pack_cache, "temperature", flip=view == "flip")
        expected = temperature.fit(*held, mode="vector", allow_bound=True).temperature_vector
        assert report["temperature"]["temperature_vector"] == pytest.approx(expected, rel=1e-3), view
        assert report["temperature"]["view"] == view
    assert read_bundle(tmp_path / "sweep" / "bundle").temperature.view == "none", "what a bundle predicts on"
    low, high = chosen["interval"]
    assert low <= best <= high and len(sweep_table(result)) == 5


def test_one_name_twice_is_told_apart_by_the_folders(fits, again, tmp_path):
    shutil.copytree(fits[0], tmp_path / "copy")
    result = again([fits[0], tmp_path / "copy"])
    assert {e["fit"] for e in result["checkpoints"]} == {"small", "copy"}
    assert result["chosen"]["fit"] == "small", "of two that are equal, the one that is named first"


# ---------------------------------------------------------------- what is refused


def test_what_is_no_fit(fits, tmp_path):
    with pytest.raises(FerError, match="no fits to sweep"):
        candidates([])
    with pytest.raises(FerError, match=r"no fit \(it holds no best/\)"):
        candidates([tmp_path])
    with pytest.raises(FerError, match="named twice among small, small"):
        candidates([fits[0], fits[0]])
    with pytest.raises(ValueError, match="packaged holds no checkpoints"):
        CheckpointParams(fits=["packaged"])
    with pytest.raises(ValueError, match="not latest or v1"):
        CheckpointParams(alias="v1")


def test_a_damaged_checkpoint_is_named(fits, again, tmp_path):
    shutil.copytree(fits[0], tmp_path / "copy")
    file = tmp_path / "copy" / FILES[1] / STATE
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(BundleError, match=f"{FILES[1]}.*damaged"):
        again([tmp_path / "copy"])


def moved(manifest, folder, split, **meta):
    """The manifest over a folder that holds the images of one split alone."""
    for path in manifest.frame["image_path"][manifest.frame["split"] == split]:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(manifest.resolve(path).read_bytes())
    return Manifest(manifest.frame, {**manifest.meta, "root": str(folder), **meta}, None)


def test_no_row_but_those_of_val_is_opened(fits, again, drawn_manifest, swept, tmp_path):
    """The images of train and test are not even there."""
    alone = moved(drawn_manifest, tmp_path / "pictures", "val")
    result = again(fits, alone, tmp_path / "cache")
    for ours, theirs in zip(result["checkpoints"], swept[1]["checkpoints"], strict=True):
        assert ours["raw"]["nll"] == pytest.approx(theirs["raw"]["nll"], abs=1e-6)
        assert ours["raw"]["per_class_f1"] == theirs["raw"]["per_class_f1"]
        assert ours["evalset_id"] == theirs["evalset_id"]


def test_checkpoints_of_different_rows_are_not_ranked(fits, again, drawn_manifest, tmp_path):
    """An image that was there when the first fit's faces were packed and is broken when the second's are."""
    tolerant = moved(drawn_manifest, tmp_path / "pictures", "val", tolerance=1)
    result = again(fits[:1], tolerant, tmp_path / "cache")
    rows = drawn_manifest.rows(split="val", val_role="select")
    assert result["n_used"] == len(rows)
    tolerant.resolve(rows.frame.iloc[0]).write_bytes(b"no picture")
    with pytest.raises(DataError, match=rf"different rows.*small/{FILES[0]} \({len(rows)}\).*\({len(rows) - 1}\)"):
        again(fits, tolerant, tmp_path / "cache")


def test_a_fit_that_learned_from_the_choosing_rows_is_refused(fits, again, drawn_manifest, pack_cache, tmp_path):
    frame = drawn_manifest.frame.copy()
    select = frame.index[frame["val_role"] == "select"][::2]
    frame.loc[select, "split"], frame.loc[select, "val_role"] = "train", ""
    other = Manifest(frame, drawn_manifest.meta, drawn_manifest.path)
    leaky = fitted(tmp_path / "leaky", other, pack_cache, name="leaky", epochs=1)
    source = frame["source"].iloc[0]
    with pytest.raises(DataError, match=rf"leaky learned from {len(select)} of the .*allow_leaks: \[{source}\]"):
        again([fits[0], leaky])
    result = again([fits[0], leaky], allow_leaks=[source])
    assert result["leaks"]["learned_elsewhere"] == {"leaky": len(select)}
    assert any(f"leaky learned from {len(select)} of these rows" in s for s in sweep_summary(result))


# ---------------------------------------------------------------- what a person looks at


def test_the_table_and_the_curves_show_what_was_measured(swept):
    result = swept[1]
    table = sweep_table(result)
    assert list(table["macro-F1"]) == [e["raw"]["macro_f1"] for e in result["checkpoints"]]
    assert list(table.index[table["chosen"] == "*"]) == [result["chosen"]["index"]]
    assert table["evalset"].nunique() == 1 and table["protocol"].nunique() == 2 and set(EMOTIONS) <= set(table)
    figure = sweep_curves(result)
    for axes, key in zip(figure.axes, ("macro_f1", "ece"), strict=True):
        drawn = {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}
        for fit in ("small", "wide"):
            own = sorted((e for e in result["checkpoints"] if e["fit"] == fit), key=lambda e: e["epochs"])
            for part in ("raw", "calibrated"):
                assert drawn[f"{fit}, {part}"] == [e[part][key] for e in own]
        assert drawn[f"chosen: {result['chosen']['raw'][key]:.4f}"] == [result["chosen"]["raw"][key]]
    for picture in (figure, chosen_reliability(result)):
        content = io.BytesIO()
        picture.savefig(content, format="png")
        assert content.getvalue()[:4] == b"\x89PNG"


def test_what_is_said(swept):
    said = " ".join(sweep_summary(swept[1]))
    chosen = swept[1]["chosen"]
    assert f"{chosen['fit']}, {chosen['checkpoint']} (epochs: {chosen['epochs']:g})" in said
    assert f"raw macro-F1 {chosen['raw']['macro_f1']:.4f}" in said and swept[1]["evalset_id"] in said
    assert ("within noise" in said) == bool(chosen["as_good"])
