"""The lines of ``fer run`` and of long commands, on a terminal of 80 columns and elsewhere."""

import io
import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.cells import cell_len
from rich.console import Console

from fer_lib.pipeline import progress as shown
from fer_lib.pipeline.progress import Line, PhaseBar, shorten, show_progress
from fer_lib.storage.progress import step

FIT = {"text": "epoch 2/6  loss 2.06  val 0.41", "done": 27, "total": 90, "first": 0, "seconds": 34.3, "age": 0.0}
HOURS = FIT | {
    "text": "epoch 12/60  loss 2.06  val 0.41  1,234 images/s",
    "total": 90_000,
    "done": 9_000,
    "seconds": 900,
}
PACKING = FIT | {"text": "packing faces 1,200/2,840  850 faces/s", "done": 1200, "total": 2840, "seconds": 1.4}


def terminal(width: int = 80) -> Console:
    return Console(width=width, force_terminal=True, record=True, file=io.StringIO(), legacy_windows=False)


def line(record, name="teacher") -> Line:
    return Line(name, lambda: record, "starting kernel")


def result(folder: Path, name: str = "teacher", label: str = "", **fields):
    return SimpleNamespace(phase=SimpleNamespace(name=name), label=label, folder=folder, **fields)


def write(folder: Path, record: dict) -> None:
    (folder / "progress.json").write_text(json.dumps(record))


def rendered(bar: PhaseBar) -> list[str]:
    """The lines as the terminal shows them now."""
    console = terminal(bar.console.width)
    console.print(bar._render())
    return console.export_text().splitlines()


def test_a_line_names_percent_figures_and_time_left():
    assert line(FIT).plain() == "teacher 30 %  epoch 2/6  loss 2.06  val 0.41  1:20 left"
    assert line(FIT).padded(80, 7) == "teacher  30 %  epoch 2/6  loss 2.06  val 0.41  1:20 left"
    assert line(PACKING).padded(80, 7) == "teacher  42 %  packing faces 1,200/2,840  850 faces/s  0:02 left"
    assert (
        line(None).padded(80, 7) == "teacher        starting kernel"
        and line(None).plain() == "teacher  starting kernel"
    )


@pytest.mark.parametrize(
    "name", ["teacher", "student_dkd_from_the_big_ensemble (lr=0.0003, seed=1337, batch_size=512)"]
)
@pytest.mark.parametrize("record", [FIT, HOURS, PACKING, None, FIT | {"text": "attaching " + "x" * 200}])
@pytest.mark.parametrize("width", [80, 60, 40])
def test_no_line_is_wider_than_the_terminal(width, record, name):
    text = line(record, name).padded(width, len(name))
    assert cell_len(text) <= width
    if record is HOURS and width == 80:
        assert "epoch 12/60  loss 2.06  val 0.41" in text and text.endswith("2:15:00 left"), "the rate goes first"
    if record is not None and width >= 60:
        assert text.endswith(" left")


def test_columns_do_not_jump_when_numbers_get_longer_or_shorter():
    states = [(9, "12.31"), (10, "2.06"), (11, "0.99"), (12, "0.0123"), (13, "0.98")]
    records = iter([FIT | {"text": f"epoch {epoch}/60  loss {loss}  val 0.41"} for epoch, loss in states])
    moving = Line("teacher", lambda: next(records), "starting kernel")
    texts = [moving.padded(80, 12) for _ in states]
    columns = [[text.index(word) for word in ("%", "epoch", "loss", "val", "1:20")] for text in texts]
    assert columns[1] == columns[2] and columns[3] == columns[4], columns
    assert [row[-1] for row in columns] == sorted(row[-1] for row in columns)


def test_a_long_name_keeps_its_ends():
    assert shorten("teacher (lr=0.0003, seed=1337)", 15) == "teacher…d=1337)" and shorten("teacher", 7) == "teacher"


def test_a_sweep_renders_one_row_per_phase_at_80_columns(tmp_path):
    bar = PhaseBar(terminal(), "arcface sweep with a very long name of a run file and many words", 12)
    ended = {"status": "ran", "seconds": 2.0}
    for number, record in enumerate((FIT, HOURS, None)):
        folder = tmp_path / str(number)
        folder.mkdir()
        phase = result(folder, "student_dkd", f"lr=0.000{number}, seed=1337, temperature=4.0", **ended)
        bar.start(phase)
        if record:
            write(folder, record)
    rows = rendered(bar)
    assert len(rows) == 4 and all(cell_len(row) <= 80 for row in rows)
    assert rows[0].rstrip().endswith("0/12  0:00") and "starting kernel" in rows[3]
    assert rows[1].index("epoch") == rows[2].index("epoch") == rows[3].index("starting"), "one column for all phases"
    bar.finish(phase)
    assert len(rendered(bar)) == 3


def test_progress_of_an_interrupted_attempt_is_not_shown_again(tmp_path):
    write(tmp_path, FIT)
    os.utime(tmp_path / "progress.json", ns=(1, 1))
    bar = PhaseBar(terminal(), "quickstart", 1)
    bar.start(result(tmp_path))
    assert "starting kernel" in rendered(bar)[1]
    write(tmp_path, PACKING)
    assert "packing faces 1,200/2,840" in rendered(bar)[1]
    (tmp_path / "progress.json").write_text("{")  # half written
    assert "packing faces 1,200/2,840" in rendered(bar)[1], "the last state that could be read"


def test_without_a_terminal_each_phase_has_a_line_at_start_and_end_and_now_and_then(tmp_path, monkeypatch):
    monkeypatch.setattr(shown, "LINE_SECONDS", 0.05)
    out = io.StringIO()
    phase = result(tmp_path, status="ran", seconds=4.2)
    with PhaseBar(Console(file=out), "quickstart", 3) as bar:
        bar.start(phase)
        write(tmp_path, FIT)
        until = time.monotonic() + 10
        while "30 %" not in out.getvalue() and time.monotonic() < until:
            time.sleep(0.02)
        bar.finish(phase)
    lines = out.getvalue().splitlines()
    assert lines[0] == "teacher: starting" and lines[-1] == "[1/3] teacher: ran (4.2 s)"
    assert "teacher 30 %  epoch 2/6  loss 2.06  val 0.41  1:20 left" in lines and "\x1b" not in out.getvalue()


def test_a_command_shows_its_steps_on_stderr_and_leaves_stdout_alone(monkeypatch, capsys):
    monkeypatch.setattr(shown, "LINE_SECONDS", 0.05)
    with show_progress("predict"), step("reading images", total=4, unit="images") as counter:
        counter.update(1)
        print("a result")
        time.sleep(0.3)
    out, err = capsys.readouterr()
    assert out == "a result\n" and "predict 0 %  reading images 0/4" in err and "\x1b" not in err
    with show_progress("predict"):
        pass
    assert capsys.readouterr() == ("", ""), "what is over at once prints nothing"
