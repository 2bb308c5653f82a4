"""Fifty times ``kill -9``, during a step, a checkpoint write, an export, a log call and between phases.

The same command goes on, loses no more than a checkpoint's minutes, and ends with the weights of an unbroken run."""

import json
import sqlite3
import sys
from pathlib import Path

import kills
import pytest
from road import command

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="moments are seen through /proc")


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    found = kills.prove(tmp_path_factory.mktemp("kills"))
    print(kills.page(kills.summary(found)))
    return found


def test_every_kind_of_moment_was_hit(result):
    assert len(result["kills"]) == 50
    of = {kind: [k for k in result["kills"] if k["kind"] == kind] for kind in kills.KINDS}
    assert {kind: len(found) for kind, found in of.items()} == {
        "step": 14, "checkpoint": 14, "export": 6, "log": 8, "between": 8
    }  # fmt: skip
    half = [k for k in of["checkpoint"] if "checkpoint" in k["seen"]]
    assert len(half) >= 7, "a checkpoint lay half-written when the process was gone"
    assert sum("open transaction" in k["seen"] for k in of["log"]) >= 4
    assert sum("not yet proved" in k["seen"] for k in of["export"]) >= 3
    assert sum("no phase open" in k["seen"] for k in of["between"]) >= 5
    assert {k["died"] for k in of["step"]} == {"command and kernel", "command", "kernel"}


def test_no_kill_cost_more_than_the_checkpoint_minutes(result):
    limit = 60 * result["checkpoint_minutes"] + result["slack_seconds"]
    assert [k for k in result["kills"] if k["lost"] > limit] == []
    assert max(k["lost"] for k in result["kills"]) > 0, "the losses were measured"
    training = [k for k in result["kills"] if k["kind"] in ("step", "checkpoint", "log")]
    assert sum(k["within"] for k in training) >= 12, "epochs are longer than the limit: checkpoints within them count"


def test_the_runs_end_with_what_the_unbroken_ones_have(result):
    assert [run["threads"] for run in result["runs"]] == [1, 2]
    for run in result["runs"]:
        assert run["found"] == run["expected"], "weights' SHA-256, soft labels, histories"
    assert all(len(row["unbroken"]) == 64 and row["unbroken"] == row["killed"] for row in kills.weights(result))


def test_nothing_half_done_is_left(result):
    for home in map(Path, result["homes"].values()):
        left = [
            p.name for p in home.glob("mlruns/phases/*/*") if p.name.endswith((".partial", ".previous", ".holder.json"))
        ]
        assert left == []
        with sqlite3.connect(home / "mlruns" / "mlflow.db") as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            states = dict(db.execute("SELECT status, count(*) FROM runs GROUP BY status"))
        assert set(states) <= {"FINISHED", "KILLED", "FAILED"}, "no dead run is left RUNNING"
        shown = command("fer_lib.cli.main", "runs", "-n", "40", home=home, cwd=home)
        assert shown.code == 0 and "RUNNING" not in shown.out and "dead" not in shown.out


def test_the_committed_page_is_of_fifty_kills(repo):
    folder = repo / "docs" / "results"
    committed = json.loads((folder / "kills.json").read_text())
    assert (folder / "kills.md").read_text() == kills.page(committed) and len(committed["kills"]) == 50
    assert all(row["unbroken"] == row["killed"] for row in committed["weights"])
