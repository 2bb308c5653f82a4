"""What of a session may be learned from: the rules read independently, the pixels, every way to be left out."""

import json
import math
import shutil

import cv2
import numpy as np
import pytest
from session_factory import FPS, HEAD
from typer.testing import CliRunner

from fer_lib.adapt.buffer import REPORT, TABLE, read_report, surroundings, write_buffer
from fer_lib.adapt.selection import KINDS, REASONS, counts_by_class, select_frames
from fer_lib.datasets.facepack import open_or_build
from fer_lib.datasets.manifest import Manifest
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError, ParamsError
from fer_lib.faces.contract import FaceContract
from fer_lib.faces.detectors import Face
from fer_lib.live import session_files
from fer_lib.live.log import SessionLog
from fer_lib.live.recording import VideoFile, raw_video_folder
from fer_lib.live.session_files import FrameRecord, Frames, write_session
from fer_lib.live.sessions import session_id
from fer_lib.params import BufferParams, SmoothingParams

SIZE = (161, 121)  # width and height, both odd: the recorder pads them
CAP0 = BufferParams(cap=0)


def frames_of(probs, pred=None, manual=None, fps=FPS):
    probs = np.asarray(probs, np.float64)
    n = len(probs)
    top = np.where(np.isnan(probs).any(1), -1, np.nan_to_num(probs).argmax(1))
    pred = top if pred is None else np.asarray(pred)
    manual = np.full(n, -1) if manual is None else np.asarray(manual)
    frames = Frames(
        np.arange(n), np.arange(n) / fps, manual.astype(np.int8), pred.astype(np.int8), probs, "d", "m", "c", 0
    )
    return frames, manual.astype(np.int8), np.ones(n, bool)


def sure(label, p, low=None):
    """A distribution with ``p`` on ``label`` and the least on ``low``."""
    row = np.full(7, (1 - p) / 6)
    row[label] = p
    if low is not None:
        share = row[low] / 2
        row[low] -= share
        row[[k for k in range(7) if k not in (label, low)]] += share / 5
    return row


def kinds(chosen, n):
    out = [""] * n
    for at, kind in zip(chosen.position, chosen.kind, strict=True):
        out[at] = str(kind)
    return out


def test_the_thresholds_are_those_of_the_spec():
    p = [0.95, 0.90, 0.8999, 0.50, 0.4999]
    found, left_out = select_frames(*frames_of([sure(3, x, low=1) for x in p]), BufferParams(min_gap=1))
    assert kinds(found, 5) == ["positive", "positive", "negative", "negative", ""]
    assert found.label.tolist() == [3] * 4 and found.negative.tolist() == [-1, -1, 1, 1]
    assert found.p.tolist() == pytest.approx(p[:4]) and left_out["below"] == 1
    default = BufferParams()
    assert (default.positive, default.negative, default.min_gap, default.cap) == (0.90, 0.50, 10, 300)


def test_a_sure_frame_is_no_positive_unless_its_own_label_is_shown():
    """Unstable, Unknown, or a label that the average still holds from before."""
    rows = [sure(3, 0.97)] * 4
    found, left_out = select_frames(
        *frames_of(rows, pred=[3, session_files.UNSTABLE, session_files.UNKNOWN, 4]), BufferParams(min_gap=1)
    )
    assert kinds(found, 4) == ["positive", "", "", ""] and left_out["unstable"] == 3


def test_a_manual_label_that_disagrees_never_makes_a_positive():
    n = 60  # a segment of 2.4 s: 250 ms, seven frames, off each end do not count
    manual = np.full(n, 4)
    found, left_out = select_frames(*frames_of([sure(3, 0.97)] * n, manual=manual), BufferParams(min_gap=1))
    times = np.arange(n) / FPS
    inner = (times >= 0.25 - 1e-9) & (times <= times[-1] - 0.25 + 1e-9)
    assert kinds(found, n) == ["corrected" if i else "" for i in inner]
    assert set(found.label) == {4} and set(found.negative) == {3}, "it is not what was predicted"
    assert left_out["label_edge"] == (~inner).sum()
    agreed, _ = select_frames(*frames_of([sure(3, 0.97)] * n, manual=np.full(n, 3)), BufferParams(min_gap=1))
    assert kinds(agreed, n) == ["positive"] * n
    short = np.where(np.arange(n) < 10, 4, -1)  # 360 ms: no segment that counts, so nobody is believed
    found, left_out = select_frames(*frames_of([sure(3, 0.97)] * n, manual=short), BufferParams(min_gap=1))
    assert kinds(found, n)[:10] == [""] * 10 and set(kinds(found, n)[10:]) == {"positive"}


