"""Steps: what an observer sees of them, rates, time left."""

from types import SimpleNamespace

import pytest
from watched_steps import counts, watched_steps

from fer_lib.storage import progress
from fer_lib.storage.progress import each, format_clock, format_figure, percent, relay, seconds_left, step


@pytest.fixture
def clock(monkeypatch):
    """The time of the steps, moved by hand: ``clock.now += 2``."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(progress, "_last_call", 0.0)
    return clock


def test_the_rate_and_time_left_come_from_this_attempt(clock):
    with step("packing faces", total=2840, unit="faces", done=840) as packing:
        assert packing.parts() == ["packing faces 840/2,840"] and seconds_left(progress.record()) is None
        clock.now += 0.5
        packing.update(900)
        assert seconds_left(progress.record()) is None, "half a second measures nothing"
        clock.now += 1.5
        packing.update(1240)
        record = progress.record()
        assert record["text"] == "packing faces 1,240/2,840  200 faces/s"
        assert percent(record) == 43 and seconds_left(record) == pytest.approx(8.0)
        assert seconds_left(record, waited=3.0) == pytest.approx(5.0)
        clock.now += 3.0  # nothing is done meanwhile
        packing.update(1240)
        assert progress.record()["age"] == 3.0 and seconds_left(progress.record()) == pytest.approx(5.0)
        assert progress.record()["text"].endswith("200 faces/s")
        clock.now += 60.0
        assert seconds_left(progress.record()) is None, "an estimate that has run out is not shown"


def test_the_outermost_counted_step_gives_percent_and_every_step_its_text(clock):
    with watched_steps() as records:
        for _ in each("model", ["a", "b", "c"]):
            with step("packing faces", total=4, unit="faces") as packing:
                packing.update(2)
            with step("scoring"):
                pass
    assert [record["text"] for record in records[:3]] == ["model 1/3", "model 1/3", "model 1/3  packing faces 0/4"]
    assert [record["text"] for record in records][-5:] == [
        "model 3/3  packing faces 0/4", "model 3/3  packing faces 2/4", "model 3/3", "model 3/3  scoring", "model 3/3"
    ]  # fmt: skip
    assert list(dict.fromkeys(counts(records))) == [(0, 3), (1, 3), (2, 3)]
    with watched_steps() as records:
        assert list(each("model", ["only"])) == ["only"]
    assert records == [], "one of one is no progress"


def test_an_observer_is_called_at_most_four_times_per_second(clock):
    calls = []
    with progress.observed_by(lambda record: calls.append((clock.now - 1000.0, record["done"]))):
        with step("importing", total=10_000) as counter:
            for row in range(1, 10_001):
                clock.now += 0.001
                counter.update(row)
    assert calls[0] == (0.0, 0) and 36 <= len(calls) <= 42 and calls[-1][1] == 10_000, "the last state is seen"
    assert all(after - before >= 0.249 for (before, _), (after, _) in zip(calls, calls[1:-1], strict=False))


def test_a_step_that_failed_is_closed_and_a_new_observer_begins_anew():
    with watched_steps() as records:
        with pytest.raises(ZeroDivisionError), step("dividing"):
            1 / 0  # noqa: B018
        with step("next"):
            pass
    assert records[-1]["text"] == "next"
    left_open = step("of a failed cell")
    left_open.__enter__()
    with watched_steps() as records, step("next"):
        pass
    assert [record["text"] for record in records] == ["next"]


def test_the_record_of_another_process_is_shown_behind_the_own_steps():
    theirs = {"text": "packing faces 1/4", "done": 1, "total": 4, "first": 0, "seconds": 2.0, "age": 0.0}
    with watched_steps() as records:
        relay(theirs)
        with step("epoch", total=10):
            relay(theirs)
            relay(None)
    assert records[0] == theirs and records[0].keys() == records[1].keys()
    assert [record["text"] for record in records[-2:]] == ["epoch 0/10  packing faces 1/4", "epoch 0/10"]
    assert counts(records)[-2:] == [(0, 10), (0, 10)]


def test_figures_keep_their_width_and_clocks_read_as_clocks():
    figures = {2.0649: "2.06", 0.41: "0.41", 0.0: "0.00", 12.3: "12.30", 0.0042: "0.0042", -0.5: "-0.50"}
    assert {value: format_figure(value) for value in figures} == figures
    clocks = {0.6: "0:01", 80: "1:20", 3599: "59:59", 3600: "1:00:00", 7505: "2:05:05", 360_000: "100:00:00"}
    assert {seconds: format_clock(seconds) for seconds in clocks} == clocks
