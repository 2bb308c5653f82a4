"""Gates against scores of another library, at their limits, and what they refuse to compare."""

import json

import numpy as np
import pytest
import yaml
from sklearn.metrics import f1_score

from fer_lib.adapt.promotion import register_if_passed
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError, ParamsError
from fer_lib.evaluation.gates import OFFLINE_ONLY, decide, offline_gate, session_gate
from fer_lib.evaluation.paired_comparison import Measurement
from fer_lib.evaluation.stage_views import before_after
from fer_lib.evaluation.suites import suite_rows
from fer_lib.evaluation.table import gates_table
from fer_lib.params import AdaptParams, GateParams, OfflineGate, SessionGate, read_gates
from fer_lib.pipeline.runfile import load_run


def measured(name, pred, y, evalset="e1", ids=None):
    """A model that is sure of ``pred``."""
    pred, y = np.asarray(pred), np.asarray(y)
    ids = [f"{i:03d}" for i in range(len(y))] if ids is None else ids
    report = {"evalset_id": evalset, "protocol_id": f"p-{name}", "n_expected": len(y) + 1, "n_used": len(y)}
    return Measurement(name, report, 4.0 * np.eye(7)[pred], y, ids)


def noisy(y, share, seed, classes=7):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(len(y)) < share, rng.integers(0, classes, len(y)), y)


def labels(n=400, seed=0):
    return np.random.default_rng(seed).choice(7, n, p=[0.2, 0.04, 0.1, 0.26, 0.14, 0.1, 0.16])


def minority(y, pred):
    return np.mean(sorted(f1_score(y, pred, average=None, labels=sorted(set(y)), zero_division=0))[:3])


def test_the_scores_are_those_of_another_library():
    y = labels()
    before, after = noisy(y, 0.3, 1), noisy(y, 0.35, 2)
    found = offline_gate(measured("a", before, y), measured("b", after, y), OfflineGate(), GateParams(resamples=100))
    macro = [f1_score(y, p, average="macro", labels=range(7), zero_division=0) for p in (before, after)]
    least = [minority(y, p) for p in (before, after)]
    for name, (one, other) in (("macro_f1", macro), ("minority_f1", least)):
        score = found["scores"][name]
        assert [score["base"], score["candidate"]] == pytest.approx([one, other], abs=1e-12)
        assert score["change"]["value"] == pytest.approx(other - one, abs=1e-12)
        assert score["change"]["lo"] <= score["change"]["value"] <= score["change"]["hi"]
    per_class = [f1_score(y, p, average=None, labels=range(7), zero_division=0) for p in (before, after)]
    for k, score in enumerate(found["per_class_f1"].values()):
        one, other = per_class[0][k], per_class[1][k]
        assert [score["base"], score["candidate"]] == pytest.approx([one, other], abs=1e-12)
        assert score["change"]["value"] == pytest.approx(other - one, abs=1e-12)
    assert list(found["per_class_f1"]) == list(EMOTIONS)
    assert found["n_used"] == 400 and found["n_expected"] == 401 and found["evalset_id"] == "e1"
    assert found["protocol_id"] == {"base": "p-a", "candidate": "p-b"}


def test_before_and_after_are_drawn_class_by_class():
    y = labels()
    gate = offline_gate(measured("a", noisy(y, 0.3, 1), y), measured("b", noisy(y, 0.5, 2), y), OfflineGate(),
                        GateParams(resamples=100))  # fmt: skip
    figure = before_after(decide([gate], None) | {"base": {"name": "a"}, "candidate": {"name": "b"}})
    bars, changes = figure.axes
    for drawn, model in zip(bars.containers, ("base", "candidate"), strict=True):
        assert [bar.get_height() for bar in drawn] == [score[model] for score in gate["per_class_f1"].values()]
    assert [text.get_text() for text in bars.get_legend().get_texts()] == ["base", "candidate"]
    assert [text.get_text() for text in changes.get_yticklabels()] == [*EMOTIONS, "macro-F1"]
    intervals, points = changes.lines[0:16:2], changes.lines[1:16:2]
    expected = [score["change"] for score in gate["per_class_f1"].values()] + [gate["scores"]["macro_f1"]["change"]]
    assert [list(line.get_xdata()) for line in intervals] == [[d["lo"], d["hi"]] for d in expected]
    assert [list(point.get_xdata()) for point in points] == [[d["value"]] for d in expected]
    hollow = [point.get_markerfacecolor() == "white" for point in points]
    assert hollow == [d["lo"] <= 0 <= d["hi"] for d in expected] and {True, False} == set(hollow)


def test_the_interval_of_the_minority_is_that_of_brute_force():
    """Where some resamples hold fewer classes, too."""
    y = np.array([0] * 30 + [1] * 3 + [4] * 20 + [6] * 2)
    before, after = noisy(y, 0.3, 3), noisy(y, 0.3, 4)
    found = offline_gate(measured("a", before, y), measured("b", after, y), OfflineGate(), GateParams(resamples=150), 9)
    rng, drawn = np.random.default_rng(9), []
    for _ in range(150):
        rows = rng.integers(0, len(y), len(y))
        drawn.append(minority(y[rows], after[rows]) - minority(y[rows], before[rows]))
    ends = np.quantile(drawn, [0.025, 0.975])
    change = found["scores"]["minority_f1"]["change"]
    assert [change["lo"], change["hi"]] == pytest.approx(ends.tolist(), abs=1e-12)


