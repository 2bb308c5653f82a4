"""Full and read-only disks and damaged checkpoints: the error names file and next step, and the fit can resume."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch

from fer_lib.errors import BundleError, DataError, user_message
from fer_lib.models.bundle import read_bundle
from fer_lib.params import TeacherParams
from fer_lib.training.checkpoint import META, STATE, load_checkpoint
from fer_lib.training.teacher import train_teacher

SMALL = dict(
    backbone="test_resnet", image_size=32, embed_dim=16, epochs=4, batch_size=14, lr=2e-3, warmup_epochs=0.5,
    plain_epochs=1, ramp_end=2, arcface_s=12.0, ema_decay=0.9, max_train_batches=2, checkpoint_every=2, eval_every=4,
    threads=1, device="cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def train(drawn_manifest, pack_cache):
    return lambda out, **changes: train_teacher(TeacherParams(**SMALL | changes), drawn_manifest, out, pack_cache)


@pytest.fixture(scope="module")
def unbroken(train, tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken")
    list(train(out))
    return out


@pytest.fixture
def disk(tmp_path):
    """A separate disk of 48 MB; skips the test when this user may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def assert_same_end(out, unbroken):
    """The fit in ``out`` ended as the unbroken one."""
    ours, theirs = (load_checkpoint(folder / "checkpoint_last") for folder in (out, unbroken))
    assert [k for k, v in theirs[0].items() if not torch.equal(ours[0][k], v)] == []
    assert read_bundle(out / "best").weights_sha256 == read_bundle(unbroken / "best").weights_sha256
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in unbroken.iterdir())


def epochs(events, n):
    """Consume events until ``n`` epochs are done."""
    while n:
        n -= next(events)["event"] == "epoch"


def fill(disk, left):
    """Leave about ``left`` bytes of the disk."""
    file = disk / "filler"
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    file.write_bytes(bytes(max(0, free - left)))
    return file


@contextmanager
def files_of_at_most(size):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("left", "file"),
    [(200_000, r"checkpoint_last.*state\.safetensors"), (0, r"history\.json")],
    ids=["within a checkpoint", "at once"],
)
def test_fit_resumes_after_a_full_disk(train, unbroken, disk, left, file):
    events = train(disk / "fit")
    epochs(events, 2)
    shutil.rmtree(disk / "fit" / "checkpoint_before")  # its space would suffice for the next checkpoint
    filler = fill(disk, left)
    with pytest.raises(DataError, match=f"cannot write /.*{file}: No space left on device .the disk.* free some space"):
        list(events)
    assert load_checkpoint(disk / "fit" / "checkpoint_last")[1]["step"] == 4, "the old checkpoint is readable"
    assert [p.name for p in (disk / "fit").iterdir() if p.name.endswith((".partial", ".previous"))] == []
    filler.unlink()
    assert next(resumed := train(disk / "fit"))["resumed_at_step"] == 4
    list(resumed)
    assert_same_end(disk / "fit", unbroken)


@pytest.mark.skipif(os.name != "posix", reason="file sizes are limited by the shell's ulimit")
def test_fit_resumes_after_a_file_size_limit(train, unbroken, tmp_path):
    events = train(tmp_path / "fit")
    epochs(events, 2)
    with files_of_at_most(100_000):
        with pytest.raises(DataError, match=r"cannot write .*checkpoint_last.*state\.safetensors: File too large"):
            list(events)
    assert load_checkpoint(tmp_path / "fit" / "checkpoint_last")[1]["step"] == 4
    list(train(tmp_path / "fit"))
    assert_same_end(tmp_path / "fit", unbroken)


