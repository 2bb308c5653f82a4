"""Drawn raw trees of every layout: rows are the truth, twice the same, whatever order the disk or a list has."""

import hashlib
import json
import os
import random
import re
import tempfile
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from native_layouts import SOURCES

from fer_lib.emotions import EMOTIONS, class_id
from fer_lib.errors import DataError
from fer_lib.importers import import_source
from fer_lib.importers.votes import label_votes
from fer_lib.params import SourceSpec
from fer_lib.synthetic import dataset
from fer_lib.synthetic.layouts import LAYOUTS, encode
from fer_lib.synthetic.noise_injection import CONTEMPT, Record

QUICK = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
SIZE = 16
LISTS = ("label.lst", "list_patition_label.txt", "distribution.txt", "partition_label.txt")  # their lines have no order


def noise(seed: int, size: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


@st.composite
def records(draw, layout: str) -> list[Record]:
    """One to twelve records of ``layout``, of any classes and splits it has, a few of one content."""
    kind = LAYOUTS[layout]
    labels = st.sampled_from((*kind.classes, *((CONTEMPT,) if kind.contempt else ())))
    size = kind.size if kind.fixed_size or layout == "ferplus_native" else SIZE
    rows = st.tuples(labels, st.sampled_from(sorted(kind.splits)), st.integers(0, 20), st.integers(0, 5))
    return [
        Record(noise(seed, size), split, person, label, label, 1.0, {})
        for label, split, seed, person in draw(st.lists(rows, min_size=1, max_size=12))
    ]


def expected(layout: str, drawn: list[Record]) -> dict[str, tuple[int, str]]:
    """record -> (label, split) of every record that an import must keep."""
    if SOURCES[layout] == "ferplus":
        for r in drawn:
            r.written = class_id(label_votes(r.extra["votes"])[0])
    return {r.record: (r.written, r.split) for r in drawn if r.written in range(7)}


def checksums(root: Path) -> dict[str, str]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@contextmanager
def shuffled_disk(seed: int):
    """Every folder is listed in another order than it has."""

    class Listing(ExitStack):
        """A context and an iterator, as os.scandir's."""

        def __init__(self, path="."):
            super().__init__()
            with real(path) as found:
                listed = sorted(found, key=lambda entry: entry.name)
            random.Random(seed).shuffle(listed)
            self._entries = iter(listed)

        def __iter__(self):
            return self

        def __next__(self):
            return next(self._entries)

    real = os.scandir
    with mock.patch("os.scandir", Listing):
        yield


def shuffle_lines(root: Path, seed: int) -> None:
    for path in (path for path in root.rglob("*") if path.name in LISTS):
        lines = path.read_text().split("\n")
        random.Random(seed).shuffle(lines)
        path.write_text("\n".join(lines))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_round_trip_idempotence_and_order_invariance(layout):
    @QUICK
    @given(records(layout), st.integers(0, 2**16))
    def holds(drawn, seed):
        with tempfile.TemporaryDirectory() as folder:
            root, out = Path(folder) / "raw", Path(folder) / "out"
            root.mkdir()
            LAYOUTS[layout].write(root, drawn, np.random.default_rng(seed))
            truth, before = expected(layout, drawn), checksums(root)
            spec = SourceSpec(source=SOURCES[layout], root=str(root), name="drawn")
            if not truth:
                with pytest.raises(DataError, match="no image of the seven classes"):
                    import_source(spec, out)
                return
            if layout == "rafdb_compound" and not re.search(r"(?m) ([89]|1\d)$", _list(root)):
                with pytest.raises(DataError, match="basic set"):
                    import_source(spec, out)
                return
            first = import_source(spec, out)
            _is_the_truth(first, truth, drawn)
            stored = (out / "drawn" / "rows.parquet").read_bytes()
            again = import_source(spec.model_copy(update={"mode": "copy"}), out)
            assert again.rows.equals(first.rows)
            assert (out / "drawn" / "rows.parquet").read_bytes() == stored
            assert checksums(root) == before, "raw files were touched"
            shuffle_lines(root, seed)
            with shuffled_disk(seed):
                assert import_source(spec, out).rows.equals(first.rows)

    holds()


def _list(root: Path) -> str:
    return (root / "EmoLabel" / "list_patition_label.txt").read_text()


def _is_the_truth(result, truth: dict, drawn: list[Record]) -> None:
    rows = result.rows
    assert sorted(rows["record"]) == sorted(truth)
    assert len(set(rows["sample_id"])) == len(rows)
    for row in rows.itertuples():
        label, split = truth[row.record]
        assert row.label == label and split in ("", row.split), row.record
    assert result.report["bad_records"] == {} and result.report["missing_images"] == 0
    excluded = sum(sum(counts.values()) for counts in result.report["excluded"].values())
    assert len(rows) + excluded == len(drawn)
    extras = {r.record: r.extra for r in drawn}
    for row in rows.to_dict("records"):
        extra = extras[row["record"]]
        if "box" in extra:
            box = [row[f"bbox_{side}"] for side in ("top", "left", "bottom", "right")]
            assert box == extra["box"] and row["confidence"] == extra["confidence"]
        if "subject" in extra:
            assert row["subject"] == extra["subject"]
        if "distribution" in extra:
            shares = [extra["distribution"].get(name, 0) for name in EMOTIONS]
            assert row["soft_label"] == pytest.approx(shares, abs=1e-3)
    for key in ("orig_image", "subject"):  # nobody and no photo stands in two splits
        if key in rows:
            assert (rows.groupby(key)["split"].nunique() == 1).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_importers_find_what_truth_json_says(layout, tmp_path):
    """Drawn faces with copies, leaks and wrong labels, as the embedded data has them."""
    leaks = 4 if len(LAYOUTS[layout].splits) > 1 else 0
    options = {"faces": 90, "duplicates": 3, "leaks": leaks, "label_noise": 0.1, "size": None}
    root = dataset.write_raw(tmp_path / "raw", layout, **options)
    result = import_source(SourceSpec(source=SOURCES[layout], root=str(root), name=layout), tmp_path / "out")
    truth = {r["record"]: r for r in json.loads((root / "truth.json").read_text())["records"]}
    contents = dict(zip(result.rows["record"], result.rows["content_id"], strict=True))
    assert len(truth) == 93 + leaks
    for row in result.rows.itertuples():
        fact = truth[row.record]
        assert fact["split"] in ("", row.split)
        if SOURCES[layout] != "ferplus":  # whose labels are the voters', not the file's
            assert fact["written"] == EMOTIONS[row.label]
        original = fact["duplicate_of"] or fact["leak_of"]
        if original in contents and layout != "expw":  # a copy in another photo is another content there
            assert contents[original] == contents[row.record]
    kept = [r for r in truth.values() if r["written"] != "Contempt"]
    assert len(result.rows) == len(kept) if SOURCES[layout] != "ferplus" else len(result.rows) > 60
    assert (result.report["boxes_outside"] > 0) == (layout == "expw")


# ---------------------------------------------------------------- boxes

EDGE = st.integers(-6, 30)


@st.composite
def faces_of_photos(draw):
    """photo number -> [(top, left, bottom, right, confidence, label)]; photos are 20 x 24 pixels (height x width)."""
    face = st.tuples(EDGE, EDGE, EDGE, EDGE, st.floats(0, 120).map(lambda v: round(v, 4)), st.integers(0, 6))
    return draw(st.lists(st.lists(face, min_size=1, max_size=4), min_size=1, max_size=6))


def write_expw(root: Path, photos: list) -> int:
    (root / "origin").mkdir(parents=True)
    lines = []
    for i, faces in enumerate(photos):
        picture = np.resize(noise(i, 24), (20, 24, 3))
        (root / "origin" / f"p{i}.jpg").write_bytes(encode(picture, ".jpg"))
        for j, (top, left, bottom, right, confidence, label) in enumerate(faces):
            lines.append(f"p{i}.jpg {j} {top} {left} {right} {bottom} {confidence} {label}")
    (root / "label.lst").write_text("\n".join(lines))
    return len(lines)


@QUICK
@given(faces_of_photos())
def test_every_expw_line_is_a_row_or_a_counted_problem_and_partly_outside_boxes_are_rows(photos):
    with tempfile.TemporaryDirectory() as folder:
        lines = write_expw(Path(folder) / "raw", photos)
        spec = SourceSpec(source="expw_full", root=f"{folder}/raw", tolerance=lines)
        kinds, leaving, kept = Counter(), 0, set()
        for i, faces in enumerate(photos):
            for j, (top, left, bottom, right, _, _) in enumerate(faces):
                if bottom <= top or right <= left:
                    kinds["empty box"] += 1
                elif bottom <= 0 or right <= 0 or top >= 20 or left >= 24:
                    kinds["box outside the photo"] += 1
                else:
                    leaving += top < 0 or left < 0 or bottom > 20 or right > 24
                    kept.add(f"p{i}.jpg#{j}")
        if not kept:
            with pytest.raises(DataError, match="no image"):
                import_source(spec, Path(folder) / "out")
            return
        full = import_source(spec, Path(folder) / "out")
        assert set(full.rows["record"]) == kept and full.report["bad_records"] == dict(sorted(kinds.items()))
        assert full.report["boxes_outside"] == leaving
        assert full.report["rows_total"] == lines == len(kept) + sum(kinds.values())
        # the sure faces have the split and the content of the full list, cropped or not
        for crop in (True, False):
            hq = spec.model_copy(update={"source": "expw_hq", "crop": crop})
            both = full.rows[full.rows["confidence"] >= 60].set_index("record")
            if both.empty:
                continue
            rows = import_source(hq, Path(folder) / "hq").rows.set_index("record")
            assert rows[["split", "label", "content_id"]].equals(both[["split", "label", "content_id"]])
            assert ("bbox_top" in rows) == (not crop)


@QUICK
@given(
    st.lists(st.tuples(st.integers(0, 7), *[st.integers(1, 10)] * 4), min_size=1, max_size=5, unique_by=lambda b: b[1:])
)
def test_yolo_boxes_become_faces_in_pixels_and_lines_have_no_order(boxes):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "raw"
        for name in ("images", "labels"):
            (root / "train" / name).mkdir(parents=True)
        names = ["Anger", "Contempt", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise"]
        (root / "data.yaml").write_text("nc: 8\nnames:\n" + "".join(f"  {i}: {n}\n" for i, n in enumerate(names)))
        (root / "train" / "images" / "a.png").write_bytes(encode(np.resize(noise(1, 40), (20, 40, 3)), ".png"))
        lines = [f"{c} {(x + w / 2) / 40} {(y + h / 2) / 20} {w / 40} {h / 20}" for c, x, y, w, h in boxes]
        (root / "train" / "labels" / "a.txt").write_text("\n".join(lines) + "\n")
        spec = SourceSpec(source="affectnet_yolo_format", root=str(root))
        wanted = {(y, x, y + h, x + w, names[c]) for c, x, y, w, h in boxes if c != 1}
        if not wanted:
            with pytest.raises(DataError, match="no image of the seven"):
                import_source(spec, Path(folder) / "out")
            return
        first = import_source(spec, Path(folder) / "out")
        short = {name: name[:3] for name in names}
        found = {(*row[:4], EMOTIONS[row[4]][:3]) for row in first.rows[_BOX].itertuples(index=False)}
        assert found == {(*box, short[name]) for *box, name in wanted}
        kept = len(wanted)
        assert (first.report["label_lines_kept"], first.report["label_lines_dropped"]) == (kept, len(boxes) - kept)
        (root / "train" / "labels" / "a.txt").write_text("\n".join(reversed(lines)))
        assert import_source(spec, Path(folder) / "out").rows.equals(first.rows)


_BOX = ["bbox_top", "bbox_left", "bbox_bottom", "bbox_right", "label"]