def test_a_drop_at_the_limit_passes_and_one_beyond_it_does_not():
    y = np.repeat(np.arange(7), 40)
    after = y.copy()
    after[:3] = 1  # three of class 0 become class 1
    base, candidate = measured("a", y, y), measured("b", after, y)
    drop = 1 - f1_score(y, after, average="macro")
    low = 1 - minority(y, after)
    for macro_limit, minority_limit, passed in (
        (drop, low, (True, True)), (drop * 0.99, low, (False, True)), (drop, low * 0.99, (True, False)),
    ):  # fmt: skip
        gate = OfflineGate(macro_f1_drop=macro_limit, minority_f1_drop=minority_limit)
        found = offline_gate(base, candidate, gate, GateParams(resamples=100))
        assert tuple(s["passed"] for s in found["scores"].values()) == passed
        assert found["passed"] == all(passed)
    better = offline_gate(candidate, base, OfflineGate(macro_f1_drop=0, minority_f1_drop=0), GateParams(resamples=100))
    assert better["passed"], "a gain is no drop"
    same = offline_gate(base, base, OfflineGate(macro_f1_drop=0, minority_f1_drop=0), GateParams(resamples=100))
    assert same["passed"]


def test_the_interval_asks_for_more_than_the_point():
    """A model that is equal by the point is not shown to be so on a hundred rows, and is on many."""
    gate = OfflineGate(macro_f1_drop=0.03, minority_f1_drop=0.06)
    for n, passed in ((100, False), (40_000, True)):
        y = labels(n, seed=5)
        a, b = measured("a", noisy(y, 0.3, 6), y), measured("b", noisy(y, 0.3, 7), y)
        point = offline_gate(a, b, gate.model_copy(update={"macro_f1_drop": 0.2, "minority_f1_drop": 0.9}),
                             GateParams(resamples=100))  # fmt: skip
        assert point["passed"]
        by_interval = offline_gate(a, b, gate, GateParams(decide_by="interval", resamples=100))
        assert by_interval["passed"] == passed and by_interval["decide_by"] == "interval"
        for score in by_interval["scores"].values():
            assert score["passed"] == (score["change"]["lo"] >= -score["most_drop"])


def test_rows_may_come_in_any_order_but_must_be_the_same():
    y = labels(60)
    before, after = noisy(y, 0.3, 1), noisy(y, 0.3, 2)
    order = np.random.default_rng(0).permutation(60)
    ids = [f"{i:03d}" for i in range(60)]
    shuffled = measured("b", after[order], y[order], ids=[ids[i] for i in order])
    p = GateParams(resamples=100)
    straight = offline_gate(measured("a", before, y), measured("b", after, y), OfflineGate(), p)
    assert offline_gate(measured("a", before, y), shuffled, OfflineGate(), p) == straight
    with pytest.raises(DataError, match="suite eval_only: .*evalset e1.*evalset e2.*different rows"):
        offline_gate(measured("a", before, y), measured("b", after, y, "e2"), OfflineGate(), p)
    with pytest.raises(DataError, match="different rows"):
        other = measured("b", after, y, ids=ids[:-1] + ["zzz"])
        offline_gate(measured("a", before, y), other, OfflineGate(), p)
    with pytest.raises(DataError, match="different labels"):
        offline_gate(measured("a", before, y), measured("b", after, (y + 1) % 7), OfflineGate(), p)


def live(f1, flips, evalset="s1"):
    smoothed = {"macro_f1_present": f1, "flips_per_min": flips}
    return {"evalset_id": evalset, "protocol_id": "q", "n_expected": 500, "n_used": 400, "segments_scored": 9,
            "smoothed": smoothed}  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after", "passed"),
    [
        ((0.50, 10.0), (0.51, 11.0), (True, True)),  # 10 % more flips is the limit itself
        ((0.50, 10.0), (0.50, 5.0), (False, True)),  # equal is not up
        ((0.50, 10.0), (0.49, 5.0), (False, True)),
        ((0.50, 10.0), (0.90, 11.01), (True, False)),
        ((0.50, 0.0), (0.60, 0.0), (True, True)),
        ((0.50, 0.0), (0.60, 0.1), (True, False)),  # 10 % more than none is none
    ],
)
def test_a_session_must_get_better_and_stay_calm(before, after, passed):
    found = session_gate(live(*before), live(*after), SessionGate())
    assert tuple(score["passed"] for score in found["scores"].values()) == passed
    assert found["passed"] == all(passed) and found["n_used"] == 400


def test_two_replays_of_other_frames_are_refused():
    with pytest.raises(DataError, match="evalset s1 and s2.*replay one session by both"):
        session_gate(live(0.5, 1), live(0.6, 1, "s2"), SessionGate())