def test_fit_resumes_after_the_disk_turned_read_only(train, unbroken, disk):
    events = train(disk / "fit")
    epochs(events, 1)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    try:
        with pytest.raises(DataError, match=r"cannot write .*Read-only file system .* choose another output folder"):
            list(events)
        with pytest.raises(OSError) as error:
            next(train(disk / "another"))
        assert f"cannot use {disk / 'another'}: Read-only file system" in user_message(error.value)
        assert load_checkpoint(disk / "fit" / "checkpoint_last")[1]["step"] == 2
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    list(train(disk / "fit"))
    assert_same_end(disk / "fit", unbroken)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_folder_of_another_user_is_an_error(train, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    with pytest.raises(PermissionError) as error:
        next(train(closed / "fit"))
    assert error.value.filename == str(closed / "fit")


def test_file_in_place_of_the_output_folder_is_an_error(train, tmp_path):
    """With several processes: ``test_distributed.test_error_in_a_process_is_raised_and_stops_all``."""
    (tmp_path / "fit").write_text("mine")
    with pytest.raises(FileExistsError) as error:
        next(train(tmp_path / "fit"))
    assert f"cannot use {tmp_path / 'fit'}: File exists (a file stands where" in user_message(error.value)
    assert (tmp_path / "fit").read_text() == "mine"


def truncate(last):
    (last / STATE).write_bytes((last / STATE).read_bytes()[:-1000])


def flip(last):
    content = bytearray((last / STATE).read_bytes())
    content[-1000] ^= 1
    (last / STATE).write_bytes(content)


def change_step(last):
    meta = json.loads((last / META).read_text())
    (last / META).write_text(json.dumps(meta | {"step": 0}))


def empty(last):
    (last / META).write_bytes(b"")


def remove_weights(last):
    (last / STATE).unlink()


def remove_meta(last):
    (last / META).unlink()


@pytest.mark.parametrize(
    ("damage", "file", "reason"),
    [
        (truncate, STATE, "is damaged"),
        (flip, STATE, "is damaged"),
        (change_step, META, "was changed after it was written"),
        (empty, "", "can't be read"),
        (remove_weights, STATE, "can't be read"),
        (remove_meta, META, "can't be read"),
    ],
)
def test_damaged_checkpoint_is_an_error_with_advice(train, unbroken, tmp_path, damage, file, reason):
    shutil.copytree(unbroken, tmp_path / "fit")
    last = tmp_path / "fit" / "checkpoint_last"
    damage(last)
    with pytest.raises(BundleError) as error:
        next(train(tmp_path / "fit"))
    message = str(error.value)
    assert str(last) in message and file in message and reason in message
    assert f"move {last} away" in message and "checkpoint_epoch004" in message


def test_advice_for_a_damaged_checkpoint_works(train, unbroken, tmp_path):
    """A resume from a numbered checkpoint and a new start both end with the weights of the unbroken fit."""
    for place in ("epoch002", None):
        out = tmp_path / str(place)
        shutil.copytree(unbroken, out)
        flip(out / "checkpoint_last")
        shutil.rmtree(out / "checkpoint_last")
        if place:
            shutil.copytree(out / f"checkpoint_{place}", out / "checkpoint_last")
        assert next(events := train(out))["resumed_at_step"] == (4 if place else 0)
        list(events)
        assert_same_end(out, unbroken)


@pytest.mark.parametrize("damage", [truncate, flip, change_step, empty, remove_weights])
def test_fit_resumes_from_checkpoint_before(train, unbroken, tmp_path, damage):
    """There is no numbered checkpoint yet."""
    out = tmp_path / "fit"
    events = train(out, checkpoint_every=4, checkpoint_minutes=1e-9)
    epochs(events, 2)
    events.close()
    last, before = out / "checkpoint_last", out / "checkpoint_before"
    assert [load_checkpoint(folder)[1]["step"] for folder in (before, last)] == [3, 4]
    assert not list(out.glob("checkpoint_epoch*"))
    damage(last)
    with pytest.raises(BundleError, match=f"goes on from one of {before.name} when you copy it to {last}"):
        next(train(out, checkpoint_every=4))
    shutil.rmtree(last)
    shutil.copytree(before, last)
    assert next(events := train(out, checkpoint_every=4))["resumed_at_step"] == 3
    list(events)
    assert not before.exists(), "a finished fit removes it"
    ours, theirs = (load_checkpoint(folder / "checkpoint_last")[0] for folder in (out, unbroken))
    assert [k for k, v in theirs.items() if not torch.equal(ours[k], v)] == []


def test_checkpoint_before_is_copied_on_a_disk_without_links(train, tmp_path, monkeypatch):
    def not_permitted(*paths):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", not_permitted)
    events = train(tmp_path, checkpoint_every=4)
    epochs(events, 2)
    events.close()
    assert load_checkpoint(tmp_path / "checkpoint_before")[1]["step"] == 2


def test_advice_for_a_damaged_numbered_checkpoint_is_to_move_it(unbroken, tmp_path):
    """It must not be replaced: another epoch under its name would be evaluated as this one."""
    shutil.copytree(unbroken, tmp_path / "fit")
    numbered = tmp_path / "fit" / "checkpoint_epoch002"
    flip(numbered)
    with pytest.raises(BundleError, match=f"move {numbered} away: neither the fit nor its other checkpoints need it"):
        load_checkpoint(numbered)
