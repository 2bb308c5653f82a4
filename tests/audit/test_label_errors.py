"""The label-noise audit on a handful of faces: its files, figures and errors.  (Its accuracy: tests/proofs.)"""

import json

import numpy as np
import pandas as pd
import pytest
from watched_steps import counts, watched_steps

from fer_lib.audit.figures import label_error_sheet, noise_matrix
from fer_lib.audit.label_errors import LISTED, audit_labels, rows_to_audit, wrong_share
from fer_lib.datasets.manifest import Manifest
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError
from fer_lib.params.data import NoiseParams

TINY = NoiseParams(folds=2, image_size=32, embed_dim=16, epochs=2, batch_size=32, threads=1, device="cpu")


@pytest.fixture(scope="module")
def audit(drawn_manifest, pack_cache, tmp_path_factory):
    out = tmp_path_factory.mktemp("noise")
    with watched_steps() as records:
        report = audit_labels(drawn_manifest, TINY, out, pack_cache)
    return report, out, records


def test_every_row_is_listed_once_the_likeliest_error_first(audit, drawn_manifest):
    report, out, records = audit
    table = pd.read_csv(out / "label_noise.csv")
    audited = drawn_manifest.frame[drawn_manifest.frame["split"].isin(["train", "val"])]  # never test, unless asked
    assert sorted(table["sample_id"]) == sorted(audited["sample_id"])
    assert table["rank"].tolist() == list(range(1, len(audited) + 1))
    assert (np.diff(report.ranked["wrongness"]) <= 0).all() and table["wrongness"].between(0, 1).all()
    given = table.set_index("sample_id")["given"]
    labels = audited.set_index("sample_id")["label"]
    assert all(given[s] == EMOTIONS[label] for s, label in labels.items())
    assert (table["given"] != table["suggested"]).all()
    for number in (1, 2):
        calls = counts([record for record in records if record["text"].startswith(f"round {number}/2  training nets")])
        assert calls[-1] == (4, 4) and all(total == 4 for _, total in calls)  # 2 folds x 2 epochs
        assert calls == sorted(calls)


def test_the_summary_adds_up(audit):
    report, out, _ = audit
    summary = json.loads((out / "label_noise.json").read_text())
    counts = np.bincount(report.manifest.labels, minlength=7)
    assert summary["rows"] == counts.sum() == sum(summary["splits"].values()) and set(summary["splits"]) == {
        "train",
        "val",
    }
    for key in ("noise_matrix", "refined_matrix"):
        np.testing.assert_allclose(np.sum(summary[key], axis=1), counts, rtol=1e-9)
    assert summary["flagged"] == report.ranked["flagged"].sum() == (report.ranked["wrongness"] >= 0.5).sum()
    np.testing.assert_allclose(np.sum(summary["transition"], axis=0), 1.0)
    right = np.trace(summary["refined_matrix"]) / summary["rows"]
    assert summary["noise_share"]["refined"] == pytest.approx(1 - right)
    wrong = sum(c["wrong"] for c in summary["per_class"].values())
    assert summary["noise_share"]["refined"] == pytest.approx(wrong / summary["rows"])
    assert [c["rows"] for c in summary["per_class"].values()] == counts.tolist()
    assert summary["params"]["folds"] == 2 and summary["params"]["seed"] == 1337
    top = [row["sample_id"] for row in summary["top"]]
    assert top == report.ranked["sample_id"].head(LISTED).tolist()


def test_audit_is_reproducible(audit, drawn_manifest, pack_cache, tmp_path):
    report, out, _ = audit
    again = audit_labels(drawn_manifest, TINY, tmp_path, pack_cache)
    assert (tmp_path / "label_noise.csv").read_bytes() == (out / "label_noise.csv").read_bytes()
    assert again.summary == report.summary
    other = audit_labels(drawn_manifest, TINY.model_copy(update={"rounds": 1}), tmp_path / "one", pack_cache)
    assert other.summary["left_out_of_the_last_round"] == 0


