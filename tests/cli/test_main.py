"""The command answers at once, and says what is wrong in a line and an exit code."""

import os
import subprocess
import sys

import pytest

from fer_lib import __version__
from fer_lib.cli import main as cli

HEAVY = "torch", "mlflow", "pandas", "cv2", "numpy", "sklearn", "matplotlib", "papermill", "typer", "pydantic"


def fer(code, *arguments, home=None):
    environment = os.environ | ({"FER_HOME": str(home)} if home else {})
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


@pytest.fixture
def home(tmp_path):
    (tmp_path / "params").mkdir()
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "params" / "a.yaml").write_text("phases:\n  import: {sources: []}\n  manifest: {}\n")
    return tmp_path


def test_help_lists_every_command_and_imports_nothing_heavy():
    code = ("import sys\nfrom fer_lib.cli.main import main\ntry:\n    main(['--help'])\nexcept SystemExit as end:\n"
            f"    print([m for m in {HEAVY!r} if m in sys.modules], end.code)")  # fmt: skip
    done = fer(code)
    assert done.stdout.splitlines()[-1] == "[] 0"
    assert all(f"\n  {name} " in done.stdout for name in cli.COMMANDS)


def test_version(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0 and capsys.readouterr().out == f"fer {__version__}\n"


def test_an_unknown_command_names_the_closest(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["rnu"])
    assert end.value.code == 2 and "closest: 'run'" in capsys.readouterr().err


def test_a_wrong_parameter_exits_with_2_before_anything_heavy(home):
    code = ("import sys\nfrom fer_lib.cli.main import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n"
            "    print([m for m in ('torch', 'mlflow', 'papermill') if m in sys.modules], end.code)")  # fmt: skip
    began = os.times().children_user + os.times().children_system
    done = fer(code, "run", str(home / "params" / "a.yaml"), "-p", "manifest.val_fractoin=0.1", home=home)
    assert os.times().children_user + os.times().children_system - began < 2, "processor seconds, whatever else runs"
    assert done.stdout.splitlines()[-1] == "[] 2"
    assert "'manifest'" in done.stderr and "'val_fractoin'" in done.stderr and "closest: 'val_fraction'" in done.stderr
    assert not (home / "mlruns").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("a.yaml", "-p", "manifest.tolerance=many"), 2, "valid integer"),
        (("a.yaml", "--only", "manifets"), 2, "closest: 'manifest'"),
        (("b.yaml",), 2, "closest: 'a.yaml'"),
        (("a.yaml",), 1, "no notebook"),
        (("a.yaml", "--fersh"), 2, "--fersh"),
    ],
)
def test_exit_codes_of_run(home, monkeypatch, capsys, arguments, code, said):
    monkeypatch.setenv("FER_HOME", str(home))
    with pytest.raises(SystemExit) as end:
        cli.main(["run", str(home / "params" / arguments[0]), *arguments[1:]])
    assert end.value.code == code and said in capsys.readouterr().err


def test_check_runs_lists_and_reaps_on_a_new_store(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "300")  # or a long path is broken over lines of the table
    monkeypatch.setenv("FER_HOME", str(tmp_path))

    def call(*arguments):
        with pytest.raises(SystemExit) as end:
            cli.main(list(arguments))
        return end.value.code, capsys.readouterr()

    code, said = call("check", "--device", "cpu")
    assert code == 0 and "all is well" in said.out and "mlflow.db" in said.out.replace("\n", "")
    code, said = call("check", "--device", "tpu")
    assert code == 1 and "unknown device 'tpu'" in said.err
    code, said = call("runs")
    assert code == 0 and "no runs yet" in said.out
    import mlflow

    from fer_lib.tracking import store

    tags = {"fer.lock": "mlruns/locks/nobody.lock", "fer.kind": "run"}
    mlflow.MlflowClient().create_run(store.experiment_id(), run_name="lost", tags=tags)
    code, said = call("runs")
    assert code == 0 and "lost" in said.out and "dead" in said.out
    code, said = call("runs", "reap")
    assert code == 0 and "ended 1 dead run" in said.out
    assert "KILLED" in call("runs")[1].out
