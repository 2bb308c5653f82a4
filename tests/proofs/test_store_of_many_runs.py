"""A store of 64 runs and 64 registered versions: lists, a comparison and the registry take under a second of work.

The second is a third of what a command's start costs, so that the speed and the load of the machine do not count.
"""

import json
import time

import pytest
from road import command, fer, make_home

RUNS, MODELS = 64, 8  # each model has as many versions
RUN_FILE = """
name: many
phases:
  teacher: {manifest: data, epochs: 5, plain_epochs: 1, ramp_end: 2}
"""
CLASSES = ("Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise", "Neutral")


def events(seed: int):
    """What a fit of five epochs reports."""
    per_class = {name: 0.1 for name in CLASSES}
    yield {"event": "start", "total_steps": 50, "steps_per_epoch": 10}
    for epoch in range(5):
        val = {"macro_f1": seed / 1000, "accuracy": 0.5, "nll": 1.0, "per_class_f1": per_class, "recall": per_class}
        yield {"event": "epoch", "epoch": epoch, "train": {"loss": 1.0}, "val": val, "timing": {"images_per_sec": 9.0}}
    yield {"event": "end", "best_epoch": 4}


def make_run(seed: int, bundle) -> None:
    """A finished run of a teacher with its parameters, metrics, an artifact and a registered version."""
    from fer_lib.pipeline.standalone import phase_run
    from fer_lib.storage.phase_result import PhaseResult
    from fer_lib.tracking import registry

    values = {"manifest": "data", "epochs": 5, "plain_epochs": 1, "ramp_end": 2, "seed": seed}
    with phase_run("teacher", values, intent="One of many.") as run:
        run.follow(events(seed), echo=False)
        version = registry.register_model(bundle, f"model-{seed % MODELS}", "best")
        (run.output_dir / "report.json").write_text(json.dumps({"version": version.version}))
        run.finish(PhaseResult(
            ids={"weights_sha256": f"{seed:064x}", "evalset_id": "rows"}, headline={"val macro-F1": seed / 1000},
            artifacts=[run.output_dir / "report.json"], note={"result": version.message},
        ))  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory, add_store, torch_bundle):
    """The home of a store with all these runs, current in this process; MLflow's globals are put back afterwards."""
    import mlflow

    from fer_lib.tracking import store

    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    home = make_home(tmp_path_factory.mktemp("many") / "home")
    add_store(home)
    (home / "data").mkdir()
    (home / "params" / "many.yaml").write_text(RUN_FILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "")
        patch.setenv("FER_HOME", str(home))
        store.configure()
        for seed in range(1, RUNS + 1):
            make_run(seed, torch_bundle)
        yield home
    mlflow.set_tracking_uri(before[0])
    mlflow.set_registry_uri(before[1])


@pytest.fixture(scope="module")
def start_up(tmp_path_factory, add_store):
    """Processor seconds of a command in a store without a run, nearly all of them imports."""
    home = make_home(tmp_path_factory.mktemp("empty") / "home")
    add_store(home)
    return command("fer_lib.cli.main", "runs", home=home, cwd=home).cpu


def compare() -> None:
    """The comparison of a sweep whose phases are all finished: its table, CSV, JSON and plot."""
    from fer_lib.pipeline import sweep_table
    from fer_lib.pipeline.execution import Execution, open_session
    from fer_lib.pipeline.grid import load_combinations
    from fer_lib.pipeline.phase_task import Task
    from fer_lib.storage.paths import home

    seeds = ",".join(str(seed) for seed in range(1, RUNS + 1))
    combinations = load_combinations(home() / "params" / "many.yaml", [f"teacher.seed={seeds}"])
    with open_session(False) as shared:
        executions = [Execution(shared, c.plan, c.plan.phases, label=c.label, values=c.values) for c in combinations]
        for execution in executions:
            assert Task(execution, execution.phases[0]).find_result(), "it is re-used"
        groups = sweep_table.grouped(sweep_table.rows(executions, ["teacher"]))
        assert len(list(sweep_table.rich_tables(groups))) == 2 and sweep_table.best(groups) == RUNS - 1
        assert len(sweep_table.as_csv(groups).splitlines()) == RUNS + 1
        assert len(sweep_table.as_json("many", executions, groups)["combinations"]) == RUNS
        assert sweep_table.plot_scores("many", groups) is not None


def look_up() -> None:
    """What prediction and registration ask of the registry."""
    from fer_lib.tracking import registry

    assert len(registry.list_models()) == RUNS and registry.default_uri() == "packaged"
    assert registry.alias_version("model-3", "best")["version"] == RUNS // MODELS
    assert registry.resolve("models:/model-3@best").is_dir() and registry.resolve("models:/model-5/2").is_dir()
    assert f"model-3@best version {RUNS // MODELS}" in registry.describe("models:/model-3@best")


def show(*words: str) -> str:
    """The output of a command, run in this process: its imports do not count."""
    ended = fer(*words)
    assert ended.code == 0, ended.err
    return ended.out


def list_runs() -> None:
    assert show("runs", "-n", str(RUNS)).count("FINISHED") == RUNS


def list_models() -> None:
    models = json.loads(show("models", "--json"))
    assert len(models) == RUNS and sum(model["aliases"] == ["best"] for model in models) == MODELS
    assert show("models").count("@best") == MODELS


def reap() -> None:
    assert "ended 0 dead runs" in show("runs", "reap")


@pytest.mark.parametrize("ask", [list_runs, list_models, reap, look_up, compare], ids=lambda ask: ask.__name__)
def test_a_store_of_many_runs_answers_in_under_a_second_of_work(ask, store, start_up):
    took = []
    for _ in range(4):  # the first imports what it needs; another may collect this process's garbage
        began = time.process_time()
        ask()
        took.append(time.process_time() - began)
    print(f"{ask.__name__}: {min(took):.2f} s; a command's start: {start_up:.2f} s")
    assert min(took) < start_up / 3
