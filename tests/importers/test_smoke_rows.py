"""Under ``--smoke`` an import takes a few rows of each class and split, and reads the images of no other row."""

import csv
import os

import native_layouts  # noqa: F401  (adds layouts)
import pytest
from native_layouts import SOURCES

from fer_lib.errors import DataError
from fer_lib.importers import engine, import_all, import_source
from fer_lib.importers.image_files import IMAGE_SUFFIXES
from fer_lib.params import SourceSpec
from fer_lib.synthetic.dataset import write_raw
from fer_lib.synthetic.layouts import LAYOUTS

MOST = 2
CASES = [(name, source, {}) for name, source in SOURCES.items()]
CASES += [("expw", "expw_hq", {}), ("expw", "expw_hq", {"crop": False, "min_confidence": 0.0})]


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    monkeypatch.setattr(engine, "SMOKE_ROWS", MOST)


def remove_other_images(raw, folder, rows, every):
    """Remove the images, and the pixels in a CSV, of the rows of ``every`` that are not in ``rows``; their number."""
    used = {os.stat(path).st_ino for path in (folder / "images").rglob("*") if path.is_file()}
    photos = set(rows["orig_image"]) if "orig_image" in rows else set()
    used |= {path.stat().st_ino for path in raw.rglob("*") if path.name in photos}
    images = [p for p in raw.rglob("*") if p.suffix in IMAGE_SUFFIXES and p.stat().st_ino not in used]
    for path in images:
        path.unlink()
        path.symlink_to("nowhere")  # listed, and not readable
    removed = len(images)
    if (path := raw / "fer2013.csv").is_file():
        with open(path, newline="") as file:
            header, *lines = list(csv.reader(file))
        others = set(every["record"]) - set(rows["record"])
        for number, line in enumerate(lines):
            if f"row{number:07d}" in others:
                line[header.index("pixels")] = "no pixels"
                removed += 1
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows([header, *lines])
    return removed


@pytest.mark.parametrize(("layout", "source", "options"), CASES)
def test_smoke_takes_a_few_rows_of_each_class_and_split_and_reads_no_other_image(tmp_path, layout, source, options):
    size = None if LAYOUTS[layout].fixed_size else 48
    raw = write_raw(tmp_path / "raw", layout, faces=140, size=size)
    spec = SourceSpec(source=source, root=str(raw), name="drawn", **options)
    every = import_source(spec, tmp_path / "every").rows.set_index("sample_id")
    few = import_source(spec, tmp_path / "few", smoke=True)
    rows = few.rows.set_index("sample_id")
    counts = every.groupby(["split", "label"]).size().clip(upper=MOST)
    assert rows.groupby(["split", "label"]).size().equals(counts) and len(rows) < len(every) / 2
    assert rows.equals(every.loc[rows.index, rows.columns]), "a row is the same in both imports"
    assert f"drawn: smoke: {len(rows)} of {len(every)} rows" in few.warnings
    assert not any("smoke" in text for text in import_source(spec, tmp_path / "every").warnings)
    assert remove_other_images(raw, tmp_path / "few" / "drawn", few.rows, every) > 10
    with pytest.raises(DataError):
        import_source(spec, tmp_path / "every")
    assert import_source(spec, tmp_path / "again", smoke=True).rows.equals(few.rows)


def test_each_source_of_a_smoke_import_has_its_own_few_rows(tmp_path):
    raw = write_raw(tmp_path / "raw", "tree", faces=210, size=16)
    specs = [SourceSpec(source="tree", root=str(raw), name=name) for name in ("a", "b")]
    report = import_all(specs, tmp_path / "out", smoke=True)
    assert [r["splits"] for r in report["reports"]][0] == [r["splits"] for r in report["reports"]][1]
    assert {max(counts.values()) for r in report["reports"] for counts in r["splits"].values()} == {MOST}
    rows = report["manifest"]["rows"] // 2
    assert report["warnings"] == [f"a: smoke: {rows} of 210 rows", f"b: smoke: {rows} of 210 rows"]
