"""The first line of ``fer run``: how long the phases will take."""

import json
from dataclasses import replace

import pytest
from toy import make_home

from fer_lib.errors import ParamsError
from fer_lib.pipeline import folders, reuse, run
from fer_lib.pipeline.runfile import load_run


@pytest.fixture
def plan(tmp_path, monkeypatch):
    home = make_home(tmp_path / "home")
    monkeypatch.setenv("FER_HOME", str(home))
    monkeypatch.setattr(run, "cores", lambda: 2)
    return load_run(home / "params" / "quickstart.yaml")


def finish(phase, seconds: float, key: str = "0" * 12, **changes) -> None:
    """Write the record of a finished phase."""
    folder = folders.paths.phases_dir() / f"{phase.name}-{key}"
    folder.mkdir()
    record = {"phase": phase.name, "kind": phase.kind, "inputs": {}, "seconds": seconds, "run_id": "r"}
    record |= {"params": folders.own_params(phase.params) | changes}
    (folder / "done.json").write_text(json.dumps(record))


def test_earlier_runs_with_equal_parameters_count(plan):
    phases = plan.phases
    assert run.expected_time(plan, phases) == "", "nothing is known yet"
    for phase in phases[:2]:
        finish(phase, 40.0)
    assert run.expected_time(plan, phases) == "", "one phase is unknown"
    finish(phases[2], 9000.0, "1" * 12, epochs=77)
    assert run.expected_time(plan, phases) == "", "it ran with other parameters only"
    finish(phases[2], 100.0)
    assert run.expected_time(plan, phases) == "3 phases to run: about 3.0 min on 2 cores"
    assert run.expected_time(plan, phases[1:2]) == "1 phase to run: about 41 s on 2 cores"
    assert run.expected_time(plan, phases, parallel=2) == "3 phases to run: at most about 3.0 min on 2 cores"


def test_phases_that_finished_before_are_known_by_name(plan):
    assert reuse.finished_before(plan.phases) == set()
    finish(plan.phases[1], 1.0, sources=[])
    finish(replace(plan.phases[0], name="import-b"), 1.0)  # its folder begins like one of import
    assert reuse.finished_before(plan.phases) == {"manifest"}


def test_the_declared_seconds_are_scaled_by_the_speed_of_the_machine(plan, monkeypatch):
    path = plan.path
    path.write_text("seconds: 50\n" + path.read_text())
    declared = load_run(path)
    for factor, text in ((1, "50 s"), (2.5, "2.1 min"), (0.1, "5.0 s")):
        monkeypatch.setattr(run, "loop_seconds", lambda factor=factor: factor * run.REFERENCE)
        assert run.expected_time(declared, declared.phases) == f"3 phases to run: about {text} on 2 cores"
    assert run.expected_time(declared, declared.phases[1:]) == "", "the seconds are those of the whole run"
    for changed in (load_run(path, ["manifest.seed=3"]), load_run(path, smoke=True)):
        assert run.expected_time(changed, changed.phases) == "", "the seconds are those of the file as written"
    finish(plan.phases[0], 1.0)
    assert run.expected_time(declared, declared.phases) != ""


@pytest.mark.parametrize("value", ["soon", "0", "-3", "[1]", ".inf", "true"])
def test_seconds_that_are_none_are_refused(plan, value):
    plan.path.write_text(f"seconds: {value}\n" + plan.path.read_text())
    with pytest.raises(ParamsError, match="'seconds' must be a number of seconds, as in seconds: 60, got"):
        load_run(plan.path)


def test_a_loop_is_measured():
    assert 0.2 < run.loop_seconds() / run.REFERENCE < 20
