"""Stage B beside the stage A that it started from: the same rows, what differs, what it cost."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn

from fer_lib.datasets.build import build_manifest
from fer_lib.datasets.manifest import Manifest
from fer_lib.errors import DataError, FerError
from fer_lib.evaluation.evaluate import evaluate
from fer_lib.evaluation.paired_comparison import Measurement
from fer_lib.evaluation.stage_views import changed_table, draw_stages, stage_sentences, stages_table, verdict
from fer_lib.evaluation.stages import compare_scores, cost, parent_child_pairs, read_stages
from fer_lib.importers import import_all
from fer_lib.models.bundle import derive_bundle, read_bundle, write_bundle
from fer_lib.models.classifier import build_classifier
from fer_lib.params import EvaluateParams, ManifestParams, SourceSpec, TeacherParams
from fer_lib.report.markdown import render_template
from fer_lib.synthetic.dataset import write_raw
from fer_lib.training.teacher import train_teacher

OWN = ["rafdb_basic"]


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    """Two sources; stage A of both at 32 px, stage B of one of them at 40 px; measured together on val."""
    torch.set_num_threads(1)
    base = tmp_path_factory.mktemp("stages")
    specs = []
    for seed, (source, layout) in enumerate((("ferplus", "ferplus"), ("rafdb_basic", "rafdb_basic"))):
        raw = write_raw(base / source, layout, faces=210, seed=seed, size=None if source == "ferplus" else 48)
        specs.append(SourceSpec(source=source, root=str(raw)))
    import_all(specs, base / "imports")
    params = ManifestParams(val_fraction=0.3, val_roles=(0.5, 0.4, 0.1))
    manifest = build_manifest(params, base / "imports", base / "manifest")
    cache = base / "runs" / "cache"
    cache.mkdir(parents=True)
    common = dict(backbone="test_resnet", embed_dim=16, epochs=2, batch_size=28, warmup_epochs=0.0, plain_epochs=2,
                  ramp_end=2, arcface_s=8.0, max_train_batches=3, threads=1, device="cpu", onnx="none")  # fmt: skip
    a = TeacherParams(name="a", image_size=32, lr=3e-3, **common)
    b = TeacherParams(name="b", image_size=40, lr=1e-3, exclude_sources=["ferplus"], **common)
    list(train_teacher(a, manifest, base / "a", cache))
    list(train_teacher(b, manifest, base / "b", cache, init_from=str(base / "a" / "best")))
    p = EvaluateParams(split="val", exclude_sources=["ferplus"], resamples=150, smoke=True, leak_free=False)
    result = evaluate(p, manifest, [base / "b", base / "a"], [], base / "out", cache, "cpu")
    return base, manifest, result


def test_the_rows_and_the_temperature_are_of_the_chosen_sources_alone(staged):
    base, manifest, result = staged
    frame = manifest.frame[manifest.frame["source"] == "rafdb_basic"]
    select, held = (int((frame["val_role"] == role).sum()) for role in ("select", "temperature"))
    assert 0 < select < (manifest.frame["val_role"] == "select").sum()
    assert result["sources"] == OWN and result["sets"]["all"]["n_used"] == select
    temperature = result["models"]["a"]["views"]["none"]["all"]["temperature"]
    assert temperature["n"] == held
    other = EvaluateParams(split="val", include_sources=OWN, resamples=100, smoke=True, leak_free=False, views=["none"])
    same = evaluate(other, manifest, [base / "a"], [], base / "again", base / "runs" / "cache", "cpu")
    assert same["sets"]["all"]["evalset_id"] == result["sets"]["all"]["evalset_id"], (
        "the rows make the id, not the words"
    )
    whole = EvaluateParams(split="val", resamples=100, smoke=True, leak_free=False, views=["none"])
    every = evaluate(whole, manifest, [base / "a"], [], base / "whole", base / "runs" / "cache", "cpu")
    assert every["sets"]["all"]["evalset_id"] != result["sets"]["all"]["evalset_id"]
    assert every["sources"] == ["ferplus", "rafdb_basic"] and read_stages(base / "whole") is None


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"include_sources": ["rafdb"]}, "unknown source 'rafdb'"),
        ({"exclude_sources": ["ferplus", "rafdb_basic"]}, "no source .* is left"),
    ],
)
def test_sources_that_leave_nothing_are_refused(staged, tmp_path, chosen, said):
    base, manifest, _ = staged
    with pytest.raises(DataError, match=said):
        evaluate(EvaluateParams(**chosen), manifest, [base / "a"], [], tmp_path / "out", base / "runs" / "cache", "cpu")
    assert not (tmp_path / "out").exists()


def test_a_source_without_temperature_rows_is_named(staged, tmp_path):
    base, manifest, _ = staged
    frame = manifest.frame[(manifest.frame["source"] == "ferplus") | (manifest.frame["val_role"] != "temperature")]
    bare = Manifest(frame.reset_index(drop=True), manifest.meta, manifest.path)
    p = EvaluateParams(exclude_sources=["ferplus"], resamples=100, smoke=True)
    with pytest.raises(DataError, match="role temperature of rafdb_basic.*calibration: none or fixed"):
        evaluate(p, bare, [base / "a"], [], tmp_path / "out", base / "runs" / "cache", "cpu")


def test_the_child_is_known_by_the_weights_it_started_from(staged):
    base, _, _ = staged
    bundles = {name: read_bundle(base / name / "best") for name in "ab"}
    assert parent_child_pairs(bundles) == [("a", "b")]
    assert parent_child_pairs({"b": bundles["b"]}) == [] == parent_child_pairs({"a": bundles["a"]})


def test_what_differs_is_said_of_settings_and_rows(staged):
    base, manifest, _ = staged
    [stage] = read_stages(base / "out")["stages"]
    assert (stage["parent"], stage["child"], stage["settings_known"]) == ("a", "b", [True, True])
    changed = stage["changed"]
    assert changed["model.image_size"] == [32, 40] and changed["optim.lr"] == [3e-3, 1e-3]
    n = int((manifest.frame["source"] == "ferplus").sum())
    assert changed["data.source_counts_after_filter.ferplus"] == [n, None]
    train = [int((manifest.frame["split"] == "train").sum())]
    train.append(int(((manifest.frame["split"] == "train") & (manifest.frame["source"] == "rafdb_basic")).sum()))
    assert changed["data.train_rows"] == train
    assert not [key for key in changed if key.startswith(("ids", "init", "time", "paths"))]
    assert not {"model.name", "batching.batch_size", "protocol.arcface_s"} & set(changed), "these are the same"


def test_scores_are_the_evaluations_and_the_difference_is_theirs(staged):
    base, _, result = staged
    report = read_stages(base / "out")
    [stage] = report["stages"]
    scores = stage["scores"]["all"]
    assert set(stage["scores"]) == {"all"} and scores["evalset_id"] == result["sets"]["all"]["evalset_id"]
    for key, name in (("parent", "a"), ("child", "b")):
        own = result["models"][name]["views"]["none"]["all"]
        assert scores[key]["macro_f1"] == own["raw"]["macro_f1"] and scores[key]["ece"] == own["ece_raw"]["value"]
        assert scores[key]["scaled"]["nll"] == own["scaled"]["nll"]
        assert scores["protocol_id"][key] == own["protocol_id"]
    gain = scores["difference"]
    for name in ("accuracy", "macro_f1", "nll"):
        assert gain[name]["value"] == pytest.approx(scores["child"][name] - scores["parent"][name], abs=1e-12)
        assert gain[name]["lo"] <= gain[name]["value"] <= gain[name]["hi"]
    flips = scores["mcnemar"]["only_after"] - scores["mcnemar"]["only_before"]
    assert flips / scores["n_used"] == pytest.approx(gain["accuracy"]["value"], abs=1e-12)
    assert "not stratified" in report["interval"]["method"] and report["interval"]["resamples"] == 150


def test_the_price_is_that_of_the_histories_and_of_a_count_by_hand(staged):
    base, _, result = staged
    [stage] = read_stages(base / "out")["stages"]
    total = 0.0
    for key, name in (("parent", "a"), ("child", "b")):
        spent, history = stage["cost"][key], json.loads((base / name / "history.json").read_text())
        assert spent["train_seconds"] == history[-1]["timing"]["total_sec"] and spent["epochs"] == len(history) == 2
        assert spent["images_per_sec"] == pytest.approx(2 * 3 * 28 / spent["train_seconds"], rel=1e-6)
        assert spent["parameters"] == result["models"][name]["parameters"]
        assert spent["latency_ms"]["p95"] >= spent["latency_ms"]["p50"] > 0
        assert spent["gflops"] == pytest.approx(flops(read_bundle(base / name / "best").model()) / 1e9, rel=1e-9)
        total += spent["train_seconds"]
    assert stage["cost"]["seconds_in_all"] == pytest.approx(total)


def flops(model) -> int:
    """Twice the multiply-adds of every convolution and linear layer, by hooks that see shapes alone."""
    found = []

    def conv(layer, given, out):
        found.append(2 * out.numel() * layer.weight[0].numel())

    hooks = [m.register_forward_hook(conv) for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    head = 2 * model.head.weight.numel()  # the cosine head multiplies by a normalised copy
    with torch.no_grad():
        model(torch.zeros(1, 3, model.config["image_size"], model.config["image_size"]))
    for hook in hooks:
        hook.remove()
    return sum(found) + head


def test_the_arithmetic_of_attention_is_counted(staged, tmp_path):
    """Of 26 tokens: each block's two products of queries, keys and values are in it."""
    base, _, _ = staged
    config = dict(backbone="test_vit", image_size=80, embed_dim=16, dropout=0.0, head="cosine", s=8.0)
    parent = read_bundle(base / "a" / "best")
    contract = parent.contract.model_copy(update={"image_size": 80})
    model = build_classifier(config)
    vit = write_bundle(
        tmp_path / "vit", name="vit", kind="teacher", model_config=config, state_dict=model.state_dict(),
        contract=contract, temperature=None, training_prior=[1 / 7] * 7, ids={"epoch": 0}, metrics={},
    )  # fmt: skip
    spent = cost(vit, 2)
    tokens, width, blocks = 26, model.backbone.embed_dim, len(model.backbone.blocks)
    attention = blocks * 2 * 2 * tokens * tokens * width
    assert spent["gflops"] == pytest.approx((flops(vit.model()) + attention) / 1e9, rel=1e-6)
    assert spent["train_seconds"] is None and spent["epochs"] is None


