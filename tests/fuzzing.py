"""Raw trees with one damaged file each, and what an import must make of them."""

from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fer_lib.datasets.manifest import content_id
from fer_lib.emotions import class_id
from fer_lib.errors import DataError
from fer_lib.importers import ImportResult, import_source
from fer_lib.importers.votes import VOTE_COLUMNS, label_votes
from fer_lib.params import SourceSpec
from fer_lib.synthetic.layouts import LAYOUTS
from fer_lib.synthetic.noise_injection import Record

DAMAGED = [  # layout, source, file
    ("affectnet_yolo", "affectnet_yolo_format", "train/labels/image0000000.txt"),
    ("affectnet_yolo", "affectnet_yolo_format", "data.yaml"),
    ("affectnet_yolo", "affectnet_yolo_format", "train/images/image0000000.jpg"),
    ("rafdb_basic", "rafdb_basic", "EmoLabel/list_patition_label.txt"),
    ("rafdb_compound", "rafdb_compound_mapped", "EmoLabel/list_patition_label.txt"),
    ("rafml", "rafml_argmax", "EmoLabel/distribution.txt"),
    ("rafml", "rafml_argmax", "EmoLabel/partition_label.txt"),
    ("expw", "expw_full", "label.lst"),
    ("expw", "expw_hq", "label.lst"),
    ("expw", "expw_hq", "origin/drawn_people_0.jpg"),
    ("fer2013_csv", "fer2013", "fer2013.csv"),
    ("ferplus", "ferplus", "fer2013new.csv"),
    ("ferplus_native", "ferplus", "FER2013Train/label.csv"),
]
_WORDS = st.one_of(
    st.sampled_from(["", "-1", "0", "7", "12", "99", "1e400", "nan", "inf", "-0.5", "1.5", "\u0663", "\0", "../a.jpg",
                     "/etc/x", "C:\\x.jpg", ".hidden", "a" * 300 + ".jpg", "train_00001.jpg", "test_0001.jpg",
                     "0001.jpg", "drawn_people_0.jpg", "\ufeff", "=1+1", "#", "{", "1 1 1", "\r", "\x85", '"', ",",
                     "999999999999"]),
    st.text(max_size=6),
)  # fmt: skip


@st.composite
def damage(draw, data: bytes) -> bytes:
    """A text with words replaced, lines dropped, doubled or cut off; an image with bytes replaced or cut off."""
    if data.startswith(b"\xff\xd8"):
        wrong = bytearray(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)
        for at in draw(st.lists(st.integers(0, len(data) - 1), max_size=8)):
            wrong[at : at + 1] = draw(st.binary(max_size=3))
        return bytes(wrong)
    lines = data.decode().split("\n")
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(lines) - 1))
        mark = draw(st.sampled_from([" ", ","] if "," in lines[at] else [" "]))
        words = lines[at].split(mark)
        word = draw(st.integers(0, min(len(words) - 1, 9)))
        kind = draw(st.sampled_from(["replace", "replace", "replace", "insert", "drop", "double", "cut"]))
        if kind in ("replace", "insert"):
            words[word : word + (kind == "replace")] = [draw(_WORDS)]
            lines[at] = mark.join(words)
        elif kind == "cut":
            lines[at] = lines[at][: draw(st.integers(0, len(lines[at])))]
        else:
            lines[at : at + 1] = [] if kind == "drop" and len(lines) > 1 else [lines[at]] * 2
    tail = draw(st.sampled_from([b"", b"", b"", b"\xff\xfe", b"\xed\xa0\x80"]))
    return "\n".join(lines).encode("utf-8", "surrogatepass") + tail


def write_tree(root: Path, layout: str, faces: int) -> None:
    """A tiny tree of ``layout``, with so many faces of each class."""
    kind = LAYOUTS[layout]
    split, rng = next(iter(kind.splits)), np.random.default_rng(0)
    size = kind.size if "fer" in layout else 8
    records = [
        Record(rng.integers(0, 256, (size, size, 3), np.uint8), split, 0, label, label, 1.0, {})
        for label in kind.classes
        for _ in range(faces)
    ]
    root.mkdir()
    kind.write(root, records, np.random.default_rng(1))


