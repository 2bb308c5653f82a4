"""Measurement pages match the numbers that their scripts rendered."""

import json

import pytest

WITH_GOALS = ["loader", "manifest_scale", "audit_scale", "teacher_speed", "live_scoring", "live"]


@pytest.mark.parametrize("name", [*WITH_GOALS, "backbones", "arcface_sweep"])
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
