"""Variants over seeds: against a second computation, with known coverage, and what can't be compared."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score

from fer_lib.datasets.evalset_ids import evalset_id
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError, FerError
from fer_lib.evaluation.ablation import compare_variants
from fer_lib.evaluation.ablation_view import ablation_markdown, ablation_result, ablation_table, draw_ablation
from fer_lib.evaluation.paired_comparison import LogitPair, compare
from fer_lib.params import AblationParams

VARIANTS = {"plain": ["plain_1", "plain_2", "plain_3"], "kd": ["kd_1", "kd_2", "kd_3"]}


def logits_of(y, rng, gap=0.0, luck=0.7):
    """Models that share the signal of the rows; ``luck``: noise of a fit; ``gap``: more signal of a variant."""
    shared = np.random.default_rng(0).standard_normal((len(y), 7)) + np.eye(7)[y]
    return shared + luck * rng.standard_normal((len(y), 7)) + gap * np.eye(7)[y]


def write(folder, models, y, sources=None, suite="test"):
    """What an evaluation leaves of ``models`` (name -> logits), as far as an ablation reads it."""
    (folder / "predictions").mkdir(parents=True)
    ids = np.array([f"{i:05d}" for i in range(len(y))])
    sources = np.full(len(y), "fer2013") if sources is None else sources
    reports = {}
    for source in dict.fromkeys(sources.tolist()):
        own = sources == source
        reports[source] = {"evalset_id": evalset_id(ids[own].tolist(), y[own], "test", 0), "leaked": 2}
        reports[source]["classes_present"] = [EMOTIONS[i] for i in np.unique(y[own])]
    for name, logits in models.items():
        stored = dict(logits=logits, y=y, sample_id=ids, source=sources)
        np.savez(folder / "predictions" / f"{name}-none.npz", **stored)
    head = {"suite": suite, "split": "test", "manifest_sha256": "m", "metric_version": 1, "by_source": reports}
    head["sets"] = {"all": {"evalset_id": evalset_id(ids.tolist(), y, "test", 0)}}
    content = head | {"models": {name: {"by_source": {"none": reports}} for name in models}}
    (folder / "evaluation.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def rows():
    """Labels of two sources; the second has no Disgust."""
    rng = np.random.default_rng(1)
    y = np.r_[rng.integers(0, 7, 120), rng.choice([0, 2, 3, 4, 5, 6], 90)]
    return y, np.repeat(["fer2013", "expw"], [120, 90])


def models_of(y, gap=0.5):
    rng = np.random.default_rng(2)
    return {name: logits_of(y, rng, gap * (v == "kd")) for v, names in VARIANTS.items() for name in names}


def test_scores_differences_and_intervals_are_those_of_a_second_computation(rows, tmp_path):
    y, sources = rows
    models = models_of(y)
    p = AblationParams(variants=VARIANTS, resamples=150, seed=4)
    [evaluation] = compare_variants(p, [write(tmp_path / "e", models, y, sources)])["evaluations"]
    assert list(evaluation["sources"]) == ["fer2013", "expw"]
    for source, found in evaluation["sources"].items():
        own = sources == source
        truth, n = y[own], int(own.sum())
        pred = {name: z[own].argmax(1) for name, z in models.items()}
        classes = np.unique(truth)

        def score(what, name, chosen, truth=truth, pred=pred, classes=classes):
            a, b = truth[chosen], pred[name][chosen]
            if what == "accuracy":
                return accuracy_score(a, b)
            return f1_score(a, b, average="macro", labels=classes, zero_division=0)

        assert (found["n"], len(found["classes_present"])) == (n, 7 if source == "fer2013" else 6)
        rng, picked = np.random.default_rng(4), np.random.default_rng([4, 1]).integers(0, 3, (150, 3))
        draws = [rng.integers(0, n, n) for _ in range(150)]
        for what in ("accuracy", "macro_f1_present"):
            by_seed = {v: [score(what, name, np.arange(n)) for name in names] for v, names in VARIANTS.items()}
            for v, entry in found["variants"].items():
                assert entry[what]["values"] == pytest.approx(by_seed[v], abs=1e-12)
                assert entry[what]["mean"] == pytest.approx(np.mean(by_seed[v]), abs=1e-12)
                assert entry[what]["sd"] == pytest.approx(pd.Series(by_seed[v]).std(), abs=1e-12)
            assert "difference" not in found["variants"]["plain"][what]
            difference = found["variants"]["kd"][what]["difference"]
            means = []
            for chosen, seeds in zip(draws, picked, strict=True):
                changes = [score(what, f"kd_{i}", chosen) - score(what, f"plain_{i}", chosen) for i in (1, 2, 3)]
                means.append(np.mean([changes[i] for i in seeds]))
            ends = np.quantile(means, [0.025, 0.975])
            assert [difference["lo"], difference["hi"]] == pytest.approx(ends.tolist(), abs=1e-12)
            expected = [a - b for a, b in zip(by_seed["kd"], by_seed["plain"], strict=True)]
            assert difference["by_seed"] == pytest.approx(expected, abs=1e-12)
            assert difference["value"] == pytest.approx(np.mean(expected), abs=1e-12)
            assert difference["verdict"] == ("better" if ends[0] > 0 else "not decided")
    assert evaluation["sources"]["fer2013"]["variants"]["kd"]["accuracy"]["difference"]["verdict"] == "better"


def test_the_other_way_round_it_is_worse(rows, tmp_path):
    y, sources = rows
    p = AblationParams(variants=VARIANTS, control="kd", resamples=100)
    result = compare_variants(p, [write(tmp_path / "e", models_of(y, gap=1.5), y, sources)])
    own = result["evaluations"][0]["sources"]["fer2013"]["variants"]
    assert own["plain"]["accuracy"]["difference"]["verdict"] == "worse" and "difference" not in own["kd"]["accuracy"]


def test_a_variant_equal_to_its_control_differs_by_exactly_nothing(rows, tmp_path):
    y, sources = rows
    models = models_of(y)
    models |= {f"kd_{i}": models[f"plain_{i}"] for i in (1, 2, 3)}
    p = AblationParams(variants=VARIANTS, resamples=100)
    for own in compare_variants(p, [write(tmp_path / "e", models, y, sources)])["evaluations"][0]["sources"].values():
        for score in ("accuracy", "macro_f1_present"):
            zero = {"value": 0.0, "lo": 0.0, "hi": 0.0, "by_seed": [0.0] * 3, "verdict": "not decided"}
            assert own["variants"]["kd"][score]["difference"] == zero


def test_one_seed_is_the_paired_comparison_of_two_models(rows, tmp_path):
    """Blank variants: every model is one, the first is the control."""
    y = rows[0]
    models = {name: models_of(y)[name] for name in ("plain_1", "kd_1")}
    folder = write(tmp_path / "e", models, y)
    result = compare_variants(AblationParams(resamples=200, seed=9), [folder])
    assert result["control"] == "plain_1" and result["variants"] == {"plain_1": ["plain_1"], "kd_1": ["kd_1"]}
    own = result["evaluations"][0]["sources"]["fer2013"]["variants"]["kd_1"]
    expected = compare(LogitPair(models["plain_1"], models["kd_1"], y), resamples=200, seed=9)["difference"]
    for score, name in (("accuracy", "accuracy"), ("macro_f1_present", "macro_f1")):
        found = {key: own[score]["difference"][key] for key in ("value", "lo", "hi")}
        assert found == pytest.approx(expected[name], abs=1e-12) and own[score]["sd"] is None


def test_rows_in_another_order_are_the_same_rows(rows, tmp_path):
    y, sources = rows
    models, p = models_of(y), AblationParams(variants=VARIANTS, resamples=100)
    folder = write(tmp_path / "e", models, y, sources)
    before = compare_variants(p, [folder])
    file = folder / "predictions" / "kd_2-none.npz"
    with np.load(file) as stored:
        turned = {key: stored[key][::-1] for key in stored}
    np.savez(file, **turned)
    assert compare_variants(p, [folder]) == before


@pytest.mark.parametrize(("scatter", "least", "most"), [(0.1, 0.9, 1.0), (0.8, 0.7, 0.95)])
def test_the_interval_covers_rows_and_seeds(scatter, least, most, tmp_path):
    """No true difference.  With three seeds that scatter far more than the rows explain it covers less, as documented;
    an interval of the rows alone would cover 4 in 10 there."""
    covered, trials = 0, 60
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        y = rng.integers(0, 7, 400)
        skill = rng.normal(0.0, scatter, 6)
        names = [name for own in VARIANTS.values() for name in own]
        models = {name: logits_of(y, rng, gap) for name, gap in zip(names, skill, strict=True)}
        p = AblationParams(variants=VARIANTS, resamples=100, seed=trial)
        result = compare_variants(p, [write(tmp_path / str(trial), models, y)])
        d = result["evaluations"][0]["sources"]["fer2013"]["variants"]["kd"]["accuracy"]["difference"]
        covered += d["lo"] <= 0 <= d["hi"]
    assert least <= covered / trials <= most, covered


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (dict(variants={"a": ["plain_1"], "b": ["kd_9"]}), ["no model 'kd_9'", "closest: 'kd_"]),
        (dict(control="ce"), ["no variant 'ce'"]),
        (dict(variants={"a": ["plain_1"]}), ["nothing to compare", "two variants"]),
    ],
)
def test_wrong_names_are_one_message(change, parts, rows, tmp_path):
    folder = write(tmp_path / "e", models_of(rows[0]), *rows)
    with pytest.raises(FerError) as caught:
        compare_variants(AblationParams(**change), [folder])
    assert [part for part in parts if part not in str(caught.value)] == []


def test_what_was_measured_otherwise_is_refused(rows, tmp_path):
    y, sources = rows
    p, models = AblationParams(variants=VARIANTS, resamples=100), models_of(y)
    folder = write(tmp_path / "e", models, y, sources)
    with pytest.raises(FerError, match="both|two evaluations are called test"):
        compare_variants(p, [folder, write(tmp_path / "again", models, y, sources)])
    file = folder / "predictions" / "kd_2-none.npz"
    with np.load(file) as stored:
        kept = dict(stored)
    np.savez(file, **kept | {"sample_id": np.char.add("x", kept["sample_id"])})
    with pytest.raises(DataError, match=r"plain_1 was measured on 120 rows.* kd_2 on 120"):
        compare_variants(p, [folder])
    np.savez(file, **kept | {"y": (kept["y"] + 1) % 7})
    with pytest.raises(DataError, match="plain_1 and kd_2 were measured with different labels"):
        compare_variants(p, [folder])
    np.savez(file, **{key: kept[key] for key in ("logits", "y", "sample_id")})  # as earlier versions wrote it
    with pytest.raises(FerError, match=r"kd_2-none.npz .* run the evaluation again"):
        compare_variants(p, [folder])
    file.unlink()
    with pytest.raises(FerError, match=r"kd_2-none.npz is missing"):
        compare_variants(p, [folder])


def test_table_files_and_figure_show_every_seed(rows, tmp_path):
    y, sources = rows
    folders = [write(tmp_path / name, models_of(y), y, sources, suite=name) for name in ("first", "second")]
    result = compare_variants(AblationParams(variants=VARIANTS, resamples=100), folders)
    table = ablation_table(result)
    assert len(table) == 2 * 2 * 2 * 2 and set(table["verdict"]) <= {"control", "better", "worse", "not decided"}
    made = ablation_result(result, tmp_path)
    assert [path.name for path in made.artifacts] == ["ablation.json", "ablation.csv", "ablation.md"]
    assert json.loads((tmp_path / "ablation.json").read_text()) == result
    read = pd.read_csv(tmp_path / "ablation.csv")
    assert list(read) == list(table) and read["mean"].tolist() == pytest.approx(table["mean"].tolist(), abs=1e-12)
    page = ablation_markdown(result)
    assert page == (tmp_path / "ablation.md").read_text() and page.count("## ") == 4
    for evaluation in result["evaluations"]:
        for source, own in evaluation["sources"].items():
            assert f"## {evaluation['suite']}: {source}" in page
            for entry in own["variants"].values():
                assert all(f"{value:.4f}" in page for value in entry["accuracy"]["values"])
            logged, change = made.metrics[evaluation["suite"]][source], own["variants"]["kd"]["accuracy"]["difference"]
            assert logged["kd"]["accuracy"]["difference"]["lo"] == change["lo"]
    figure = draw_ablation(result)
    assert len(figure.axes) == 8
    dashes = [line for line in figure.axes[0].lines if line.get_marker() == "|"]
    by_seed = result["evaluations"][0]["sources"]["fer2013"]["variants"]["kd"]["accuracy"]["difference"]["by_seed"]
    assert [line.get_xdata().tolist() for line in dashes] == [by_seed]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["kd"]
