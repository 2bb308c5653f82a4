"""Committed pages are what the code renders from the committed JSON.

After an intended change: ``python tests/golden/record_outputs.py pages``.
"""

import pytest
from record_outputs import CARD, PAGES, README, RESULTS, model_card, readme_results, results_page

ELSEWHERE = {  # rendered by tests/test_measurements.py, tests/fuzz and tests/datasets/test_label_noise_table.py
    "arcface_sweep", "audit_scale", "backbones", "fuzz", "label_noise", "live", "live_scoring", "loader",
    "manifest_scale", "teacher_speed",
}  # fmt: skip


def test_every_page_of_results_is_held_to_its_json_by_a_test(repo):
    folder = repo / "docs" / "results"
    assert {path.stem for path in folder.glob("*.json")} == ELSEWHERE | set(PAGES)
    assert {path.stem for path in folder.glob("*.md")} == ELSEWHERE | set(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_rendered_from_its_json(repo, name):
    assert results_page(name) == (repo / "docs" / "results" / f"{name}.md").read_text(encoding="utf-8")


def test_the_results_in_the_readme_are_those_of_the_exported_run():
    section = README.read_text(encoding="utf-8").partition(RESULTS[0])[2].partition(RESULTS[1])[0]
    assert readme_results() == section


def test_the_packaged_model_card_is_that_of_its_bundle():
    assert model_card() == CARD.read_text(encoding="utf-8")
