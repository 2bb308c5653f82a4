"""Pages of measurements are what their script makes of the figures beside them."""

import importlib.util
import json

import pytest


def script(repo, name, monkeypatch):
    monkeypatch.syspath_prepend(repo / "benchmarks")
    spec = importlib.util.spec_from_file_location(name, repo / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["loader", "manifest_scale", "audit_scale"])
def test_a_page_is_rendered_from_its_figures(repo, monkeypatch, name):
    folder = repo / "docs" / "results"
    result = json.loads((folder / f"{name}.json").read_text())
    page = (folder / f"{name}.md").read_text()
    assert page == script(repo, name, monkeypatch).page(result)
    assert "goal >=" in page or "goal <=" in page, "a goal stands beside what was measured, met or missed"
