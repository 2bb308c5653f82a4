"""Pages of measurements are what their script makes of the figures beside them."""

import json

import pytest

WITH_GOALS = ["loader", "manifest_scale", "audit_scale", "teacher_speed", "live_scoring", "live"]


@pytest.mark.parametrize("name", [*WITH_GOALS, "backbones", "arcface_sweep"])
def test_a_page_is_rendered_from_its_figures(repo, measurement, name):
    folder = repo / "docs" / "results"
    result = json.loads((folder / f"{name}.json").read_text())
    page = (folder / f"{name}.md").read_text()
    assert page == measurement(name).page(result)
    if name in WITH_GOALS:
        assert "goal >=" in page or "goal <=" in page, "a goal stands beside what was measured, met or missed"
