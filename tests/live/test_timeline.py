"""The timeline names its labels, so that they are read without colour."""

import numpy as np
from session_factory import write_session

from fer_lib.emotions import EMOTIONS
from fer_lib.live import plots
from fer_lib.live.score import read_truth, segments
from fer_lib.live.session_files import read_frames


def test_wide_intervals_have_their_class_written_in(tmp_path):
    truth = np.repeat([0, 3, -1, 5, 1], [100, 100, 50, 100, 4])  # the last one is too narrow
    folder = write_session(tmp_path / "s", truth, 0.3 * np.eye(7)[np.repeat([0, 4, 6], 118)] + 0.1)
    frames = read_frames(folder)
    runs = segments(read_truth(folder, frames), frames.time_sec)
    figure = plots.timeline(frames, truth, np.full(354, 2, np.int8), runs, "a session")
    names = [(text.get_text(), text.get_position()[1]) for text in figure.axes[0].texts]
    assert names == [
        ("Angry", 2.5), ("Happy", 2.5), ("Surprise", 2.5), ("Angry", 1.5), ("Sad", 1.5), ("Neutral", 1.5),
        (EMOTIONS[2], 0.5)
    ]  # fmt: skip
    assert abs(figure.axes[0].texts[1].get_position()[0] - frames.time_sec[150]) < 0.05