def account(source: str, root: Path, result: ImportResult) -> None:
    """Assert that every line of the lists under ``root`` is exactly one row or one count of the report."""
    bad, rows = result.report["bad_records"], len(result.rows)
    counted = sum(bad.values()) + sum(sum(names.values()) for names in result.report["excluded"].values())
    if source == "affectnet_yolo_format":
        lines = sum(len(text_lines(path)) for path in root.glob("*/labels/*.txt"))
        kept, dropped = result.report["label_lines_kept"], result.report["label_lines_dropped"]
        assert rows == kept and kept + dropped == lines
        pictures = sum(names.get("no label line", 0) for names in result.report["excluded"].values())
        assert rows + counted - pictures == lines, "these are images, all others lines"
    elif source == "rafml_argmax":
        shares, parts = (text_lines(root / "EmoLabel" / name) for name in ("distribution.txt", "partition_label.txt"))
        of_parts = bad.get("wrong partition line", 0) + bad.get("partition without a distribution", 0)
        assert rows + counted - of_parts == len(shares)
        names, flags = {line.split()[0] for line in shares if len(line.split()) == 7}, {}
        for line in parts:
            if len(line.split()) == 2 and line.split()[1] in ("0", "1"):
                flags.setdefault(line.split()[0], line.split()[1])
        assert len(names & set(flags)) + of_parts == len(parts)
        for row in result.rows.itertuples():
            assert row.split == ("train", "test")[int(flags[row.record])]
    elif source in ("fer2013", "ferplus"):
        files = list(root.glob("**/label.csv")) or [root / ("fer2013.csv" if source == "fer2013" else "fer2013new.csv")]
        headers = files[0].name != "label.csv"
        assert rows + counted == sum(len(csv_lines(path)) - headers for path in files)
        if headers:
            numbered(source, csv_lines(files[0]), result)
    else:
        lists = [path for path in (root / "label.lst", root / "EmoLabel" / "list_patition_label.txt") if path.is_file()]
        assert rows + counted == sum(len(text_lines(path)) for path in lists) > 0


def numbered(source: str, lines: list[str], result: ImportResult) -> None:
    """Assert that ``row0000007`` is what line 7 below the header says, whatever befell the lines before it."""
    order = [name.strip() for name in next(csv.reader(lines[:1]))]
    for row in result.rows.itertuples():
        cells = next(csv.reader([lines[1 + int(row.record.removeprefix("row"))]]))
        said = {name: cell.strip() for name, cell in zip(order, cells, strict=True)}
        if source == "fer2013":
            pixels = np.array(said["pixels"].split(), int).astype(np.uint8)
            assert row.content_id == content_id(pixels.tobytes()) and row.label == int(said["emotion"])
        else:
            assert row.label == class_id(label_votes([int(said[name]) for name in VOTE_COLUMNS])[0])


def text_lines(path: Path) -> list[str]:
    """Lines with a word in them, ended as Python's text files end them."""
    return [line for line in io.TextIOWrapper(io.BytesIO(path.read_bytes()), "utf-8-sig") if line.split()]


def csv_lines(path: Path) -> list[str]:
    """Lines with a word in them, ended by a line feed alone."""
    return [line for line in path.read_bytes().decode("utf-8-sig").split("\n") if line.strip()]


def hold(layout: str, source: str, file: str, examples: int) -> tuple[int, int]:
    """``examples`` imports, each of a tree damaged in another way: a DataError, or every line is a row or counted.

    Returns how many ended in an import and how many in an error.
    """
    ended = {"import": 0, "error": 0}

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def holds(data):
        with tempfile.TemporaryDirectory() as folder:
            root, out = Path(folder) / "raw", Path(folder) / "out"
            write_tree(root, layout, faces=2)
            (root / file).write_bytes(data.draw(damage((root / file).read_bytes())))
            spec = SourceSpec(source=source, root=str(root), tolerance=10**6)
            try:
                result = import_source(spec, out)
            except DataError as error:
                ended["error"] += 1
                assert str(root) in str(error)
                assert not [path for path in out.glob("*") if path.suffix != ".lock"], "a failed import left something"
                return
            ended["import"] += 1
            assert result.rows["sample_id"].is_unique and result.rows["label"].between(0, 6).all()
            account(source, root, result)

    holds()
    return ended["import"], ended["error"]