def test_other_rows_are_refused(staged):
    base, _, result = staged
    y = np.arange(14) % 7
    logits = np.eye(7)[y]
    own = result["models"]["a"]["views"]["none"]["all"]
    one = Measurement("one", own, logits, y, [f"s{i}" for i in range(14)])
    shuffled = np.roll(np.arange(14), 3)
    same = Measurement("same", own, logits[shuffled], y[shuffled], [f"s{i}" for i in shuffled])
    assert compare_scores(one, same, 100)["difference"]["accuracy"]["value"] == 0.0, (
        "rows are joined by id, not by place"
    )
    other = dataclasses.replace(one, name="other", report=own | {"evalset_id": "0" * 12})
    with pytest.raises(FerError, match="one was measured on 14 rows .* other on 14 .*000000000000.*can't be compared"):
        compare_scores(one, other)
    fewer = dataclasses.replace(one, sample_ids=[f"t{i}" for i in range(14)])
    with pytest.raises(FerError, match="can't be compared"):
        compare_scores(one, fewer)


def test_a_report_of_other_weights_is_refused_and_a_missing_one_is_said(staged, tmp_path):
    base, manifest, _ = staged
    p = EvaluateParams(split="val", include_sources=OWN, resamples=100, smoke=True, leak_free=False, views=["none"])
    child = derive_bundle(read_bundle(base / "b" / "best"), tmp_path / "b" / "best")
    evaluate(p, manifest, [base / "a", child.path], [], tmp_path / "out", base / "runs" / "cache", "cpu")
    [stage] = read_stages(tmp_path / "out")["stages"]
    assert stage["settings_known"] == [True, False] and stage["changed"]["model.image_size"] == [32, 40]
    assert stage["cost"]["child"]["train_seconds"] is None and stage["cost"]["seconds_in_all"] is None
    assert any("not known" in sentence for sentence in stage["said"])
    report = json.loads((base / "a" / "alignmentreport.json").read_text())
    (tmp_path / "b" / "alignmentreport.json").write_text(json.dumps(report))
    with pytest.raises(FerError, match="alignmentreport.json is not about the weights beside it"):
        evaluate(p, manifest, [base / "a", child.path], [], tmp_path / "out", base / "runs" / "cache", "cpu")


