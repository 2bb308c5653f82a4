"""Every test-set opening is one whole line of the log, also with concurrent writers."""

import json
import multiprocessing

import pandas as pd
import pytest

from fer_lib.datasets.evalset_ids import evalset_id
from fer_lib.datasets.manifest import Manifest
from fer_lib.datasets.openings import OPENINGS, log_test_opening, opening_count, store_log
from fer_lib.errors import DataError

COLUMNS = dict(content_id="c", source="drawn", record="r", image_path="a.png")


def rows(*splits):
    frame = [COLUMNS | dict(sample_id=f"s{i}", label=i % 7, split=s, val_role="") for i, s in enumerate(splits)]
    return Manifest(pd.DataFrame(frame), {"root": ".", "tolerance": 2})


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_line_is_written_to_the_store_and_the_phase(tmp_path):
    phase, cache = tmp_path / "phase", tmp_path / "mlruns" / "cache"
    phase.mkdir()
    (phase / "phase.json").write_text(json.dumps({"phase": "evaluate", "run_id": "abc"}))
    opened = rows("test", "train", "test")
    log_test_opening(opened, {"a": ["1" * 64]}, "evaluation", cache, phase, suite="mine")
    [line] = lines(tmp_path / "mlruns" / OPENINGS)
    assert line.pop("time").endswith("Z")
    evalset = evalset_id(["s0", "s2"], [0, 2], "test", 2)
    assert line == {
        "run_id": "abc", "phase": "evaluate", "purpose": "evaluation", "split": "test", "evalset_id": evalset, "n": 2,
        "weights": {"a": ["1" * 64]}, "suite": "mine",
    }  # fmt: skip
    assert (phase / OPENINGS).read_text() == store_log(cache).read_text()


def test_rows_of_other_splits_are_not_logged(tmp_path):
    log_test_opening(rows("train", "val"), {}, "evaluation", tmp_path / "cache", tmp_path / "phase")
    assert not list(tmp_path.iterdir()) and opening_count(tmp_path / "phase", tmp_path / "cache") == 0


def test_openings_are_counted_by_evalset_without_truncated_lines(tmp_path):
    cache = tmp_path / "cache"
    for folder, split in (("a", ("test",)), ("b", ("test", "test")), ("c", ("test",))):
        log_test_opening(rows(*split), {}, "evaluation", cache, tmp_path / folder)
        with open(store_log(cache), "a") as file:
            file.write('{"evalset_id": "cut')  # as a crash leaves it
    assert [opening_count(tmp_path / folder, cache) for folder in "abc"] == [2, 1, 2]
    assert len(store_log(cache).read_text().splitlines()) == 6, "the next line does not go on in the one cut short"


def write_many(folder, name):
    for _ in range(20):
        log_test_opening(rows("test"), {name: ["0" * 5000]}, "evaluation", folder / "cache", folder / name)


def test_concurrent_processes_write_whole_lines(tmp_path):
    context = multiprocessing.get_context("spawn")
    started = [context.Process(target=write_many, args=(tmp_path, name)) for name in "abc"]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0, 0, 0]
    written = sorted("".join(line["weights"]) for line in lines(tmp_path / OPENINGS))
    assert written == ["a"] * 20 + ["b"] * 20 + ["c"] * 20


def test_a_store_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / OPENINGS).mkdir()
    with pytest.raises(DataError, match=f"cannot write .*{OPENINGS}"):
        log_test_opening(rows("test"), {}, "evaluation", tmp_path / "cache", tmp_path / "phase")
