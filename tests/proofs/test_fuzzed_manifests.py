"""Thousands of damaged manifests and CSVs: a clear error or a counted row, never a traceback, never a lost row."""

import random

import numpy as np
import pandas as pd
import pytest

from fer_lib.datasets.interchange import FULL, SHORT
from fer_lib.datasets.manifest import Manifest
from fer_lib.errors import DataError
from fer_lib.importers.csv_import import read_rows

CASES = 4000
CELLS = ["", "0", "3", "7", "-1", "1e400", "nan", "happy", "contempt", "x" * 300, '"', "'", ",", "\n", "\r", "\t", "=1",
         "..", "/etc/x", "C:\\a\\b", "train", "VALID", "dev", "a.png", "b/c.png", "\x00", "é", "\ufeff", "12.5",
         "12,5"]  # fmt: skip


def damaged(data: bytes, rng: random.Random) -> bytes:
    """One to four bytes changed, a piece cut out, doubled or appended."""
    how = rng.randrange(5)
    if how == 0:
        return data[: rng.randrange(len(data))]
    if how == 1:
        at = rng.randrange(len(data))
        return data[:at] + data[at + rng.randrange(1, 40) :]
    if how == 2:
        return data + rng.randbytes(rng.randrange(1, 30))
    out = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        out[rng.randrange(len(out))] = rng.randrange(256)
    return bytes(out)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    rows = [{"sample_id": f"s{i}", "content_id": f"c{i % 20}", "source": "ab"[i % 2], "record": f"r{i}", "label": i % 7,
             "image_path": f"x/{i}.png", "split": ("train", "val", "test")[i % 3], "val_role": "select" * (i % 3 == 1),
             "soft_label": [1.0, 0, 0, 0, 0, 0, 0] if i % 5 == 0 else None, "confidence": i / 2}
            for i in range(40)]  # fmt: skip
    path = tmp_path_factory.mktemp("sound") / "manifest.parquet"
    return Manifest(pd.DataFrame(rows), {"root": str(path.parent), "tolerance": 0}).write(path)


def test_a_damaged_manifest_is_refused_or_the_same(sound, tmp_path):
    data, rng, refused = sound.path.read_bytes(), random.Random(1), 0
    path = tmp_path / "m.parquet"
    for case in range(CASES):
        path.write_bytes(damaged(data, rng))
        try:
            read = Manifest.read(path)
        except DataError as error:
            assert "m.parquet" in str(error), f"case {case}: {error}"
            refused += 1
        else:
            assert read.sha256 == sound.sha256, f"case {case}: other rows were read"
    assert refused > CASES / 2


def test_a_damaged_csv_is_refused_or_every_row_is_counted(tmp_path):
    rng, path, counted = random.Random(2), tmp_path / "f.csv", 0
    for case in range(CASES):
        header = rng.choice((SHORT, FULL))
        lines = [",".join(header)]
        for i in range(rng.randrange(6)):
            good = [f"{i}.png", str(i % 7), "train", "s", *("9", "o.png", str(i), "0", "0", "9", "9")]
            cells = [rng.choice(CELLS) if rng.random() < 0.2 else cell for cell in good[: len(header)]]
            lines.append(",".join(cells[: rng.choice((len(cells), len(cells), len(cells), rng.randrange(12)))]))
        data = "\n".join(lines).encode()
        path.write_bytes(damaged(data, rng) if rng.random() < 0.3 else data)
        try:
            found = read_rows(path, tmp_path, ["C:\\a=."] if case % 2 else [])
        except DataError as error:
            assert "f.csv" in str(error), f"case {case}: {error}"
            continue
        excluded = sum(sum(names.values()) for names in found.excluded.values())
        assert found.total == len(found.rows) + len(found.bad) + excluded, f"case {case}"
        assert all(0 <= row["label"] < 7 and not row["image_path"].startswith("/") for row in found.rows), (
            f"case {case}"
        )
        assert np.all([np.isfinite(row["bbox_top"]) for row in found.rows if row.get("bbox_top") is not None])
        counted += found.total
    assert counted > CASES