def test_a_manual_label_also_turns_an_unsure_answer():
    found, _ = select_frames(*frames_of([sure(3, 0.6, low=1)] * 60, manual=np.full(60, 4)), BufferParams(min_gap=1))
    assert set(found.kind) == {"corrected"} and set(found.negative) == {3}


def random_session(seed, n=700):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(7, 0.15), n)
    probs[rng.random(n) < 0.1] = np.nan
    manual = np.repeat(rng.integers(-1, 7, n // 35), 35)
    pred = np.where(rng.random(n) < 0.7, np.where(np.isnan(probs[:, 0]), -1, np.nan_to_num(probs).argmax(1)),
                    rng.integers(-2, 7, n))  # fmt: skip
    frames, truth, usable = frames_of(probs, pred, manual)
    return frames, truth, usable & (rng.random(n) > 0.05)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("p", [CAP0, BufferParams(cap=4, min_gap=3), BufferParams(positive=0.7, negative=0.3)])
def test_gap_cap_and_reckoning_hold_on_any_session(seed, p):
    frames, truth, usable = random_session(seed)
    found, left_out = select_frames(frames, truth, usable, p)
    assert len(found.position) and (np.diff(found.position) >= p.min_gap).all()
    assert set(left_out) == set(REASONS)
    assert sum(left_out.values()) + len(found.position) == len(truth), "every frame is a row or a count"
    top = np.nan_to_num(frames.probs[found.position]).argmax(1)
    if p.cap:
        for group in (found.kind == "positive", found.kind != "positive"):
            assert np.bincount(top[group], minlength=7).max() <= p.cap
    positive = found.kind == "positive"
    assert (found.label[positive] == frames.pred[found.position][positive]).all()
    assert (found.negative[positive] == -1).all() and (found.negative[~positive] >= 0).all()
    assert (found.negative != found.label).all(), "nobody is told to be and not to be one class"
    disagree = (truth[found.position] >= 0) & (truth[found.position] != top)
    assert not (disagree & positive).any() and (found.kind[disagree] == "corrected").all()
    assert usable[found.position].all() and counts_by_class(found).keys() == set(KINDS)
    again, _ = select_frames(frames, truth, usable, p)
    assert again.position.tolist() == found.position.tolist()


def test_the_choice_is_the_slow_one_of_a_plain_reading():
    """Greedy by certainty, kind after kind, written down again without any of the code under test."""
    p = BufferParams(cap=5, min_gap=6)
    frames, truth, usable = random_session(11)
    found, _ = select_frames(frames, truth, usable, p)
    believed = set()
    for label in range(7):
        run = []
        for i in [*range(len(truth)), None]:
            if i is not None and truth[i] == label:
                run.append(i)
                continue
            if run and frames.time_sec[run[-1]] - frames.time_sec[run[0]] >= 0.6 - 1e-6:
                ends = frames.time_sec[run[0]] + 0.25 - 1e-6, frames.time_sec[run[-1]] - 0.25 + 1e-6
                believed |= {j for j in run if ends[0] <= frames.time_sec[j] <= ends[1]}
            run = []
    pools = {kind: [] for kind in KINDS}
    for i, row in enumerate(frames.probs):
        if np.isnan(row).any() or not usable[i] or row.max() < p.negative:
            continue
        top = int(row.argmax())
        if truth[i] >= 0 and truth[i] != top:
            if i in believed:
                pools["corrected"].append((-row.max(), i, top))
        elif row.max() >= p.positive:
            if frames.pred[i] == top:
                pools["positive"].append((-row.max(), i, top))
        else:
            pools["negative"].append((row.min() - 1, i, top))
    taken, used = {}, {}
    for kind in ("positive", "corrected", "negative"):
        for _, i, top in sorted(pools[kind]):
            share = ("positive" if kind == "positive" else "other", top)
            if all(abs(i - j) >= p.min_gap for j in taken) and used.get(share, 0) < p.cap:
                taken[i] = kind
                used[share] = used.get(share, 0) + 1
    assert dict(zip(found.position.tolist(), map(str, found.kind), strict=True)) == taken


def recorded(folder, n=120, seed=0, keep=lambda i: True, record=True, off=False):
    """A session of a textured image that drifts, its face in it, written as the product writes it."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    noise = rng.integers(0, 256, (200, 260, 3), dtype=np.uint8)
    scene = cv2.resize(noise, (260, 200), interpolation=cv2.INTER_AREA)
    p = SmoothingParams()
    log = SessionLog(folder, HEAD, "2026-01-02T03:04:05+00:00", p, True)
    video = VideoFile(folder, session_files.RAW_VIDEO, SIZE, FPS, lossless=True) if record else None
    images, faces = {}, {}
    for i in range(n):
        images[i] = np.ascontiguousarray(scene[i % 60 : i % 60 + SIZE[1], i % 80 : i % 80 + SIZE[0]])
        left = 140.3 if off else 50.25 + i % 7
        faces[i] = Face((30.5 + i % 5, left, 80.25 + i % 5, left + 44.5), 0.9)
        label = (i // 40) % 7
        row = sure(label, 0.95 if i % 40 < 20 else 0.7, low=(label + 2) % 7)
        log.add(FrameRecord(i, i / FPS, -1, "key", label, row, faces[i] if i != 5 else None))
        if video is not None and keep(i):
            video.add(i, images[i])
    log.close()
    if video is not None:
        video.close()
    write_session(folder, {"input": "x", "smoothing": p.model_dump(), "size": list(SIZE)})
    return images, faces


def test_what_is_written_is_a_manifest_that_the_project_reads(tmp_path):
    images, faces = recorded(tmp_path / "one")
    manifest = write_buffer(tmp_path / "one", tmp_path / "out", BufferParams())
    frame, report = manifest.frame, read_report(tmp_path / "out")
    assert set(frame["split"]) == {"train"} and set(frame["val_role"]) == {""} and set(frame["source"]) == {"live"}
    positive = frame["neg_label"].isna()
    assert set(frame.loc[positive, "weight"]) == {1.0} and set(frame.loc[~positive, "weight"]) == {0.0}
    assert manifest.weights.tolist() == frame["weight"].tolist()
    assert manifest.negatives.tolist() == frame["neg_label"].fillna(-1).tolist()
    assert (~positive).any() and positive.any()
    index = frame["record"].str.rpartition("/")[2].astype(int)
    assert (index.sort_values().diff().dropna() >= 10).all()
    assert 5 not in set(index), "a frame without a face in faces.csv"
    assert (frame["label"] == (index // 40) % 7).all()
    assert (frame.loc[~positive, "neg_label"] == (frame["label"][~positive] + 2) % 7).all()
    assert frame["group"].nunique() == 1 and frame["group"].iloc[0] == "one/0", "stretches of 10 s"
    assert report["frames"] == 120 == len(frame) + sum(report["left_out"].values())
    assert report["left_out"]["not_recorded"] == 1 and report["session"] == str(tmp_path / "one")
    assert sum(sum(c.values()) for c in report["counts"].values()) == report["rows"] == len(frame)
    assert report["counts"]["positive"] == {
        e: int(((frame["label"] == i) & positive).sum()) for i, e in enumerate(EMOTIONS)
    }
    assert report["session_sha256"] == session_id(tmp_path / "one") and report["notes"] == []
    lines = (tmp_path / "out" / TABLE).read_text().splitlines()
    assert len(lines) == len(frame) + 1 and lines[0].startswith("frame_index,time_sec,kind")
    again = write_buffer(tmp_path / "one", tmp_path / "again", BufferParams())
    assert again.sha256 == manifest.sha256 and again.sample_ids == manifest.sample_ids
    over = write_buffer(tmp_path / "one", tmp_path / "out", BufferParams(cap=1))
    assert len(over) < len(manifest) and len(list((tmp_path / "out" / "faces").iterdir())) == len(over)
    shutil.move(tmp_path, tmp_path.with_name(tmp_path.name + "-moved"))
    moved = tmp_path.with_name(tmp_path.name + "-moved")
    assert Manifest.read(moved / "again" / "manifest.parquet").resolve(again.frame.iloc[0]).is_file()
    assert read_report(moved / "again")["session"] == str(moved / "one")
    shutil.move(moved, tmp_path)


@pytest.mark.parametrize("off", [False, True], ids=["inside", "over the edge"])
@pytest.mark.parametrize("margin", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("size", [32, 56])
def test_the_contract_cuts_the_pixels_that_the_session_saw(tmp_path, margin, size, off):
    """Bit for bit, whatever size and margin a model has, also where the square leaves the image."""
    images, faces = recorded(tmp_path / "one", n=45, off=off)
    manifest = write_buffer(tmp_path / "one", tmp_path / "out", BufferParams())
    contract = FaceContract(image_size=size, margin=margin)
    pack = open_or_build(manifest, contract, tmp_path / "cache")
    index = manifest.frame["record"].str.rpartition("/")[2].astype(int)
    assert len(index) >= 3
    for i, face in zip(index, pack.faces, strict=True):
        assert np.array_equal(face, contract.face(images[i], faces[i].box)), i


def test_the_surroundings_hold_the_square_of_every_margin_up_to_the_context():
    rng = np.random.default_rng(0)
    for _ in range(300):
        top, left = rng.uniform(-20, 90, 2)
        box = (top, left, top + rng.uniform(8, 60), left + rng.uniform(8, 60))
        context = float(rng.uniform(0, 1))
        found = surroundings((121, 161, 3), box, context)
        assert 0 <= found[0] < found[2] <= 121 and 0 <= found[1] < found[3] <= 161
        side = int(np.floor(max(box[2] - box[0], box[3] - box[1]) * (1 + 2 * context) + 0.5))
        corner = [int(np.floor((a + b - side) / 2 + 0.5)) for a, b in ((box[0], box[2]), (box[1], box[3]))]
        for low, high, at, end in zip(found[:2], found[2:], corner, (121, 161), strict=True):
            assert low <= max(0, at) and high >= min(end, at + side)


def test_frames_that_the_video_lacks_are_counted_and_others_take_their_place(tmp_path):
    recorded(tmp_path / "one", keep=lambda i: i % 2 == 0)
    manifest = write_buffer(tmp_path / "one", tmp_path / "out", BufferParams())
    index = manifest.frame["record"].str.rpartition("/")[2].astype(int)
    assert (index % 2 == 0).all() and read_report(tmp_path / "out")["left_out"]["not_recorded"] == 60


def test_a_list_that_is_longer_than_the_video_of_a_killed_session(tmp_path):
    images, faces = recorded(tmp_path / "one", keep=lambda i: i < 50)
    with open(tmp_path / "one" / session_files.RECORDED, "a") as file:
        file.write("".join(f"{i}\n" for i in range(50, 120)))
    manifest = write_buffer(tmp_path / "one", tmp_path / "out", BufferParams())
    index = manifest.frame["record"].str.rpartition("/")[2].astype(int)
    assert index.max() < 50 and read_report(tmp_path / "out")["left_out"]["not_recorded"] == 70 + 1
    assert len(list((tmp_path / "out" / "faces").iterdir())) == len(manifest)
    face = FaceContract(image_size=32)
    pack = open_or_build(manifest, face, tmp_path / "cache")
    assert np.array_equal(pack.faces[0], face.face(images[index.iloc[0]], faces[index.iloc[0]].box))


def test_a_replayed_session_is_buffered_with_the_pictures_of_the_original(tmp_path):
    recorded(tmp_path / "one")
    recorded(tmp_path / "two", record=False)
    write_session(tmp_path / "two", {"input": "x", "replay_of": "one", "size": list(SIZE)})
    assert raw_video_folder(tmp_path / "two", {"replay_of": "one"}) == tmp_path / "one"
    found = write_buffer(tmp_path / "two", tmp_path / "two" / "buffer", BufferParams())
    assert len(found) and found.frame["record"].str.startswith("two/").all()


def test_what_cannot_be_buffered_is_told(tmp_path):
    recorded(tmp_path / "one", record=False)
    with pytest.raises(
        DataError, match=r"holds no images to learn from \(raw.mkv is missing.* record it with fer live"
    ):
        write_buffer(tmp_path / "one", tmp_path / "out", BufferParams())
    write_session(tmp_path / "one", {"replay_of": "gone"})
    with pytest.raises(DataError, match="holds no images to learn from"):
        write_buffer(tmp_path / "one", tmp_path / "out", BufferParams())
    with pytest.raises(DataError, match="holds no live session"):
        write_buffer(tmp_path / "nothing", tmp_path / "out", BufferParams())
    recorded(tmp_path / "two")
    with pytest.raises(
        DataError, match="none of its frames can be learned from.*not_recorded 1, below 119.*0.99 or more"
    ):
        write_buffer(tmp_path / "two", tmp_path / "out", BufferParams(positive=1.0, negative=0.99))
    assert not (tmp_path / "out").exists(), "nothing half-made stays"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="mine exists and is no buffer"):
        write_buffer(tmp_path / "two", tmp_path / "mine", BufferParams())
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"
    with pytest.raises(DataError, match="no buffer.*fer live buffer SESSION"):
        read_report(tmp_path / "mine")


REPORT_VALUES = {"session": "../s", "session_sha256": "0" * 64, "counts": {"positive": {"Sad": 3}}}


@pytest.mark.parametrize("change", [{"session": 5}, {"session_sha256": ["x"]}, {"counts": [1, 2]}, {"counts": {"a": 5}},
                                    {"counts": {"a": {"Sad": "many"}}}, {"counts": {"a": {"Sad": -1}}},
                                    {"counts": {"a": {"Sad": math.nan}}}], ids=str)  # fmt: skip
def test_a_report_of_foreign_values_is_one_message(tmp_path, change):
    (tmp_path / REPORT).write_text(json.dumps(REPORT_VALUES))
    assert read_report(tmp_path)["counts"] == REPORT_VALUES["counts"]
    (tmp_path / REPORT).write_text(json.dumps(REPORT_VALUES | change))
    with pytest.raises(DataError, match=rf"{REPORT} is no report of a buffer \({next(iter(change))}.*: make it again"):
        read_report(tmp_path)


@pytest.mark.parametrize("content", ["", "5", "[]", "null", "[" * 100_000])
def test_a_report_that_is_no_mapping_is_one_message(tmp_path, content):
    (tmp_path / REPORT).write_text(content)
    with pytest.raises(DataError, match=rf"{REPORT} is no report of a buffer"):
        read_report(tmp_path)


def test_a_session_without_positives_says_so(tmp_path):
    recorded(tmp_path / "one")
    write_buffer(tmp_path / "one", tmp_path / "out", BufferParams(positive=0.96))
    report = read_report(tmp_path / "out")
    assert "no positive: no stable frame reached 0.96" in report["notes"][0] and report["rows"]


def test_thresholds_must_lie_in_order():
    with pytest.raises(ValueError, match="negative 0.9 must not lie above positive 0.5"):
        BufferParams(positive=0.5, negative=0.9)


def test_the_command(tmp_path, capsys):
    import typer

    from fer_lib.cli.live import buffer as command

    app = typer.Typer()
    app.command()(command)
    recorded(tmp_path / "one")
    done = CliRunner().invoke(app, [str(tmp_path / "one"), "-p", "cap=2"])
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "one" / "buffer" / REPORT).read_text())
    assert report["params"]["cap"] == 2 and f"{report['rows']} of 120 frames" in done.output
    assert "left out: not recorded 1" in done.output and "notebook 11_adapt" in done.output
    wrong = CliRunner().invoke(app, [str(tmp_path / "one"), "-p", "mingap=2"])
    assert isinstance(wrong.exception, ParamsError) and "closest: 'min_gap'" in str(wrong.exception)