def stage_with(value, lo, hi, **price):
    """A stage whose macro-F1 and Fear differ by this much."""
    gain = {name: {"value": value, "lo": lo, "hi": hi} for name in ("accuracy", "macro_f1", "f1/Fear", "nll")}
    own = {"macro_f1": 0.5, "accuracy": 0.6}
    scores = {"parent": own, "child": {k: v + value for k, v in own.items()}, "difference": gain, "n_used": 1000}
    scores["mcnemar"] = {"only_before": 30, "only_after": 10, "p": 0.002}
    spent = {"train_seconds": 60.0, "images_per_sec": 100.0, "epochs": 2, "image_size": 224, "parameters": 10}
    spent |= {"gflops": 1.0, "latency_ms": {"p50": 10.0, "p95": 11.0}}
    costs = {"parent": spent, "child": spent | price, "seconds_in_all": 120.0}
    return {"parent": "a", "child": "b", "scores": {"all": scores}, "cost": costs, "settings_known": [True, True]}


def test_a_worse_child_is_called_worse():
    said = stage_sentences(stage_with(-0.02, -0.03, -0.01, latency_ms={"p50": 29.0, "p95": 30.0}, image_size=384))
    assert said[0].startswith("`b`, trained on from `a`, is worse: macro-F1 0.5000 → 0.4800 (-0.0200")
    assert "10 rows gained and 30 lost" in said[0] and "0.002" in said[0]
    assert "lower, beyond chance, for Fear (-2.0)" in said[1]
    assert "2.9 times the time for a face (10.0 → 29.0 ms" in said[2] and "224 → 384 px" in said[2]
    better = stage_sentences(stage_with(0.02, 0.01, 0.03))
    assert "is better" in better[0] and "higher, beyond chance, for Fear (+2.0)" in better[1]
    unclear = stage_sentences(stage_with(-0.02, -0.05, 0.01))
    assert "is lower, by no more than chance explains" in unclear[0] and not any("Fear" in s for s in unclear)
    assert verdict({"value": 0.0, "lo": -0.1, "hi": 0.1}) == "no different"


def test_a_results_page_has_them(staged):
    base, _, _ = staged
    report = read_stages(base / "out")
    page = render_template("stages.md.j2", stages={"on_val": report})
    assert report["stages"][0]["said"][0] in page and "`on_val`, val" in page
    assert "| `a` → `b` | `model.image_size` | 32 | 40 |" in page and "None" not in page


def test_tables_and_figure_show_what_the_file_says(staged):
    base, _, _ = staged
    report = read_stages(base / "out")
    table = stages_table(report).set_index("what")
    scores = report["stages"][0]["scores"]["all"]
    assert table.loc["macro-F1", "difference"] == pytest.approx(scores["difference"]["macro_f1"]["value"])
    assert table.loc["GFLOPs a face", "after"] == report["stages"][0]["cost"]["child"]["gflops"]
    changed = changed_table(report).set_index("setting")
    assert changed.loc["model.image_size", ["before", "after"]].tolist() == ["32", "40"]
    figure = draw_stages(report)
    assert len(figure.axes) == 2 and "a → b" in figure.axes[0].get_title()
    assert stages_table(None).empty and changed_table(None).empty and draw_stages(None) is None
