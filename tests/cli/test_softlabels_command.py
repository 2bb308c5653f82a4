"""``fer softlabels check``: what it prints of a sound folder, and that each kind of foreign one is refused."""

import hashlib
import io
import json
import re
import shutil

import numpy as np
import pytest

from fer_lib.cli import main as cli
from fer_lib.datasets.manifest import Manifest
from fer_lib.emotions import EMOTIONS
from fer_lib.faces.contract import FaceContract
from fer_lib.models.softlabels import export_softlabels
from fer_lib.params import SoftLabelParams

PASSED = ("hashes: 6 files", "class order: Angry, ", "face contract: 2 teachers, align none", "rows: ", "coverage: ")


@pytest.fixture(scope="module")
def exported(drawn_manifest, drawn_teachers, pack_cache, tmp_path_factory):
    out = tmp_path_factory.mktemp("softlabels")
    export_softlabels(SoftLabelParams(batch_size=64), drawn_manifest, drawn_teachers, out, pack_cache, "cpu")
    return out


@pytest.fixture
def folder(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "soft")


@pytest.fixture
def check(folder, capsys):
    """``check(manifest)``: exit code, the lines on stdout, stderr; of the copy in ``folder``."""

    def call(manifest=None):
        with pytest.raises(SystemExit) as end:
            cli.main(["softlabels", "check", str(folder), *(["--manifest", str(manifest)] if manifest else [])])
        printed = capsys.readouterr()
        return end.value.code, printed.out.splitlines(), printed.err

    return call


def seal(folder, name, content):
    """Replace a file together with its recorded hash."""
    (folder / name).write_bytes(content)
    hashes = json.loads((folder / "hash_manifest.json").read_text())
    hashes[name] = hashlib.sha256(content).hexdigest()
    (folder / "hash_manifest.json").write_text(json.dumps(hashes))


def test_a_sound_folder_passes_every_check(check, drawn_manifest, exported):
    code, lines, err = check(drawn_manifest.path)
    assert (code, err) == (0, "")
    assert [line.startswith(text) for line, text in zip(lines, PASSED, strict=False)] == [True] * len(PASSED)
    n = len(drawn_manifest.rows(split="train"))
    assert lines[4] == f"coverage: all {n} training rows of {drawn_manifest.path}, with their labels"
    record = json.loads((exported / "alignmentreport.json").read_text())
    table = {line.split()[0]: line.split()[1:] for line in lines[5:]}
    assert table["temperature"] == ["1.0", "1.2", "2.0", "4.0", "5.0", "6.0"]
    assert [float(v) for v in table["max_prob_q50"]] == [round(r["max_prob_q50"], 3) for r in record["sharpness"]]
    assert len(table) == 11


def test_without_a_manifest_it_says_that_coverage_is_open_or_uses_the_phases_own(check, folder, drawn_manifest):
    assert check()[1][4] == "coverage: not checked, since no manifest is named (--manifest)"
    record = {"inputs": {"manifest": str(drawn_manifest.path.parent)}}
    (folder / "done.json").write_text(json.dumps(record))
    assert check()[1][4].startswith("coverage: all ")


def lines_of(folder):
    return (folder / "softlabels_index.jsonl").read_text().splitlines(keepends=True)


def arrays(folder):
    with np.load(folder / "softlabels.npz") as stored:
        return stored["logits"], stored["y"]


def saved(logits, y):
    stream = io.BytesIO()
    np.savez(stream, logits=logits, y=y)
    return stream.getvalue()


def swapped_entries(folder):
    """The index with the positions of its first two rows of unlike labels exchanged."""
    entries = [json.loads(line) for line in lines_of(folder)]
    other = next(i for i, entry in enumerate(entries) if entry["y"] != entries[0]["y"])
    entries[0]["i"], entries[other]["i"] = other, 0
    return "".join(json.dumps(entry) + "\n" for entry in entries).encode()


def permute_rows(folder):
    logits, y = arrays(folder)
    seal(folder, "softlabels.npz", saved(logits[::-1], y[::-1]))


def edit_logits(folder):
    logits, y = arrays(folder)
    logits[3, 2] += 1
    (folder / "softlabels.npz").write_bytes(saved(logits, y))


