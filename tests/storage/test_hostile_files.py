"""JSON and array files that nobody has checked: a value or one message that names the file."""

import io
import json
import zipfile

import numpy as np
import pytest

from fer_lib.calibration.bias import read_logit_bias
from fer_lib.datasets.import_folder import REPORT, ROWS, write_clean_report
from fer_lib.datasets.openings import OPENINGS, opening_count
from fer_lib.errors import FerError
from fer_lib.evaluation.stages import STAGES, read_stages
from fer_lib.pipeline.cache_key import notebook_code
from fer_lib.storage.json_files import read_json, try_read_json
from fer_lib.storage.npz_files import read_npz

NESTED = "[" * 100_000


def import_report(file):
    """Read an import's report through the report of all imports."""
    folder = file.parent / "imports" / "a"
    folder.mkdir(parents=True)
    (folder / ROWS).touch()
    file.rename(folder / REPORT)
    write_clean_report(folder.parent)


def stages(file):
    read_stages(file.rename(file.with_name(STAGES)).parent)


@pytest.mark.parametrize("read", [read_json, read_logit_bias, notebook_code, import_report, stages])
def test_json_nested_too_deeply_is_one_message(read, tmp_path):
    (tmp_path / "x.json").write_text(NESTED)
    with pytest.raises(FerError, match=rf"{tmp_path}.*(recursion|nested)"):
        read(tmp_path / "x.json")


def test_nested_json_that_may_be_missing_counts_as_missing(tmp_path):
    (tmp_path / "x.json").write_text(NESTED)
    assert try_read_json(tmp_path / "x.json") is None


def test_foreign_lines_of_the_log_of_openings_are_skipped(tmp_path):
    (tmp_path / OPENINGS).write_text(f'{NESTED}\n5\n[1]\n{{"evalset_id": "e"}}\n')
    cache = tmp_path / "cache"
    cache.mkdir()
    assert opening_count(tmp_path, cache) == 1


@pytest.mark.parametrize("cell", [5, [], {}, {"cell_type": "code"}, {"cell_type": "code", "source": 3},
                                  {"cell_type": "code", "source": [], "metadata": []}], ids=str)  # fmt: skip
def test_a_notebook_of_foreign_cells_is_one_message(cell, tmp_path):
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": [cell]}))
    with pytest.raises(FerError, match=r"cannot read the notebook .*a\.ipynb"):
        notebook_code(tmp_path / "a.ipynb")


def npz(save=np.savez, **arrays) -> bytes:
    stream = io.BytesIO()
    save(stream, **arrays)
    return stream.getvalue()


def member(header: bytes) -> bytes:
    """An archive whose one array begins with ``header`` and has no values."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    return stream.getvalue()


FOREIGN = {
    "empty": b"", "no archive": b"x" * 100, "cut off": npz(a=np.zeros(9))[:-40], "objects": npz(a=np.array([{}])),
    "compressed": npz(np.savez_compressed, a=np.zeros(10**6)),
    "huge": member(b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000,)}\n"),
    "negative": member(b"{'descr': '<f8', 'fortran_order': False, 'shape': (-5,)}\n"),
    "no header": member(b"[" * 5000 + b"\n"), "no dtype": member(b"{'descr': 7, 'fortran_order': 0, 'shape': ()}\n"),
}  # fmt: skip


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_foreign_array_files_are_a_value_error(content, tmp_path):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError) as error:
        read_npz(tmp_path / "a.npz")
    assert 0 < len(str(error.value)) <= 200


def test_arrays_are_read_as_they_were_written(tmp_path):
    arrays = {"a": np.arange(5, dtype=np.uint64), "b": np.array(True), "c": np.zeros((2, 0, 3), np.float32)}
    (tmp_path / "a.npz").write_bytes(npz(**arrays))
    result = read_npz(tmp_path / "a.npz")
    assert result.keys() == arrays.keys()
    for name, array in arrays.items():
        assert result[name].dtype == array.dtype and np.array_equal(result[name], array)
