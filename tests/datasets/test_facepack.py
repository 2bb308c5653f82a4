"""Face packs: one build per set of inputs that decide pixels, resumed builds, and detection of damage."""

import json
import logging
import math
import shutil
import threading

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageSequence
from watched_steps import counts, watched_steps

from fer_lib.audit import hashes
from fer_lib.datasets import cropping, facepack, facepack_writer, quality, sheets
from fer_lib.datasets.facepack import check_room, open_or_build
from fer_lib.datasets.facepack_writer import checksum
from fer_lib.datasets.manifest import Manifest, box_of
from fer_lib.deploy.predict import Predictor
from fer_lib.errors import DataError, FerError, ParamsError
from fer_lib.faces.align import eye_angle
from fer_lib.faces.contract import FaceContract
from fer_lib.faces.decode import decode
from fer_lib.faces.detector_interface import find_points
from fer_lib.faces.detectors import get_detector
from fer_lib.faces.yunet import YUNET_FILE
from fer_lib.models.bundle import write_bundle
from fer_lib.models.classifier import build_classifier
from fer_lib.params import TeacherParams
from fer_lib.params.strict import validate

CONTRACT = FaceContract(image_size=32)
SIDE = CONTRACT.resize


@pytest.fixture
def rows(drawn_manifest):
    return drawn_manifest.rows(split="test")


def by_hand(folder, pictures, boxes=None):
    """A manifest over images uint8 [H, W, 3] that are written to ``folder``."""
    folder.mkdir(exist_ok=True)
    frame = {"sample_id": [], "content_id": [], "source": [], "record": [], "image_path": []}
    for i, picture in enumerate(pictures):
        cv2.imwrite(str(folder / f"{i}.png"), picture[..., ::-1])
        for name, value in zip(frame, (f"{i:020x}", f"c{i}", "hand", str(i), f"{i}.png"), strict=True):
            frame[name].append(value)
    n = len(pictures)
    frame = pd.DataFrame(frame | {"label": [i % 7 for i in range(n)], "split": ["train"] * n, "val_role": [""] * n})
    if boxes is not None:
        frame[["bbox_top", "bbox_left", "bbox_bottom", "bbox_right"]] = np.asarray(boxes, float)
    return Manifest(frame, {"root": str(folder)}, None)


def broken_copy(rows, folder, missing=(), garbled=()):
    """The same rows over a copy of their images in which some are missing or broken."""
    for i, path in enumerate(rows.frame["image_path"]):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if i not in missing:
            target.write_bytes(b"no picture" if i in garbled else rows.resolve(path).read_bytes())
    return Manifest(rows.frame, {**rows.meta, "root": str(folder)}, None)


