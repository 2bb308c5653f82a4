"""What cannot be trained is refused with words that say what to set, before any work where that can be known."""

import json
import re

import pytest

from fer_lib.datasets.manifest import Manifest
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError, FerError, ParamsError
from fer_lib.models.bundle import read_bundle
from fer_lib.params import TeacherParams
from fer_lib.pipeline.runfile import load_run
from fer_lib.training.teacher import train_teacher

SMALL = dict(
    backbone="test_resnet", image_size=32, embed_dim=16, epochs=2, batch_size=14, lr=2e-3, warmup_epochs=0.5,
    plain_epochs=0.5, ramp_end=0.9, arcface_s=12.0, max_train_batches=2, threads=1, device="cpu",
)  # fmt: skip


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (
            "batch_size=13",
            "teacher': batch_size 13 is too small for balanced batches of >= 2 per class: use batch_size >= 14",
        ),
        ("min_per_class=10", "use batch_size >= 70, or imbalance: class_weights"),
        ("epochs=0", "greater than or equal to 1"),
        ("epochs=-3", "greater than or equal to 1"),
        ("max_train_batches=-1", "greater than or equal to 0"),
        ("lr=0", "greater than 0"),
        ("accum_steps=40", "fewer than 2 rows in each, and batch norm needs 2: use batch_size >= 80"),
        ("ramp_end=2", "must not be before plain_epochs 5"),
    ],
)
def test_parameters_that_leave_nothing_to_train_are_refused_before_anything_runs(tmp_path, setting, said):
    file = tmp_path / "a.yaml"
    file.write_text("name: a\nphases:\n  import: {}\n  manifest: {}\n  teacher: {}\n")
    with pytest.raises(ParamsError) as refused:
        load_run(file, [f"teacher.{setting}"])
    message = str(refused.value)
    assert message.startswith("phase 'teacher': ") and said in message


def train(frame_of, manifest, tmp_path, cache, **changes):
    picked = Manifest(frame_of(manifest.frame).reset_index(drop=True), manifest.meta, manifest.path)
    return list(train_teacher(TeacherParams(**SMALL | changes), picked, tmp_path / "fit", cache))


def without(emotion):
    return lambda frame: frame[(frame["split"] != "train") | (frame["label"] != EMOTIONS.index(emotion))]


def few(n):
    return lambda frame: frame[(frame["split"] != "train") | (frame["split"].eq("train").cumsum() <= n)]


def test_a_class_without_rows_is_named(drawn_manifest, pack_cache, tmp_path):
    with pytest.raises(DataError, match=re.escape("rows of every class, none for: Fear; use imbalance: none or add")):
        train(without("Fear"), drawn_manifest, tmp_path, pack_cache)


@pytest.mark.parametrize("changes", [{"imbalance": "none"}, {"imbalance": "class_weights"},
                                     {"imbalance": "none", "logit_adjustment": 1.0},
                                     {"imbalance": "none", "logit_adjustment": 2.0}])  # fmt: skip
def test_the_advice_for_a_class_without_rows_is_true(drawn_manifest, pack_cache, tmp_path, changes):
    events = train(without("Fear"), drawn_manifest, tmp_path, pack_cache, **changes)
    assert events[-1]["event"] == "end" and 0 <= events[-1]["best_macro_f1"] <= 1
    assert "no training row is Fear: a model of these rows never learns to say so" in events[1]["message"]
    if "logit_adjustment" in changes:
        assert read_bundle(tmp_path / "fit" / "best").meta["training_prior"][EMOTIONS.index("Fear")] == 0


def test_no_training_rows_at_all_are_said(drawn_manifest, pack_cache, tmp_path):
    with pytest.raises(DataError, match="no rows with split 'train'"):
        train(few(0), drawn_manifest, tmp_path, pack_cache)
    with pytest.raises(DataError, match="unknown source 'nobody': .* has tree"):
        train(lambda frame: frame, drawn_manifest, tmp_path, pack_cache, include_sources=["nobody"])


def test_fewer_rows_than_a_batch_are_a_step_of_what_there_is(drawn_manifest, pack_cache, tmp_path):
    events = train(few(9), drawn_manifest, tmp_path, pack_cache, imbalance="none", batch_size=64)
    assert events[0]["steps_per_epoch"] == 1 and events[0]["total_steps"] == 2
    assert [e["train"]["coverage"] for e in events if e["event"] == "epoch"] == [1.0, 1.0]


def test_fewer_rows_than_micro_batches_need_are_refused(drawn_manifest, pack_cache, tmp_path):
    with pytest.raises(DataError, match="a step has 3 training rows for 2 micro-batches .* add rows, or lower"):
        train(few(3), drawn_manifest, tmp_path, pack_cache, imbalance="none", batch_size=64, accum_steps=2)


@pytest.mark.parametrize(
    ("backbone", "said"), [("test_vit", "divisible by patch size"), ("efficientformer_l1", "set image_size to 224")]
)
def test_a_size_that_the_backbone_does_not_take_is_told_before_anything_is_packed(
    drawn_manifest, tmp_path, backbone, said
):
    p = TeacherParams(**SMALL | {"backbone": backbone, "image_size": 50})
    with pytest.raises(FerError, match=f"backbone {backbone} does not take pictures of 50 x 50 .*{said}"):
        next(train_teacher(p, drawn_manifest, tmp_path / "fit", tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()


def test_votes_that_no_row_has_are_told(drawn_manifest, pack_cache, tmp_path):
    p = TeacherParams(**SMALL | {"soft_label_weight": 0.7})
    notes = [e["message"] for e in train_teacher(p, drawn_manifest, tmp_path, pack_cache) if e["event"] == "note"]
    assert notes == ["soft_label_weight 0.7: no training row has annotators' votes, so labels alone are learned from; "
                     "import a set that has votes (FERPlus), or set it to 0"]  # fmt: skip
    assert json.loads((tmp_path / "alignmentreport.json").read_text())["data"]["rows_with_votes"] == 0


def test_a_ramp_longer_than_the_run_says_what_to_set(drawn_manifest, pack_cache, tmp_path):
    p = TeacherParams(**SMALL | {"epochs": 8, "plain_epochs": 5, "ramp_end": 15})
    note = next(train_teacher(p, drawn_manifest, tmp_path, pack_cache))
    assert note["event"] == "note" and note["level"] == "warning"
    said = "the margin ramp ends at epoch 15, the run at 8: the margin stays below 0.35; set epochs >= 15, or "
    assert note["message"].startswith(said + "plain_epochs: 0.08 and ramp_end: 0.25 (fractions of the run)")
    fitting = TeacherParams(**SMALL | {"epochs": 8, "plain_epochs": 0.08, "ramp_end": 0.25})
    assert next(train_teacher(fitting, drawn_manifest, tmp_path, pack_cache))["event"] == "start", "the advice is true"
