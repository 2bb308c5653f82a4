"""Parameters and data that cannot be trained are rejected with advice, before any work where possible."""

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
    ("setting", "message"),
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
        ("backbone_args={pad_type: same}", "backbone resnet18 does not accept backbone_args {'pad_type': 'same'} ("),
        ("backbone_args={pad_type: smae}", "pad_type should be same, valid, or ''"),
        ("backbone_args={drop_rate: [0.1]}", "drop_rate should be a text, true, false, or a number"),
        ("backbone_args.num_classes=7", "num_classes is set by the library: leave it out"),
        ("backbone_args.checkpoint_path=evil.pt", "checkpoint_path is set by the library: leave it out"),
    ],
)
def test_invalid_parameters_are_rejected_when_the_run_file_is_read(tmp_path, setting, message):
    file = tmp_path / "a.yaml"
    file.write_text("name: a\nphases:\n  import: {}\n  manifest: {}\n  teacher: {}\n")
    with pytest.raises(ParamsError) as error:
        load_run(file, [f"teacher.{setting}"])
    assert str(error.value).startswith("phase 'teacher': ") and message in str(error.value)


def train(select_rows, manifest, tmp_path, cache, **changes):
    part = Manifest(select_rows(manifest.frame).reset_index(drop=True), manifest.meta, manifest.path)
    return list(train_teacher(TeacherParams(**SMALL | changes), part, tmp_path / "fit", cache))


def without(emotion):
    return lambda frame: frame[(frame["split"] != "train") | (frame["label"] != EMOTIONS.index(emotion))]


def train_rows(n):
    return lambda frame: frame[(frame["split"] != "train") | (frame["split"].eq("train").cumsum() <= n)]


def test_class_without_rows_is_named(drawn_manifest, pack_cache, tmp_path):
    with pytest.raises(DataError, match=re.escape("rows of every class, none for: Fear; use imbalance: none or add")):
        train(without("Fear"), drawn_manifest, tmp_path, pack_cache)


@pytest.mark.parametrize("changes", [{"imbalance": "none"}, {"imbalance": "class_weights"},
                                     {"imbalance": "none", "logit_adjustment": 1.0},
                                     {"imbalance": "none", "logit_adjustment": 2.0}])  # fmt: skip
def test_advice_for_a_class_without_rows_works(drawn_manifest, pack_cache, tmp_path, changes):
    events = train(without("Fear"), drawn_manifest, tmp_path, pack_cache, **changes)
    assert events[-1]["event"] == "end" and 0 <= events[-1]["best_macro_f1"] <= 1
    assert "no training row has the label Fear: the model can't learn to predict it" in events[1]["message"]
    if "logit_adjustment" in changes:
        assert read_bundle(tmp_path / "fit" / "best").meta["training_prior"][EMOTIONS.index("Fear")] == 0


def test_manifest_without_training_rows_is_rejected(drawn_manifest, pack_cache, tmp_path):
    with pytest.raises(DataError, match="no rows with split 'train'"):
        train(train_rows(0), drawn_manifest, tmp_path, pack_cache)
    with pytest.raises(DataError, match="unknown source 'nobody': .* has tree"):
        train(lambda frame: frame, drawn_manifest, tmp_path, pack_cache, include_sources=["nobody"])


def test_fewer_rows_than_a_batch_make_one_step(drawn_manifest, pack_cache, tmp_path):
    events = train(train_rows(9), drawn_manifest, tmp_path, pack_cache, imbalance="none", batch_size=64)
    assert events[0]["steps_per_epoch"] == 1 and events[0]["total_steps"] == 2
    assert [e["train"]["coverage"] for e in events if e["event"] == "epoch"] == [1.0, 1.0]


def test_fewer_rows_than_micro_batches_need_are_rejected(drawn_manifest, pack_cache, tmp_path):
    with pytest.raises(DataError, match="a step has 3 training rows for 2 micro-batches .* add rows, or lower"):
        train(train_rows(3), drawn_manifest, tmp_path, pack_cache, imbalance="none", batch_size=64, accum_steps=2)


@pytest.mark.parametrize(
    ("backbone", "reason"), [("test_vit", "divisible by patch size"), ("efficientformer_l1", "set image_size to 224")]
)
def test_unsupported_image_size_is_rejected_before_faces_are_packed(drawn_manifest, tmp_path, backbone, reason):
    p = TeacherParams(**SMALL | {"backbone": backbone, "image_size": 50})
    with pytest.raises(FerError, match=f"backbone {backbone} does not accept images of 50 x 50 .*{reason}"):
        next(train_teacher(p, drawn_manifest, tmp_path / "fit", tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()


def test_soft_label_weight_without_votes_is_a_warning(drawn_manifest, pack_cache, tmp_path):
    p = TeacherParams(**SMALL | {"soft_label_weight": 0.7})
    notes = [e["message"] for e in train_teacher(p, drawn_manifest, tmp_path, pack_cache) if e["event"] == "note"]
    assert notes == ["soft_label_weight 0.7: no training row has annotator votes, so the targets are the labels alone; "
                     "import a data set with votes (FERPlus), or set it to 0"]  # fmt: skip
    assert json.loads((tmp_path / "alignmentreport.json").read_text())["data"]["rows_with_votes"] == 0


def test_margin_ramp_longer_than_the_run_is_a_warning(drawn_manifest, pack_cache, tmp_path):
    p = TeacherParams(**SMALL | {"epochs": 8, "plain_epochs": 5, "ramp_end": 15})
    note = next(train_teacher(p, drawn_manifest, tmp_path, pack_cache))
    assert note["event"] == "note" and note["level"] == "warning"
    message = "the margin ramp ends at epoch 15, the run at 8: the margin stays below 0.35; set epochs >= 15, or "
    assert note["message"].startswith(message + "plain_epochs: 0.08 and ramp_end: 0.25 (fractions of the run)")
    p = TeacherParams(**SMALL | {"epochs": 8, "plain_epochs": 0.08, "ramp_end": 0.25})
    assert next(train_teacher(p, drawn_manifest, tmp_path, pack_cache))["event"] == "start", "the advice works"