def test_a_pack_holds_the_contracts_faces_in_row_order(rows, tmp_path):
    with watched_steps() as records:
        pack = open_or_build(rows, CONTRACT, tmp_path)
    assert pack.faces.shape == (len(rows), SIDE, SIDE, 3) and pack.faces[:].dtype == np.uint8
    for face, path in zip(pack.faces, rows.frame["image_path"], strict=True):
        assert np.array_equal(face, CONTRACT.face(decode(rows.resolve(path))))
    assert pack.n_expected == len(rows) == len(pack.manifest) and pack.without_points == 0
    assert counts(records) == [(0, len(rows)), (len(rows), len(rows))]
    with pytest.raises(TypeError, match="item assignment"):
        pack.faces[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        pack.faces.compact(0)[...] = 0
    assert np.array_equal(pack.faces[:][[2, 0]], pack.faces[[2, 0]])
    mask = np.arange(len(rows)) % 3 == 1
    assert np.array_equal(pack.faces[mask], pack.faces[1::3]) and np.array_equal(
        pack.faces[-1], pack.faces[len(rows) - 1]
    )
    with pytest.raises(IndexError):
        pack.faces[len(rows)]


def test_a_pack_is_synced_before_it_is_renamed(rows, tmp_path, disk_calls):
    (tmp_path / "cache").mkdir()
    open_or_build(rows, CONTRACT, tmp_path / "cache")
    [pack] = [p.name for p in (tmp_path / "cache").iterdir() if p.is_dir()]
    assert disk_calls(tmp_path / "cache") == [
        f"fsync {pack}/faces.u8", f"fsync {pack}/faces.jsonl", f"fsync {pack}", f"rename {pack}", "fsync .",
    ]  # fmt: skip


def test_a_pack_is_built_once(rows, tmp_path, monkeypatch):
    first = open_or_build(rows, CONTRACT, tmp_path)
    monkeypatch.setattr(cropping, "decode", lambda path: pytest.fail(f"decoded {path} again"))
    again = open_or_build(rows, CONTRACT, tmp_path)
    assert np.array_equal(first.faces, again.faces)
    other_stats = CONTRACT.model_copy(update={"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)})
    shared = open_or_build(rows, other_stats, tmp_path)
    assert np.array_equal(first.faces, shared.faces) and shared.contract == other_stats


@pytest.mark.parametrize("change", [{"image_size": 40}, {"clahe": True}, {"grey": True}, {"margin": 0.1}])
def test_another_contract_makes_another_pack(rows, tmp_path, change):
    open_or_build(rows, CONTRACT, tmp_path)
    changed = CONTRACT.model_copy(update=change)
    pack = open_or_build(rows, changed, tmp_path)
    assert len(list(tmp_path.glob("pack-*"))) == 2
    assert np.array_equal(pack.faces[3], changed.face(decode(rows.resolve(rows.frame["image_path"][3]))))


def test_another_version_of_the_contracts_code_makes_another_pack(rows, tmp_path, monkeypatch):
    open_or_build(rows, CONTRACT, tmp_path)
    monkeypatch.setattr(facepack, "CONTRACT_VERSION", facepack.CONTRACT_VERSION + 1)
    open_or_build(rows, CONTRACT, tmp_path)
    assert len(list(tmp_path.glob("pack-*"))) == 2


def test_the_same_rows_in_another_order_keep_their_own_faces(rows, tmp_path):
    straight = open_or_build(rows, CONTRACT, tmp_path)
    turned = Manifest(rows.frame.iloc[::-1], rows.meta, rows.path)
    assert turned.sha256 == rows.sha256  # the hash of the rows does not see their order
    assert np.array_equal(open_or_build(turned, CONTRACT, tmp_path).faces, straight.faces[::-1])


@pytest.mark.parametrize("name", facepack.LIBRARIES)
def test_another_version_of_a_decoding_library_makes_another_pack(rows, tmp_path, monkeypatch, name):
    open_or_build(rows, CONTRACT, tmp_path)
    monkeypatch.setitem(facepack.LIBRARIES, name, "0.0.1")
    open_or_build(rows, CONTRACT, tmp_path)
    assert len(list(tmp_path.glob("pack-*"))) == 2


def test_unusable_images_are_named_and_no_pack_is_left(rows, tmp_path):
    broken = broken_copy(rows, tmp_path / "pictures", missing=range(1, 12), garbled=[12])
    with pytest.raises(DataError, match=rf"12 of {len(rows)} images can't be used \(tolerance 0\)") as caught:
        open_or_build(broken, CONTRACT, tmp_path / "cache")
    lines = str(caught.value).splitlines()
    assert [path in line for line, path in zip(lines[1:11], broken.frame["image_path"][1:11], strict=True)] == [
        True
    ] * 10
    assert lines[11].startswith("restore the files"), "the first ten only"
    assert not [p for p in (tmp_path / "cache").iterdir() if p.is_dir()]


def test_very_thin_images_are_packed(tmp_path):
    manifest = by_hand(tmp_path, np.random.default_rng(0).integers(0, 256, (4, 60, 40, 3), dtype=np.uint8))
    for name, size in (("1.png", (3_000_000, 1)), ("2.png", (1, 3_000_000))):
        Image.new("RGB", size, (90, 120, 30)).save(tmp_path / name)
    for kind in ("faces", "none"):
        pack = open_or_build(manifest, CONTRACT, tmp_path / "cache", kind=kind)
        assert len(pack.manifest) == 4 and (pack.faces[1:3] == (90, 120, 30)).all()
    assert quality.measure(manifest)["box_px"].tolist() == [40, 1, 1, 40]
    assert hashes.hash_manifest(manifest).area.tolist() == [2400, 3_000_000, 3_000_000, 2400]
    assert (sheets.face_tile(manifest, manifest.frame.iloc[1]) == (90, 120, 30)).all()
    assert sheets.steps_page(manifest, CONTRACT, manifest.frame).axes


def test_a_tolerance_leaves_rows_out_and_counts_them(rows, tmp_path):
    broken = broken_copy(rows, tmp_path / "pictures", missing=[2], garbled=[5])
    with pytest.raises(DataError, match="tolerance 1"):
        open_or_build(broken, CONTRACT, tmp_path / "cache", tolerance=1)
    pack = open_or_build(broken, CONTRACT, tmp_path / "cache", tolerance=2)
    usable = [s for i, s in enumerate(rows.sample_ids) if i not in (2, 5)]
    assert pack.manifest.sample_ids == usable and pack.n_expected == len(rows)
    whole = open_or_build(rows, CONTRACT, tmp_path / "cache")
    assert np.array_equal(pack.faces, np.delete(whole.faces, [2, 5], axis=0))


@pytest.mark.parametrize("kind", ["faces", "none"])
def test_too_many_failures_stop_at_once_and_are_retried(rows, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(facepack_writer, "CHUNK", 4)
    broken = broken_copy(rows, tmp_path / "pictures", missing=[2, 9, 10])
    made, real = [], cropping.decode
    monkeypatch.setattr(cropping, "decode", lambda path: (made.append(path), real(path))[1])

    def build(tolerance, cache="cache"):
        made.clear()
        return open_or_build(broken, CONTRACT, tmp_path / cache, tolerance, kind=kind)

    with pytest.raises(DataError, match=rf"1 of the first 4 of {len(rows)} images can't be used \(tolerance 0\)"):
        build(0)
    assert len(made) == 4 and not list((tmp_path / "cache").glob("pack-*")), "nothing was good, nothing is left"
    message = rf"3 of the first 12 of {len(rows)} images .*the same call then continues the pack"
    with pytest.raises(DataError, match=f"(?s){message}"):
        build(1)
    assert len(made) == 12
    with pytest.raises(DataError, match="3 of the first 12"):
        build(1)
    assert len(made) == 5, "the chunk that failed, and the row that the tolerance had let pass"
    restore(broken, rows, [9])
    assert build(2, "other").n_expected - 2 == len(build(2, "other").faces)
    restore(broken, rows, [2, 10])
    assert len(build(1).faces) == len(rows)
    assert len(made) == len(rows) + 1, "the healed row's chunk, and all after it"
    assert np.array_equal(build(1).faces, open_or_build(rows, CONTRACT, tmp_path / "whole", 1, kind=kind).faces)


def problems_of(cache):
    """(row, problem) of each unusable row of the only pack in ``cache``."""
    [file] = cache.glob("pack-*/faces.jsonl")
    entries = [entry for line in file.read_text().splitlines() for entry in json.loads(line)[1]]
    return [(i, problem) for i, (*_, problem) in enumerate(entries) if problem]


def restore(broken, rows, numbers):
    for path in broken.frame["image_path"].iloc[numbers]:
        broken.resolve(path).write_bytes(rows.resolve(path).read_bytes())


def test_every_opening_warns_of_rows_that_a_tolerance_left_out(rows, tmp_path, caplog):
    """A pack stays as it was made, or a resumed training would see other rows; nobody is left to guess."""
    broken = broken_copy(rows, tmp_path / "pictures", missing=[2], garbled=[5])
    first, second = broken.frame["image_path"][2], broken.frame["image_path"][5]
    for _ in range(2):
        caplog.clear()
        assert len(open_or_build(broken, CONTRACT, tmp_path / "cache", tolerance=2).faces) == len(rows) - 2
        [line] = [r.getMessage() for r in caplog.records]
        assert f"leaves out 2 of {len(rows)} images" in line and first in line and "delete that folder" in line
        restore(broken, rows, [2])
    folder = next((tmp_path / "cache").glob("pack-*"))
    assert str(folder) in line
    left_out = problems_of(tmp_path / "cache")
    assert [i for i, _ in left_out] == [2, 5] and first in left_out[0][1] and second in left_out[1][1]
    shutil.rmtree(folder)
    assert len(open_or_build(broken, CONTRACT, tmp_path / "cache", tolerance=2).faces) == len(rows) - 1


def test_a_box_outside_its_image_names_the_image(tmp_path):
    pictures = [np.full((30, 30, 3), 90, np.uint8)] * 2
    manifest = by_hand(tmp_path / "p", pictures, boxes=[(2, 2, 20, 20), (50, 50, 60, 60)])
    with pytest.raises(DataError, match=r"1\.png: box .* lies outside"):
        open_or_build(manifest, CONTRACT, tmp_path)


def test_boxes_are_cut(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    boxes = [(5, 10, 45, 50), (-5, -5, 30, 30)]
    pack = open_or_build(by_hand(tmp_path / "p", [picture] * 2, boxes), CONTRACT, tmp_path)
    assert all(np.array_equal(f, CONTRACT.face(picture, b)) for f, b in zip(pack.faces, boxes, strict=True))


@pytest.mark.parametrize("damage", ["short", "long"])
def test_a_pack_of_the_wrong_size_is_refused(rows, tmp_path, damage):
    open_or_build(rows, CONTRACT, tmp_path)
    file = next(tmp_path.glob("pack-*/faces.u8"))
    file.write_bytes(file.read_bytes()[:-1] if damage == "short" else file.read_bytes() + b"\0")
    with pytest.raises(DataError, match="has the wrong size .* delete that folder and it is made again"):
        open_or_build(rows, CONTRACT, tmp_path)


@pytest.mark.parametrize("damage", ["cut short", "garbage", "empty", "a row left out", "a field less", "a line less"])
def test_a_damaged_index_is_refused(rows, tmp_path, monkeypatch, damage):
    monkeypatch.setattr(facepack_writer, "CHUNK", 4)
    open_or_build(rows, CONTRACT, tmp_path)
    file = next(tmp_path.glob("pack-*/faces.jsonl"))
    whole = file.read_bytes()
    crc, entries = json.loads(whole.splitlines()[0])
    less = json.dumps([crc, [entry[:-1] for entry in entries]]).encode() + b"\n"
    file.write_bytes(
        {
            "cut short": whole[:-5], "garbage": b"\xff\x00{]", "empty": b"", "a field less": less + whole,
            "a row left out": whole.replace(b'""', b'"x"', 1),
            "a line less": b"".join(whole.splitlines(keepends=True)[:-1]),
        }[damage]
    )  # fmt: skip
    with pytest.raises(DataError, match=r"face pack .*pack-\w+: its faces\.jsonl was changed .*; delete that folder"):
        open_or_build(rows, CONTRACT, tmp_path)
    shutil.rmtree(file.parent)
    assert len(open_or_build(rows, CONTRACT, tmp_path).faces) == len(rows), "as the message says"


SURPLUS = [0, checksum(np.empty(0, np.uint8)), None, "gone"]
FOREIGN = {  # entries that no build writes
    "type": ["3", 0, None, ""], "channels": [2, 0, None, ""], "negative": [-3, 0, None, ""],
    "huge": [10**30, 0, None, ""], "checksum": [3, -1, None, ""], "NaN": [3, math.nan, None, ""],
    "points": [3, 0, [[0.5, 0.5]], ""], "infinite points": [3, 0, [[math.inf, 0.5]] * 5, ""],
    "nested": [[[3]], 0, None, ""], "problem": [0, 0, None, 7], "no pixels": [0, 0, None, ""],
    "mapping": {"channels": 3}, "nothing": None,
}  # fmt: skip


@pytest.mark.parametrize("entry", [*FOREIGN.values(), SURPLUS], ids=[*FOREIGN, "not tolerated"])
def test_an_index_of_foreign_values_is_refused_whatever_its_checksum(rows, tmp_path, entry):
    open_or_build(rows, CONTRACT, tmp_path)
    file = next(tmp_path.glob("pack-*/faces.jsonl"))
    [line] = file.read_bytes().splitlines()
    entries = json.loads(line)[1]
    entries[1] = entry
    file.write_bytes(facepack_writer._line(entries))
    with pytest.raises(DataError, match=r"face pack .*pack-\w+: its faces\.jsonl was changed .*; delete that folder"):
        open_or_build(rows, CONTRACT, tmp_path)


@pytest.mark.parametrize("line", [b"[" * 100_000, b"5\n", b"{}\n", b"[]\n", b"[0,0]\n", b"[null,[]]\n"], ids=len)
def test_an_index_of_another_form_is_refused(rows, tmp_path, line):
    open_or_build(rows, CONTRACT, tmp_path)
    file = next(tmp_path.glob("pack-*/faces.jsonl"))
    file.write_bytes(line + file.read_bytes())
    with pytest.raises(DataError, match=r"its faces\.jsonl was changed"):
        open_or_build(rows, CONTRACT, tmp_path)


@pytest.mark.parametrize("entry", [*FOREIGN.values(), SURPLUS], ids=[*FOREIGN, "surplus"])
def test_an_unfinished_pack_is_continued_before_entries_that_no_build_writes(rows, tmp_path, entry):
    """The last of them is sound, but the manifest has no row for it."""
    whole = open_or_build(rows, CONTRACT, tmp_path)
    folder = next(tmp_path.glob("pack-*"))
    pixels = whole.faces[:]
    partial = folder.rename(facepack_writer.partial_folder(folder))
    with open(partial / "faces.jsonl", "ab") as index:
        index.write(facepack_writer._line([entry] * 3))
    assert np.array_equal(open_or_build(rows, CONTRACT, tmp_path).faces[:], pixels)


@pytest.mark.parametrize("name", ["faces.u8", "faces.jsonl"])
def test_a_pack_without_one_of_its_files_is_refused(rows, tmp_path, name):
    open_or_build(rows, CONTRACT, tmp_path)
    next(tmp_path.glob(f"pack-*/{name}")).unlink()
    with pytest.raises(DataError, match=rf"{name} cannot be read \(No such file.*\); delete that folder"):
        open_or_build(rows, CONTRACT, tmp_path)


def test_tampered_pixels_are_refused(rows, tmp_path):
    """Damage to many faces when the pack is opened, to a single one at the latest when it is read."""
    many = twice_over(rows, 40)
    open_or_build(many, CONTRACT, tmp_path)
    file = next(tmp_path.glob("pack-*/faces.u8"))
    whole = file.read_bytes()
    size = len(whole) // len(many)
    damaged = bytearray(whole)
    damaged[6 * size + 100] ^= 1
    file.write_bytes(damaged)
    one = open_or_build(many, CONTRACT, tmp_path)
    assert np.array_equal(one.faces[8], CONTRACT.face(decode(many.resolve(many.frame["image_path"][8]))))
    with pytest.raises(DataError, match="face 6 is not what was written there; delete that folder"):
        one.faces[6]
    file.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))  # a file never filled
    with pytest.raises(DataError, match="is not what was written there"):
        open_or_build(many, CONTRACT, tmp_path)


def twice_over(rows, n):
    """``n`` rows over the same images under other names."""
    frame = pd.concat([rows.frame] * (n // len(rows) + 1), ignore_index=True).iloc[:n]
    frame["sample_id"] = [f"{i:020x}" for i in range(n)]
    return Manifest(frame, {**rows.meta, "root": str(rows.root)}, None)


class Interrupted(Exception):
    pass


def interrupt_after(rows_done):
    def progress(done, total):
        if done >= rows_done:
            raise Interrupted

    return progress


DAMAGE = ("none", "half a chunk more", "half a line more", "pixels lost", "pixels changed")
DAMAGE += ("garbage after", "garbage between", "another chunk's entries", "index lost")


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("kind", ["faces", "none"])
def test_an_interrupted_build_continues(rows, tmp_path, monkeypatch, kind, damage):
    monkeypatch.setattr(facepack_writer, "CHUNK", 8)
    many = twice_over(rows, 50)
    whole = open_or_build(many, CONTRACT, tmp_path / "whole", kind=kind)
    with pytest.raises(Interrupted):
        with watched_steps(interrupt_after(24)):
            open_or_build(many, CONTRACT, tmp_path / "cut", kind=kind)
    partial = next((tmp_path / "cut").glob("pack-*.partial"))
    done_rows = damage_partial(partial, damage, 24)
    made, real = [], cropping.decode
    monkeypatch.setattr(cropping, "decode", lambda path: (made.append(path), real(path))[1])
    with watched_steps() as records:
        again = open_or_build(many, CONTRACT, tmp_path / "cut", kind=kind)
    calls = counts(records)
    assert calls[:2] == [(done_rows, 50), (done_rows + 8, 50)] and calls[-1] == (50, 50)
    assert records[0]["first"] == done_rows and len(made) == 50 - done_rows
    assert not partial.exists()
    for name in ("faces.u8", "faces.jsonl"):
        first, second = (next((tmp_path / d).glob(f"pack-*/{name}")).read_bytes() for d in ("whole", "cut"))
        assert first == second, name
    assert np.array_equal(whole.faces, again.faces)


def damage_partial(partial, damage, done):
    """What a kill or a lost disk block leaves of three chunks of eight rows; how many rows must be kept of it."""
    faces, index = partial / "faces.u8", partial / "faces.jsonl"
    pixels, lines = faces.read_bytes(), index.read_bytes().splitlines(keepends=True)
    if damage == "half a chunk more":
        faces.write_bytes(pixels + b"z" * 5000)
    if damage == "half a line more":
        index.write_bytes(b"".join(lines) + lines[0][:40])
    if damage == "garbage after":
        index.write_bytes(b"".join(lines) + b"\xff{]\n" + b"{}\n")
    if damage == "garbage between":
        index.write_bytes(lines[0] + b"garbage\n" + b"".join(lines[1:]))
        return 8
    if damage == "another chunk's entries":
        index.write_bytes(b"".join(lines[:2]) + lines[2].replace(b"[[", b'[[1,1,null,""],[', 1))
        return 16
    if damage == "index lost":
        index.unlink()
        return 0
    if damage == "pixels lost" and pixels:  # a pack without pixels has none to lose
        faces.write_bytes(pixels[: len(pixels) * 2 // 3 + 10])
        return 16
    if damage == "pixels changed" and pixels:
        middle = len(pixels) // 2
        faces.write_bytes(pixels[:middle] + bytes([pixels[middle] ^ 4]) + pixels[middle + 1 :])
        return 8
    return done


def test_two_threads_that_start_together_build_once(rows, tmp_path, monkeypatch):
    real, calls = facepack.build_pack, []
    monkeypatch.setattr(facepack, "build_pack", lambda *a: (calls.append(1), real(*a)))
    packs = []
    pair = [threading.Thread(target=lambda: packs.append(open_or_build(rows, CONTRACT, tmp_path))) for _ in range(2)]
    [t.start() for t in pair]
    [t.join() for t in pair]
    assert len(calls) == 1 and np.array_equal(packs[0].faces, packs[1].faces)


def test_a_full_disk_is_reported_before_the_build(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(DataError, match="GB, .* has 0.0 GB: use pack: none .* free some space"):
        open_or_build(rows, CONTRACT, tmp_path)
    assert not [p for p in tmp_path.iterdir() if p.is_dir()]
    assert len(open_or_build(rows, CONTRACT, tmp_path, kind="none").faces) == len(rows)


def test_required_space_is_estimated_from_sample_faces(rows, tmp_path, monkeypatch):
    """Grey faces need a third; what is done already counts as room."""
    many, large = twice_over(rows, 40), FaceContract(image_size=224)

    def free(n):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": n})())

    free(sum(decode(rows.resolve(p)).size for p in many.frame["image_path"]))
    with pytest.raises(DataError, match=r"40 faces at 258 px: needs 0\.0 GB"):
        open_or_build(many, large, tmp_path)
    free(40 * 258**2)
    assert len(open_or_build(many, large.model_copy(update={"grey": True}), tmp_path).faces) == 40
    monkeypatch.setattr(facepack_writer, "CHUNK", 8)
    free(40 * SIDE**2 * 3)
    with pytest.raises(Interrupted):
        with watched_steps(interrupt_after(32)):
            open_or_build(many, CONTRACT, tmp_path)
    free(8 * SIDE**2 * 3)
    assert len(open_or_build(many, CONTRACT, tmp_path).faces) == 40


def test_required_space_of_all_splits_is_checked_before_the_first_face(rows, drawn_manifest, tmp_path, monkeypatch):
    val, free = drawn_manifest.rows(split="val"), {"free": 0}
    each, total = SIDE**2 * 3, len(rows) + len(val)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), free)())
    free["free"] = total * each - 1
    for wanted, later in (((rows, val), ()), ((rows,), (val,))):
        with pytest.raises(DataError, match=rf"face packs of {len(rows)} \+ {len(val)} faces at .*pack: none"):
            check_room(wanted, CONTRACT, tmp_path / "no" / "cache", 0, "faces", later)
    assert not (tmp_path / "no").exists()
    check_room((rows, val), CONTRACT, tmp_path, 0, "none")
    free["free"] += 1
    check_room((rows, val), CONTRACT, tmp_path, 0, "faces")
    open_or_build(rows, CONTRACT, tmp_path)
    free["free"] = len(val) * each
    check_room((rows, val), CONTRACT, tmp_path, 0, "faces")
    free["free"] = 0
    check_room((rows,), CONTRACT, tmp_path, 0, "faces", later=(val,))  # nothing is made now
    opened, real = [], cropping.decode
    monkeypatch.setattr(cropping, "decode", lambda path: (opened.append(path), real(path))[1])
    turned = Manifest(rows.frame.iloc[::-1], rows.meta, rows.path)
    with pytest.raises(DataError, match=r"face packs of \d+ \+ \d+ faces"):
        check_room((val,), CONTRACT, tmp_path, 0, "faces", later=(turned,))
    assert opened and set(opened) <= {val.resolve(p) for p in val.frame["image_path"]}, "later rows are only counted"


# ---------------------------------------------------------------- the two kinds


def mixed(tmp_path):
    """Images smaller than R, of R and larger, colour and grey, whole and boxes; some boxes leave their photo."""
    rng = np.random.default_rng(4)

    def picture(height, width, grey):
        noise = cv2.GaussianBlur(rng.normal(128, 120, (height, width, 3)), (0, 0), 1.5)
        colour = np.clip((noise - 128) * 4 + 128, 0, 255).astype(np.uint8)
        return np.repeat(colour[..., :1], 3, axis=2) if grey else colour

    pictures, boxes = [], []
    for grey in (False, True):
        for side in (9, 36, 37, 38, 48, 74, 200):
            pictures.append(picture(side, side, grey))
            boxes.append((np.nan,) * 4)
        for box in ((5, 10, 25, 30), (10, 20, 110, 120), (-6, -4, 20, 22), (60, 80, 97, 117)):
            pictures.append(picture(120, 160, grey))
            boxes.append(box)
    return by_hand(tmp_path / "p", pictures, boxes)


@pytest.mark.parametrize("change", [{}, {"clahe": True}, {"grey": True}, {"clahe": True, "grey": True, "margin": 0.2}])
def test_every_kind_gives_the_contracts_pixels(tmp_path, change):
    manifest, contract = mixed(tmp_path), FaceContract(image_size=32, **change)
    straight = [
        contract.face(decode(manifest.resolve(row["image_path"])), box_of(row))
        for row in manifest.frame.to_dict("records")
    ]
    for kind in ("faces", "none"):
        pack = open_or_build(manifest, contract, tmp_path, kind=kind)
        assert np.array_equal(pack.faces, straight)
        channels = [pack.faces.compact(i).shape[2] for i in range(len(straight))]
        assert channels == ([1] * 22 if contract.grey else [3] * 11 + [1] * 11)
    sizes = sorted(f.stat().st_size for f in tmp_path.glob("pack-*/faces.u8"))
    assert sizes == [0, SIDE**2 * sum(channels)]


def test_a_run_file_with_a_dropped_kind_gets_one_message():
    with pytest.raises(ParamsError) as error:
        validate(TeacherParams, {"pack": "native"}, "stage_a")
    assert str(error.value) == "phase 'stage_a': key 'pack': Input should be 'faces' or 'none', got 'native'"


def test_grey_images_are_one_array_of_one_channel_on_disk(tmp_path):
    grey = [np.full((48, 48, 3), v, np.uint8) + np.arange(48, dtype=np.uint8)[:, None, None] for v in range(5)]
    pack = open_or_build(by_hand(tmp_path / "p", grey), CONTRACT, tmp_path)
    stored = np.fromfile(next(tmp_path.glob("pack-*/faces.u8")), np.uint8).reshape(5, SIDE, SIDE, 1)
    assert np.array_equal(np.repeat(stored, 3, axis=3), pack.faces)


def test_kind_none_finds_unusable_images_first(rows, tmp_path):
    broken = broken_copy(rows, tmp_path / "pictures", missing=[2], garbled=[5])
    with pytest.raises(DataError, match=r"2 of \d+ images can't be used"):
        open_or_build(broken, CONTRACT, tmp_path / "cache", kind="none")
    pack = open_or_build(broken, CONTRACT, tmp_path / "cache", tolerance=2, kind="none")
    assert pack.manifest.sample_ids == [s for i, s in enumerate(rows.sample_ids) if i not in (2, 5)]
    path = rows.frame["image_path"][4]
    assert np.array_equal(pack.faces[3], CONTRACT.face(decode(rows.resolve(path))))
    (tmp_path / "pictures" / path).unlink()
    with pytest.raises(DataError, match="cannot be read"):
        pack.faces[3]


def test_rows_without_any_usable_image(rows, tmp_path):
    broken = broken_copy(rows, tmp_path / "pictures", missing=range(len(rows)))
    for kind in ("faces", "none"):
        pack = open_or_build(broken, CONTRACT, tmp_path / "cache", tolerance=len(rows), kind=kind)
        assert pack.faces[:].shape == (0, SIDE, SIDE, 3) and pack.n_expected == len(rows)


@pytest.mark.parametrize("size", [1, 511, 512, 513, 37 * 37, 37 * 37 * 3])
def test_a_checksum_detects_disk_errors(size):
    rng = np.random.default_rng(size)
    pixels = rng.integers(0, 256, size, dtype=np.uint8)
    original = checksum(pixels)
    assert original != checksum(np.append(pixels, np.uint8(0)))
    for _ in range(50):
        changed = pixels.copy()
        changed[rng.integers(size)] ^= rng.integers(1, 256, dtype=np.uint8)
        assert checksum(changed) != original
    if size > 1024:
        assert original not in (checksum(np.roll(pixels, 64)), checksum(pixels[::-1].copy()))
        assert original != checksum(np.where(np.arange(size) < size // 2, pixels, 0).astype(np.uint8))
        for length in (1, 8, 64, size // 4):
            for _ in range(50):  # exchanged stretches, near each other and far apart
                first, second = sorted(rng.choice(np.arange(0, size - length, 8), 2, replace=False))
                changed, n = pixels.copy(), min(length, second - first)
                changed[first : first + n] = pixels[second : second + n]
                changed[second : second + n] = pixels[first : first + n]
                assert (checksum(changed) != original) == (not np.array_equal(changed, pixels))
    unaligned = np.frombuffer(b"abc" + pixels.tobytes(), np.uint8)[3:]
    assert checksum(unaligned) == original


# ---------------------------------------------------------------- eyes level

EYES = FaceContract(image_size=96, align="eyes", margin=0.1)


@pytest.fixture(scope="module")
def heads(shared_data):
    """Two frames of one face, each turned by 25 degrees either way: uint8 images and the planted degrees."""
    with Image.open(shared_data / "media" / "head-pose-face-detection-male.gif") as clip:
        frames = [np.asarray(f.convert("RGB")) for f in ImageSequence.Iterator(clip)][:40:39]
    turned = []
    for frame in frames:
        middle = (frame.shape[1] / 2, frame.shape[0] / 2)
        for degrees in (-25.0, 25.0):
            matrix = cv2.getRotationMatrix2D(middle, degrees, 1.0)
            turned.append(cv2.warpAffine(frame, matrix, frame.shape[1::-1], borderMode=cv2.BORDER_REPLICATE))
    return turned


@pytest.fixture
def yunet(shared_data, monkeypatch):
    monkeypatch.setenv("FER_YUNET", str(shared_data / "models" / YUNET_FILE))
    return get_detector("yunet")


def tilt(detector, face):
    return abs(eye_angle(detector.detect(face)[0].points))


def test_tilted_heads_are_packed_upright(heads, yunet, tmp_path):
    boxes = [yunet.detect(h, refine=False)[0].box for h in heads]
    manifest = by_hand(tmp_path / "p", heads, boxes)
    level = open_or_build(manifest, EYES, tmp_path)
    plain = open_or_build(manifest, EYES.model_copy(update={"align": "none"}), tmp_path)
    assert level.without_points == 0
    assert min(tilt(yunet, f) for f in plain.faces) > 15
    assert max(tilt(yunet, f) for f in level.faces) < 6


def test_images_without_a_box_or_a_face(heads, yunet, tmp_path):
    box = yunet.detect(heads[0], refine=False)[0].box
    crop = FaceContract(image_size=160).face(heads[0], box)  # 184 pixels of nothing but the head
    grey = np.full((100, 100, 3), 127, np.uint8)
    manifest = by_hand(tmp_path / "p", [crop, grey, crop])
    pack = open_or_build(manifest, EYES, tmp_path)
    assert pack.without_points == 1 and len(pack.faces) == 3
    assert tilt(yunet, pack.faces[0]) < 6 < 15 < tilt(yunet, crop)
    assert np.array_equal(pack.faces[1], EYES.face(grey))
    assert open_or_build(manifest, EYES, tmp_path).without_points == 1, "read from the pack"


def test_a_box_uses_the_landmarks_of_its_own_face(shared_data, yunet, tmp_path):
    with Image.open(shared_data / "media" / "head-pose-face-detection-female-and-male.gif") as clip:
        frame = np.asarray(next(ImageSequence.Iterator(clip)).convert("RGB"))
    faces = yunet.detect(frame)
    assert len(faces) == 2
    pack = open_or_build(by_hand(tmp_path / "p", [frame] * 2, [f.box for f in faces]), EYES, tmp_path)
    for packed, face in zip(pack.faces, faces, strict=True):
        assert np.abs(find_points(frame, face.box, yunet) - face.points).max() < 4, "pixels of the image"
        expected = EYES.face(frame, face.box, face.points).astype(float)
        assert np.abs(packed - expected).mean() < 8, "cut as by the points that the whole photo gives"


def test_prediction_aligns_an_image_like_a_pack(heads, yunet, tmp_path):
    config = dict(backbone="test_resnet", image_size=96, embed_dim=8, dropout=0.0, head="linear", s=1.0)
    bundle = write_bundle(
        tmp_path / "b", name="b", kind="student", model_config=config,
        state_dict=build_classifier(config).state_dict(), contract=EYES, temperature=None,
        training_prior=[1 / 7] * 7, ids={}, metrics={},
    )  # fmt: skip
    boxes = [yunet.detect(h, refine=False)[0].box for h in heads]
    pack = open_or_build(by_hand(tmp_path / "p", heads, boxes), EYES, tmp_path)
    inputs = []
    for detector in ("yunet", "haar"):
        predictor = Predictor(bundle, detector=detector)
        predictor._members = [(EYES, lambda faces: inputs.append(faces) or np.zeros((len(faces), 7)))]
        predictor.logits(heads, boxes)
    packed = EYES.normalise(np.ascontiguousarray(EYES.centre(pack.faces[:])))
    assert all(np.array_equal(faces, packed) for faces in inputs) and len(inputs) == 2


def test_a_missing_yunet_model_is_named(rows, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.WARNING)
    monkeypatch.setenv("FER_YUNET", str(tmp_path / "nowhere.onnx"))
    with pytest.raises(FerError, match="detector's file .*nowhere.onnx cannot be read"):
        open_or_build(rows, FaceContract(image_size=32, align="eyes"), tmp_path / "cache")
    assert not [p for p in (tmp_path / "cache").iterdir() if p.is_dir()] and not caplog.records