def cut_file(folder):
    content = (folder / "softlabels.npz").read_bytes()
    (folder / "softlabels.npz").write_bytes(content[: len(content) // 2])


def change_contract(folder, teacher, **changes):
    record = json.loads((folder / "alignmentreport.json").read_text())
    contract = FaceContract.model_validate(record["teachers"][teacher]["face_contract"]).model_copy(update=changes)
    record["teachers"][teacher] |= {"face_contract": contract.model_dump(mode="json")}
    if teacher:
        record["teachers"][teacher] |= {"face_contract_id": contract.id}
    seal(folder, "alignmentreport.json", json.dumps(record).encode())


def cut_rows(folder):
    logits, y = arrays(folder)
    seal(folder, "softlabels.npz", saved(logits[:-1], y[:-1]))


def cut_all(folder):
    """The last row is gone from the arrays, the index and the record alike."""
    cut_rows(folder)
    seal(folder, "softlabels_index.jsonl", "".join(lines_of(folder)[:-1]).encode())
    record = json.loads((folder / "alignmentreport.json").read_text())
    seal(folder, "alignmentreport.json", json.dumps(record | {"rows": record["rows"] - 1}).encode())


REFUSED = {  # how it is damaged, the number of checks that it passes, the message
    "edited logits": (edit_logits, 0, "softlabels.npz is missing or was changed after it was written"),
    "truncated file": (cut_file, 0, "softlabels.npz is missing or was changed"),
    "missing file": (lambda f: (f / "seen.npz").unlink(), 0, "seen.npz is missing or was changed"),
    "other class order": (
        lambda f: seal(f, "classorder.json", json.dumps(EMOTIONS[::-1]).encode()), 1, "the class order is not"),
    "edited contract": (lambda f: change_contract(f, 0, clahe=True), 2, "gives other pixels in this fer-lab"),
    "unlike contracts": (lambda f: change_contract(f, 1, margin=0.2), 2, "teacher2 was trained .*no student has both"),
    "permuted index": (lambda f: seal(f, "softlabels_index.jsonl", swapped_entries(f)), 3, "not about the same rows"),
    "permuted rows": (permute_rows, 3, "not about the same rows in the same order"),
    "truncated arrays": (cut_rows, 3, "not about the same rows"),
    "truncated index": (
        lambda f: seal(f, "softlabels_index.jsonl", "".join(lines_of(f)[:-1]).encode()), 3, "not about the same rows"),
    "repeated row": (
        lambda f: seal(f, "softlabels_index.jsonl", "".join([*lines_of(f)[:-1], lines_of(f)[0]]).encode()), 3,
        "not about the same rows"),
    "truncated set": (cut_all, 4, r"covers \d+ of \d+ training rows"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_a_damaged_folder_is_refused(check, folder, drawn_manifest, kind):
    damage, passed, message = REFUSED[kind]
    damage(folder)
    code, lines, err = check(drawn_manifest.path)
    assert code == 1 and len(lines) == passed, lines
    assert [line.startswith(text) for line, text in zip(lines, PASSED, strict=False)] == [True] * passed
    assert re.search(message, err) and err.startswith("fer: ") and "export the soft labels again" in err


def test_a_foreign_set_is_refused(check, drawn_manifest, tmp_path):
    """The manifest has other rows, or other labels for the same rows."""
    rows = drawn_manifest.frame.copy()
    rows.loc[rows["split"] == "train", "label"] = (rows["label"] + 1) % 7
    Manifest(rows, drawn_manifest.meta | {"root": str(drawn_manifest.root)}).write(tmp_path / "manifest.parquet")
    code, lines, err = check(tmp_path)
    assert code == 1 and len(lines) == 4 and "was made with other labels than the manifest's" in err
    rows["sample_id"] = [f"{i:020x}" for i in range(len(rows))]
    Manifest(rows, drawn_manifest.meta | {"root": str(drawn_manifest.root)}).write(tmp_path / "manifest.parquet")
    assert "covers 0 of" in check(tmp_path)[2]


def test_a_folder_of_something_else_is_a_message(capsys, tmp_path):
    with pytest.raises(SystemExit) as end:
        cli.main(["softlabels", "check", str(tmp_path)])
    assert end.value.code == 1 and "holds no soft labels" in capsys.readouterr().err
