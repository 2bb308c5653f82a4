"""Measurement pages match the numbers that their scripts rendered."""

import json

import numpy as np
import pytest
from scipy.stats import ttest_rel

WITH_GOALS = ["loader", "manifest_scale", "audit_scale", "teacher_speed", "live_scoring", "live"]


@pytest.mark.parametrize("name", [*WITH_GOALS, "backbones", "arcface_sweep", "uncertainty"])
def test_a_page_matches_its_numbers(repo, measurement, name):
    folder = repo / "docs" / "results"
    result = json.loads((folder / f"{name}.json").read_text())
    page = (folder / f"{name}.md").read_text()
    assert page == measurement(name).page(result)
    if name in WITH_GOALS:
        assert "goal >=" in page or "goal <=" in page, "each measurement has its goal"


def test_the_arcface_sweep_counts_test_scores_and_selects_on_val_rows(repo, measurement):
    sweep = measurement("arcface_sweep")
    result = json.loads((repo / "docs" / "results" / "arcface_sweep.json").read_text())
    assert "39 times in all" in sweep.page(result) and "gives no advice" in sweep.page(result)
    best_on_test = max(result["table"], key=lambda row: row["accuracy"]["mean"])["setting"]
    for row in result["table"]:
        row["val_macro_f1"] = 0.5 if row["setting"] == "s16-m0" else 0.4
    assert best_on_test != "s16-m0" and "Advice: `s16-m0`." in sweep.page(result)


def forgetting_runs(seeds=3):
    """Made-up scores in which nested learning forgets a tenth less than the others, the same for every seed."""
    rng, runs = np.random.default_rng(0), {}
    for seed in range(seeds):
        start, noise = rng.uniform(0.5, 0.7), rng.normal(0, 0.005, 5)
        runs[seed] = {}
        for i, method in enumerate(("plain", "ema", "replay", "blocks", "nested")):
            after = start - 0.3 + noise[i] + 0.1 * (method == "nested")
            scores = {"a_before": start, "a_after": after, "forgetting": start - after, "b_after": 0.5 + noise[i]}
            runs[seed][method] = scores | {"mean_after": after / 2 + 0.25, "applied": None}
    return runs


def test_forgetting_is_decided_by_the_paired_interval(measurement):
    forgetting, runs = measurement("forgetting"), forgetting_runs()
    rows = {row["method"]: row for row in forgetting.summary(runs)}
    for other in ("plain", "blocks"):
        gap = rows["nested"]["forgetting"][f"to_{other}"]
        test = ttest_rel(*([run[name]["forgetting"] for run in runs.values()] for name in ("nested", other)))
        expected = test.confidence_interval(0.95)
        assert [gap["lo"], gap["hi"]] == pytest.approx([expected.low, expected.high]) and gap["hi"] < 0
    shared = {"a": "A", "b": "B", "backbone": "x", "size": 48, "epochs": 1, "replay": 0.2, "n_a": 9, "n_b": 9}
    page = forgetting.page(shared | {"seeds": list(runs), "table": list(rows.values())})
    assert "`nested` forgets less than `plain`: -" in page and "`nested` forgets less than `blocks`" in page
    assert "`ema` does not differ significantly from `plain`" in page
    [row] = [row for row in forgetting.summary(forgetting_runs(1)) if row["method"] == "nested"]
    assert "one seed, which decides nothing" in forgetting.verdict(row)


def test_replay_mixes_a_share_of_the_first_domain(measurement, drawn_manifest):
    forgetting = measurement("forgetting")
    frame = drawn_manifest.frame.assign(source=["a" if i % 3 else "b" for i in range(len(drawn_manifest))])
    mixed = forgetting.with_replay(type(drawn_manifest)(frame, drawn_manifest.meta), 0.5, seed=1).frame
    sizes, before = (f.groupby(["split", "source"]).size() for f in (mixed, frame))
    assert sizes["train", "a"] == round(0.5 * before["train", "b"]) < before["train", "a"]
    assert sizes.drop(("train", "a")).equals(before.drop(("train", "a"))) and mixed["sample_id"].is_unique


def test_auroc_is_the_share_of_pairs_in_order(measurement):
    rng = np.random.default_rng(0)
    familiar, other = rng.integers(0, 6, 40).astype(float), rng.integers(2, 9, 30).astype(float)
    pairs = [(b > a) + 0.5 * (b == a) for a in familiar for b in other]
    assert measurement("uncertainty").auroc(familiar, other) == pytest.approx(np.mean(pairs))
