"""Sheets show the right faces, in the right order, with the model's own predictions."""

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax

from fer_lib.datasets.sheets import GAP, face_tile
from fer_lib.emotions import EMOTIONS
from fer_lib.evaluation.error_sheets import answer_sheet, disagreement_sheet, select_predictions
from fer_lib.models.bundle import read_bundle
from fer_lib.models.softlabels import cached_logits
from fer_lib.params import SoftLabelParams, TeacherParams


def picture(figure):
    return np.asarray(figure.axes[0].images[0].get_array())


def captions(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def line_labels(figure):
    return [text.get_text() for text in figure.axes[0].get_yticklabels()]


def test_the_best_epoch_is_measured_again_on_the_same_rows(drawn_teachers, drawn_manifest, pack_cache):
    best, p = read_bundle(drawn_teachers[0]), TeacherParams(batch_size=28)
    rows, probs = select_predictions(best, drawn_manifest, p, pack_cache, "cpu")
    scores = best.meta["metrics"]["val_select_scaled"]
    assert set(rows.frame["val_role"]) == {"select"} and len(rows) == best.meta["metrics"]["val_select"]["n_used"]
    assert (probs.argmax(axis=1) == rows.labels).mean() == pytest.approx(scores["accuracy"])
    assert -np.log(probs[np.arange(len(rows)), rows.labels]).mean() == pytest.approx(scores["nll"], rel=1e-5)
    some, _ = select_predictions(
        best, drawn_manifest, TeacherParams(batch_size=14, max_val_batches=1), pack_cache, "cpu"
    )
    first = drawn_manifest.rows(split="val").frame.head(14)
    assert some.sample_ids == first[first["val_role"] == "select"]["sample_id"].tolist()


def test_the_worst_errors_come_first_and_then_the_surest_right_answers(flat_manifest):
    probs = np.full((12, 7), 0.02)
    for i in range(12):  # even rows are right, odd rows say Neutral; later rows are surer
        probs[i, flat_manifest.labels[i] if i % 2 == 0 else 6] = 0.5 + 0.03 * i
        probs[i] /= probs[i].sum()
    figure = answer_sheet(flat_manifest, probs, "a model", shown=4)
    p = {i: probs[i, i // 2] for i in range(12)}
    wrong = sorted((i for i in p if i % 2), key=p.get)[:4]
    right = sorted((i for i in p if i % 2 == 0), key=p.get, reverse=True)[:4]
    assert wrong == [11, 9, 7, 5] and right == [10, 8, 6, 4]
    tiles = picture(figure)
    second = tiles.shape[0] - 96 - 12 - GAP  # one line of captions below the right answers
    assert [tiles[5, 5 + i * (96 + GAP), 0] for i in range(4)] == [20 * i for i in wrong]
    assert [tiles[second + 5, 5 + i * (96 + GAP), 0] for i in range(4)] == [20 * i for i in right]
    assert captions(figure)[0] == f"Surprise {p[11]:.2f}\n> Neutral {probs[11, 6]:.2f}"
    assert captions(figure)[4] == f"Surprise {p[10]:.2f}"
    assert line_labels(figure) == ["worst errors\n1 to 4", "surest right\n1 to 4"]
    assert "6 of 12 faces wrong" in figure.texts[0].get_text()


def test_a_model_without_errors_has_right_answers_alone(flat_manifest):
    figure = answer_sheet(flat_manifest, np.eye(7)[flat_manifest.labels], "a model")
    assert line_labels(figure) == ["surest right\n1 to 8", "surest right\n9 to 12"]


def test_the_faces_of_most_disagreement_have_each_teachers_prediction(drawn_teachers, drawn_manifest, pack_cache):
    p, train = SoftLabelParams(flip_average=True), drawn_manifest.rows(split="train")
    figure = disagreement_sheet(p, drawn_manifest, drawn_teachers, pack_cache, "cpu", shown=10)
    options = dict(flip_average=True, batch_size=256, device="cpu")
    one, other = (
        softmax(cached_logits(read_bundle(t), train, pack_cache, **options)[0], axis=1) for t in drawn_teachers
    )
    order = np.argsort(-jensenshannon(one, other, axis=1), kind="stable")
    row, first = train.frame.iloc[order[0]], order[0]
    assert (picture(figure)[:96, :96] == face_tile(train, row)).all()
    assert captions(figure)[0] == (
        f"label {EMOTIONS[row['label']]}\n1: {EMOTIONS[one[first].argmax()]} {one[first].max():.2f}\n"
        f"2: {EMOTIONS[other[first].argmax()]} {other[first].max():.2f}"
    )
    assert line_labels(figure) == ["disagreement\n1 to 8", "disagreement\n9 to 10"]
    assert "1: teacher1, 2: teacher2" in figure.texts[0].get_text()
    assert disagreement_sheet(p, drawn_manifest, drawn_teachers[:1], pack_cache, "cpu") is None