def test_all_gates_must_pass_and_what_is_missing_is_said():
    y = labels(80)
    good = offline_gate(measured("a", y, y), measured("b", y, y), OfflineGate(), GateParams(resamples=100))
    bad = offline_gate(measured("a", y, y), measured("b", noisy(y, 0.5, 1), y), OfflineGate(suite="val"),
                       GateParams(resamples=100, decide_by="interval"))  # fmt: skip
    up, down = session_gate(live(0.5, 9), live(0.6, 9), SessionGate()), session_gate(live(0.5, 9), live(0.4, 9),
                                                                                     SessionGate())  # fmt: skip
    assert decide([good], up)["passed"] and not decide([good], down)["passed"] and not decide([good, bad], up)["passed"]
    whole = decide([good], up)
    assert whole["mark"] == "" and not whole["learned_from_gate_session"] and len(whole["said"]) == 2
    alone = decide([good], None, learned_from=True)
    assert alone["passed"] and alone["mark"] == OFFLINE_ONLY and not alone["learned_from_gate_session"]
    assert "offline-only" in alone["said"][-1]
    own = decide([good], up, learned_from=True)
    assert own["learned_from_gate_session"] and "optimistic" in own["said"][-1]
    said = " ".join(decide([bad], down)["said"])
    assert "suite val" in said and "interval of the change [" in said and ": no)" in said
    assert "0.5000 -> 0.4000 (must rise: no)" in said and "flips per minute 9.0 -> 9.0 (may rise by 10%: yes)" in said
    json.dumps(own, allow_nan=False)
    assert list(gates_table(own)["score"]) == ["macro_f1", "minority_f1", "macro_f1_present", "flips_per_min"]


def test_the_suites_are_rows_that_chose_nothing(drawn_manifest):
    frame = drawn_manifest.frame
    held = suite_rows(drawn_manifest, "val")
    wanted = frame[(frame["split"] == "val") & frame["val_role"].isin(["temperature", "conformal"])]
    assert set(held.sample_ids) == set(wanted["sample_id"]) and len(held)
    test = frame.loc[frame["split"] == "test", "sample_id"]
    for suite in ("test", "test_all_sources"):
        assert set(suite_rows(drawn_manifest, suite).sample_ids) == set(test)
    with pytest.raises(DataError, match="no rows for the suite eval_only.*expw_full"):
        suite_rows(drawn_manifest, "eval_only")


def test_named_gates_are_the_defaults_of_the_spec(repo):
    file = repo / "params" / "gates.yaml"
    assert read_gates(file, "default") == GateParams()
    assert GateParams().offline == [OfflineGate(suite="eval_only", macro_f1_drop=0.01, minority_f1_drop=0.02)]
    assert GateParams().session == SessionGate(macro_f1_gain=0.0, flips_rise=0.10)
    assert read_gates(file, "adapt") == AdaptParams().gates
    assert set(yaml.safe_load(file.read_text())) == {"default", "adapt"}
    with pytest.raises(ParamsError, match="no gates 'adopt'.*closest: 'adapt'"):
        read_gates(file, "adopt")


def test_unusable_gates(tmp_path):
    for text, said in (
        ("a: {offline: []}", "at least 1 item"), ("a: {offline: [{suite: vall}]}", "val"),
        ("a: {offline: [{suite: val}, {suite: val}]}", "a suite occurs twice"),
        ("a: {decide: point}", "closest: 'decide_by'"),
    ):  # fmt: skip
        (tmp_path / "gates.yaml").write_text(text)
        with pytest.raises(ParamsError, match=said):
            read_gates(tmp_path / "gates.yaml", "a")


def test_a_run_file_wires_an_adaptation(tmp_path, monkeypatch):
    monkeypatch.setenv("FER_HOME", str(tmp_path))
    (tmp_path / "buffer").mkdir()
    (tmp_path / "run.yaml").write_text(
        "phases:\n  import: {}\n  manifest: {}\n  ce: {kind: student}\n  adapt: {buffers: [buffer], tune: both}\n"
        "  evaluate: {models: [ce, adapt]}\n"
    )
    plan = load_run(tmp_path / "run.yaml", smoke=True)
    phase = plan.phase("adapt")
    names = {k: [getattr(v, "name", v) for v in values] for k, values in phase.inputs.items()}
    assert names == {"manifest": ["manifest"], "base": ["ce"], "buffers": ["buffer"], "gate_session": []}
    assert phase.params.name == "adapt" and phase.params.epochs == 1 and phase.notebook == "11_adapt"
    assert [v.name for v in plan.phase("evaluate").inputs["models"]] == ["ce", "adapt"]


@pytest.mark.parametrize(
    ("alias", "passed", "said"),
    [("", True, "no alias is set"), ("champion", False, "a gate did not pass, so fer-student@champion stays")],
)
def test_nothing_is_registered_unasked_or_unproved(alias, passed, said):
    """There is no bundle to register here, so whoever tried would fail."""
    assert said in register_if_passed(AdaptParams(alias=alias), None, {"passed": passed, "mark": "", "said": []}, "run")
