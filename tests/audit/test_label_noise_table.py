"""The script that measures the label-noise audit: it counts rightly, and what is committed is what it measured.

Measure again with ``python benchmarks/label_noise.py --write``.
"""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from fer_lib.emotions import EMOTIONS


@pytest.fixture(scope="module")
def benchmark(measurement):
    return measurement("label_noise")


@pytest.fixture(scope="module")
def result(repo):
    return json.loads((repo / "docs" / "results" / "label_noise.json").read_text())


def test_the_page_is_rendered_from_the_json(repo, benchmark, result):
    assert (repo / "docs" / "results" / "label_noise.md").read_text() == benchmark.page(result)


def test_the_committed_figures_are_of_the_settings_that_are_the_default(benchmark, result):
    assert result["settings"] == benchmark.settings()


def test_the_goal_was_reached_on_seeds_that_chose_nothing(benchmark, result):
    for shape, least in benchmark.GOAL.items():
        reached = {r["seed"]: r["auprc"] for r in result["drawn"] if r["shape"] == shape and r["faces"] == 12_000}
        assert reached.keys() - set(benchmark.TUNED)
        assert min(reached.values()) >= least


def test_a_small_run_end_to_end(benchmark, tmp_path):
    line, report = benchmark.measure("confusions", 100, 3, 2, tmp_path, tmp_path / "cache")
    truth = json.loads((tmp_path / "raw" / "truth.json").read_text())["records"]
    wrong = {r["record"] for r in truth if r["noisy"]}
    assert line["planted"] == len(wrong) == 10 and len(report.ranked) == 100
    first = [record in wrong for record in report.ranked["record"]]
    assert line["precision_half"] == np.mean(first[:5]) and line["precision_all"] == np.mean(first[:10])
    assert 0 < line["auprc"] <= 1
    assert f"| confusions | 100 | 2 | 3 | **{line['auprc']:.3f}** |" in benchmark.table([line])
    assert "1337 (tuned)" in benchmark.table([line | {"seed": 1337}])


def report_of(rows):
    """An audit's report of (given, suggested, flagged, votes, excluded share) a row, the most doubtful row first."""
    given, suggested, flagged, votes, excluded = zip(*rows, strict=True)
    ids = [f"row{i}" for i in range(len(rows))]
    ranked = pd.DataFrame({"sample_id": ids, "given": given, "suggested": suggested, "flagged": flagged})
    ranked["wrongness"] = np.linspace(0.9, 0.1, len(rows))
    frame = pd.DataFrame({"sample_id": ids, "soft_label": votes, "excluded_share": excluded})[::-1]
    summary = {"params": {"folds": 2, "seed": 7}, "flagged": int(sum(flagged)), "agreement": 0.5, "noise_share": {}}
    return SimpleNamespace(ranked=ranked, manifest=SimpleNamespace(frame=frame), summary=summary)


def test_only_votes_that_agree_on_one_of_the_seven_are_asked(benchmark):
    def votes(*shares):
        return [dict(shares).get(name, 0.0) for name in EMOTIONS]

    sad, fear = votes(("Sad", 0.8), ("Fear", 0.2)), votes(("Fear", 1.0))
    report = report_of(
        [
            ("Fear", "Sad", True, sad, 0.0),
            ("Fear", "Angry", True, np.array(sad), 0.1),
            ("Sad", "Fear", True, fear, 0.6),  # most votes went to none of the seven
            ("Sad", "Fear", False, votes(("Sad", 0.5), ("Fear", 0.5)), 0.0),  # a tie
            ("Sad", "Fear", False, None, np.nan),  # no votes
            ("Fear", "Sad", True, fear, 0.0),
            ("Fear", "Angry", False, fear, 0.0),
        ]
    )
    people = benchmark.against_people(report)
    assert people["audited"] == 7 and people["auprc"] == people["auroc"] == 1.0
    assert people["lines"] == [
        {"rows_of": "all", "rows": 4, "people_see_another": 0.5, "people_see_the_suggested": 0.25},
        {"rows_of": "not flagged", "rows": 1, "people_see_another": 0.0, "people_see_the_suggested": 0.0},
        {"rows_of": "flagged", "rows": 3, "people_see_another": 2 / 3, "people_see_the_suggested": 1 / 3},
    ]
    assert "| flagged | 3 | **66.7 %** | 33.3 % |" in benchmark.people_table(people)


def test_measurements_replace_the_same_ones_and_other_settings_are_dropped(benchmark):
    def line(faces, auprc):
        return {"shape": "symmetric", "faces": faces, "folds": 2, "seed": 7, "auprc": auprc}

    first = benchmark.merged({}, [line(3000, 0.7), line(12_000, 0.8)], None)
    assert [r["faces"] for r in first["drawn"]] == [12_000, 3000] and first["fer2013"] is None
    second = benchmark.merged(first, [line(12_000, 0.9)], {"audited": 9})
    assert [r["auprc"] for r in second["drawn"]] == [0.9, 0.7] and second["fer2013"] == {"audited": 9}
    assert benchmark.merged(second, [], None) == second
    other = second | {"settings": second["settings"] | {"epochs": 1}}
    assert benchmark.merged(other, [line(3000, 0.6)], None)["drawn"] == [line(3000, 0.6)]