def test_flagged_rows_are_not_trained_on_in_the_next_round(drawn_manifest, pack_cache, tmp_path, monkeypatch):
    """The nets are sure of the true class; the second round leaves out exactly the labels that differ from it."""
    from fer_lib.training import cross_validation

    rows = rows_to_audit(drawn_manifest, TINY)
    frame, wrong = rows.frame.copy(), np.arange(len(rows)) % 9 == 4
    true = rows.labels
    frame["label"] = np.where(wrong, (true + 1) % 7, true)
    trained_on = []

    def sure(pack, fold, rows, *_):
        trained_on.append(rows)
        return 9.0 * np.eye(7)[true]

    monkeypatch.setattr(cross_validation, "out_of_fold", sure)
    report = audit_labels(Manifest(frame, rows.meta, rows.path), TINY, tmp_path, pack_cache)
    assert trained_on[0].all() and (trained_on[1] == ~wrong).all()
    assert report.summary["left_out_of_the_last_round"] == report.summary["flagged"] == wrong.sum()
    first = report.ranked.head(int(wrong.sum()))
    assert set(first["sample_id"]) == set(frame["sample_id"][wrong]) and first["flagged"].all()
    by_id = dict(zip(frame["sample_id"], true, strict=True))
    assert all(EMOTIONS[by_id[row.sample_id]] == row.suggested for row in first.itertuples())
    assert wrong_share(report.errors.noise) == pytest.approx(wrong.mean())


def test_no_text_of_the_csv_is_a_formula(drawn_manifest, pack_cache, tmp_path):
    rows = rows_to_audit(drawn_manifest, TINY)
    frame = rows.frame.copy()
    frame.loc[0, ["record", "source"]] = ['=HYPERLINK("x")', "@drawn"]
    report = audit_labels(Manifest(frame, rows.meta, rows.path), TINY, tmp_path, pack_cache)
    table = pd.read_csv(tmp_path / "label_noise.csv").set_index("sample_id")
    row = table.loc[frame["sample_id"][0]]
    assert row["record"] == '\'=HYPERLINK("x")' and row["source"] == "'@drawn"
    assert not table[["source", "record", "image_path"]].apply(lambda c: c.str.match(r"[=+\-@\t\r]")).any(axis=None)
    raw = report.ranked.set_index("sample_id").loc[frame["sample_id"][0]]  # only the file is changed
    assert raw["record"] == '=HYPERLINK("x")' and raw["source"] == "@drawn"


def test_figures_show_the_report(audit):
    report, *_ = audit
    matrix = noise_matrix(report)
    texts = [t.get_text() for t in matrix.axes[0].texts]
    assert len(texts) == 49 and texts[0].startswith(f"{report.errors.refined[0, 0]:,.0f}\n")
    title = matrix.axes[0].get_title()
    assert title.startswith(f"{len(report.ranked)} labels: {100 * wrong_share(report.errors.refined):.1f} % wrong")
    sheet = label_error_sheet(report, shown=10, columns=4)
    captions = [t.get_text() for t in sheet.axes[0].texts]
    first = report.ranked.iloc[0]
    assert len(captions) == 10
    assert captions[0].startswith(f"{first['given']} > {first['suggested']}\n{first['wrongness']:.3f}")
    assert [t.get_text() for t in sheet.axes[0].get_yticklabels()] == ["1 to 4", "5 to 8", "9 to 10"]


def test_an_audit_of_test_rows_is_logged_as_an_opening(audit, drawn_manifest, pack_cache, tmp_path):
    _, out, _ = audit
    assert not (out / "test_openings.jsonl").exists(), "train and val rows are no opening"
    audit_labels(drawn_manifest, TINY.model_copy(update={"splits": ["test"], "rounds": 1}), tmp_path, pack_cache)
    line = json.loads((tmp_path / "test_openings.jsonl").read_text())
    assert line["purpose"] == "label noise" and line["n"] == len(drawn_manifest.rows(split="test"))


def test_no_rows_or_too_few_are_errors(drawn_manifest, pack_cache, tmp_path):
    train = drawn_manifest.rows(split="train")
    with pytest.raises(DataError, match="has no rows in test"):
        audit_labels(train, TINY.model_copy(update={"splits": ["test"]}), tmp_path, pack_cache)
    few = Manifest(train.frame.head(3), train.meta, train.path)
    with pytest.raises(DataError, match="3 rows are 3 different images, too few for 5 folds"):
        audit_labels(few, TINY.model_copy(update={"folds": 5}), tmp_path, pack_cache)
