"""The images show the numbers that were passed in, differ in grey, and leave pyplot's global state alone."""

import io
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from fer_lib.calibration import metrics, plot_style, plots
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import FerError


@pytest.fixture(scope="module")
def scored():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 7, 500)
    logits = rng.normal(size=(500, 7)) * 2
    logits[np.arange(500), y] += 2
    return metrics.softmax(logits), y, metrics.summary(logits, y)


def texts(figure: Figure) -> str:
    from matplotlib.text import Text

    return "\n".join(t.get_text() for t in figure.findobj(Text))


def pixels(figure: Figure) -> np.ndarray:
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return np.asarray(Image.open(buffer).convert("RGB"))


def test_reliability_diagram(scored):
    probs, y, summary = scored
    figure = plots.reliability_diagram(probs, y, "a model on a set")
    table = metrics.reliability_table(probs, y)
    held = table["count"] > 0
    top, under = figure.axes
    accuracy, gap = top.containers
    np.testing.assert_allclose([b.get_height() for b in accuracy], table["accuracy"][held])
    np.testing.assert_allclose([b.get_height() for b in gap], (table["confidence"] - table["accuracy"])[held])
    assert [b.get_height() for b in under.containers[0]] == table["count"][held].tolist()
    written = texts(figure)
    assert "a model on a set" in written
    assert f"ECE {summary['ece']:.4f}" in written
    assert "calibrated model: 0.0" in written
    assert "n = 500" in written
    assert pixels(figure).shape == (660, 600, 3)


def test_reliability_diagram_of_one_certain_row():
    figure = plots.reliability_diagram(np.array([[1.0, 0.0]]), np.array([1]), "one")
    assert "ECE 1.0000" in texts(figure)
    assert pixels(figure).std() > 0


def test_confusion_matrix(scored):
    _, _, summary = scored
    cm = np.array(summary["confusion"])
    cm[1] = 0  # a class without rows has no percentages
    figure = plots.confusion_matrix(cm, "matrix")
    cells = [t.get_text() for t in figure.axes[0].texts]
    assert cells[0] == f"{cm[0, 0]:,}\n{100 * cm[0, 0] / cm[0].sum():.1f} %"
    assert cells[7:14] == ["-"] * 7
    assert len(cells) == 49
    totals = cm.sum(axis=1, keepdims=True)
    share = np.divide(cm, totals, out=np.zeros(cm.shape), where=totals > 0)
    np.testing.assert_array_equal(figure.axes[0].collections[0].get_array().reshape(7, 7), share)
    assert all(name in texts(figure) for name in EMOTIONS)
    assert pixels(figure).std() > 0


def test_per_class_bars(scored):
    _, _, summary = scored
    figure = plots.per_class_bars(summary["per_class_f1"], "bars")
    heights = [b.get_height() for b in figure.axes[0].containers[0]]
    assert heights == list(summary["per_class_f1"].values())
    assert f"macro-F1 {summary['macro_f1']:.3f}" in texts(figure)
    assert pixels(figure).std() > 0


def test_score_matrix():
    scores = {"one": {"a": 0.25, "b": 0.5}, "two": {"b": 0.75}}
    figure = plots.score_matrix(scores, {("two", "b")}, "matrix", "macro-F1")
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.texts] == ["0.250", "0.500", "0.750"], "no score, no text"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one", "two"]
    [frame] = axes.patches
    assert frame.get_xy() == (1, 1), "column b, row two"
    assert pixels(figure).std() > 0


def test_score_intervals():
    series = {"one": {"a": (0.5, 0.4, 0.6), "b": (0.7, 0.6, 0.9)}, "two": {"b": (0.2, 0.25, 0.3)}}
    figure = plots.score_intervals({"accuracy": series, "macro-F1": series}, "intervals")
    for axes, score in zip(figure.axes, ("accuracy", "macro-F1"), strict=True):
        assert [line.get_xdata().tolist() for line in axes.lines] == [[0.5, 0.7], [0.2]]
        ends = [part[:, 0].tolist() for bars in axes.collections for part in bars.get_segments()]
        assert ends == [[0.4, 0.6], [0.6, 0.9], [0.25, 0.3]], "also where the interval leaves out the value"
        assert score in axes.get_xlabel()
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a", "b"]
    assert "one" in texts(figure) and "two" in texts(figure) and pixels(figure).std() > 0


def test_nothing_to_draw_is_refused():
    with pytest.raises(FerError, match="no scores"):
        plots.score_matrix({"one": {}}, set(), "x", "y")
    with pytest.raises(FerError, match="no rows"):
        plots.reliability_diagram(np.empty((0, 7)), np.empty(0, int), "x")
    with pytest.raises(FerError, match="can't be drawn"):
        plots.confusion_matrix(np.zeros((2, 3)), "x")
    with pytest.raises(FerError, match="no classes"):
        plots.per_class_bars({}, "x")


def test_importing_the_plots_imports_neither_seaborn_nor_pyplot():
    code = (
        "import sys; from fer_lib.calibration import plots; from fer_lib.training import plots;"
        "sys.exit(bool({'seaborn', 'matplotlib.pyplot'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_drawing_leaves_no_pyplot_figure_and_no_changed_setting(scored):
    import matplotlib

    before = dict(matplotlib.rcParams)
    plots.confusion_matrix(np.eye(7), "t")
    figure = plots.per_class_bars({"a": 1.0}, "t")
    from matplotlib import pyplot  # seaborn has imported it

    assert not pyplot.get_fignums()
    assert {name for name, value in matplotlib.rcParams.items() if value != before[name]} <= {"backend"}
    assert not figure.axes[0].spines["top"].get_visible(), "the theme was in force while the figure was drawn"


def test_colours_of_a_series_differ_in_grey():
    from matplotlib.colors import to_rgb

    brightness = sorted(np.dot(to_rgb(colour), (0.299, 0.587, 0.114)) for colour in plot_style.SERIES)
    assert np.diff(brightness).min() > 0.1


def test_reliability_panels_draw_the_stored_tables(scored):
    probs, y, summary = scored
    table = {
        k: [None if v != v else v for v in values.tolist()] for k, values in metrics.reliability_table(probs, y).items()
    }
    error = {"value": summary["ece"], "null_mean": 0.0123, "null_q95": 0.0456}
    figure = plots.reliability_panels({"raw": (table, error), "scaled": (table, error)}, "two panels")
    held = [v for v in table["accuracy"] if v is not None]
    for top in figure.axes[:2]:
        np.testing.assert_allclose([b.get_height() for b in top.containers[0]], held)
    written = texts(figure)
    assert all(text in written for text in ("two panels", "raw\n", "scaled\n", "0.0123", f"ECE {summary['ece']:.4f}"))
    empty = {k: [0] * len(v) for k, v in table.items()}
    with pytest.raises(FerError, match="holds no rows"):
        plots.reliability_panels({"raw": (empty, error)}, "nothing")
