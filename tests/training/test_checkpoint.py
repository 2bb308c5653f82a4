"""Checkpoints: bit-exact round trip, verification on reading, and atomic writing."""

import hashlib
import json

import pytest
import torch
from torch import nn

from fer_lib.errors import BundleError, DataError
from fer_lib.storage import atomic
from fer_lib.training.checkpoint import (
    BEFORE,
    LAST,
    META,
    STATE,
    checkpoint_weights,
    checksum,
    has_checkpoint,
    load_checkpoint,
    pack_state,
    save_checkpoint,
    unpack_state,
)
from fer_lib.training.progress import Progress
from fer_lib.training.resume_check import resume

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(7), "c": torch.randn(2, 3, 4, 4)}
META_VALUES = {"step": 12, "history": [{"loss": 0.1 + 0.2, "odd": float("nan")}], "best": 1 / 3}


@pytest.fixture
def path(tmp_path):
    save_checkpoint(tmp_path / "checkpoint_last", TENSORS, META_VALUES)
    return tmp_path / "checkpoint_last"


def test_round_trip(path):
    tensors, meta = load_checkpoint(path)
    assert set(tensors) == set(TENSORS) and all(torch.equal(tensors[k], v) for k, v in TENSORS.items())
    assert meta["step"] == 12 and meta["best"] == 1 / 3 and meta["history"][0]["loss"] == 0.1 + 0.2
    assert has_checkpoint(path)


def test_missing_checkpoint_is_none(tmp_path):
    assert load_checkpoint(tmp_path / "checkpoint_last") is None and not has_checkpoint(tmp_path / "checkpoint_last")


@pytest.mark.parametrize("name", [STATE, META])
@pytest.mark.parametrize("damage", ["truncated", "flipped bit", "missing"])
def test_damage_is_detected(path, name, damage):
    content = bytearray((path / name).read_bytes())
    if damage == "truncated":
        (path / name).write_bytes(content[:-20])
    elif damage == "flipped bit":
        content[len(content) // 2] ^= 1
        (path / name).write_bytes(content)
    else:
        (path / name).unlink()
    with pytest.raises(BundleError, match="move .*checkpoint_last away and the same command starts again$"):
        load_checkpoint(path)


@pytest.mark.parametrize("change", [{"step": 13}, {"best": 0.5}, {"sha256": "0" * 64}, None])
def test_changed_values_are_detected(path, change):
    meta = json.loads((path / META).read_text())
    (path / META).write_text(json.dumps([meta] if change is None else meta | change))
    with pytest.raises(BundleError, match="was changed after it was written"):
        load_checkpoint(path)


def test_failed_write_keeps_the_old_checkpoint(path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(atomic.os, "fsync", full)
        with pytest.raises(DataError, match="No space"):
            save_checkpoint(path, TENSORS, META_VALUES | {"step": 13})
    assert load_checkpoint(path)[1]["step"] == 12
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    save_checkpoint(path, TENSORS, META_VALUES | {"step": 14})
    assert load_checkpoint(path)[1]["step"] == 14


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
def test_checkpoint_is_synced_before_it_is_renamed(tmp_path, disk_calls, monkeypatch, links):
    def not_supported(*_):
        raise OSError(95, "Operation not supported")

    if not links:
        monkeypatch.setattr("os.link", not_supported)
    files = {name: [f"fsync {name}/{STATE}", f"fsync {name}/{META}"] for name in (LAST, BEFORE)}
    save_checkpoint(tmp_path / LAST, TENSORS, META_VALUES)
    assert disk_calls(tmp_path) == [*files[LAST], f"fsync {LAST}", f"rename {LAST}", "fsync ."]
    save_checkpoint(tmp_path / LAST, TENSORS, META_VALUES | {"step": 13})
    assert disk_calls(tmp_path) == [
        *([] if links else files[BEFORE]), f"fsync {BEFORE}", f"rename {BEFORE}", "fsync .",
        *files[LAST], f"fsync {LAST}", f"rename .{LAST}.previous", f"rename {LAST}", "fsync .",
    ]  # fmt: skip


def test_old_checkpoint_is_read_when_a_writer_was_killed_between_its_renames(path):
    path.rename(atomic.previous(path))
    assert has_checkpoint(path) and load_checkpoint(path)[1]["step"] == 12
    save_checkpoint(path, TENSORS, META_VALUES | {"step": 13})
    assert load_checkpoint(path)[1]["step"] == 13 and [p.name for p in path.parent.iterdir()] == [path.name]


def test_folder_of_other_files_is_not_replaced(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(FileExistsError):
        save_checkpoint(tmp_path / "notes", TENSORS, META_VALUES)
    assert (tmp_path / "notes" / "a.txt").read_text() == "mine"


def small(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 7))
    model = model.to(memory_format=torch.channels_last)
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2)


def test_optimiser_state_gets_the_memory_layout_of_its_parameter(tmp_path):
    """Tensors on disk are contiguous; beside channels-last weights they would be rounded differently."""
    model, optimiser = small(1)
    ema, other = small(2)[0], small(3)
    for _ in range(2):
        optimiser.zero_grad()
        model(torch.randn(4, 3, 8, 8).contiguous(memory_format=torch.channels_last)).square().sum().backward()
        optimiser.step()
    save_checkpoint(tmp_path / "c", pack_state(model, optimiser, ema), {})
    other_ema = small(4)[0]
    unpack_state(load_checkpoint(tmp_path / "c")[0], *other, other_ema)
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), other[0].state_dict().values(), strict=True)
    )
    assert all(
        torch.equal(a, b) for a, b in zip(ema.state_dict().values(), other_ema.state_dict().values(), strict=True)
    )
    mine, theirs = optimiser.state_dict()["state"], other[1].state_dict()["state"]
    for i, moments in mine.items():
        assert set(moments) == set(theirs[i]) == {"step", "exp_avg", "exp_avg_sq"}
        for name, value in moments.items():
            assert torch.equal(value, theirs[i][name]) and value.stride() == theirs[i][name].stride()
    assert not mine[0]["exp_avg"].is_contiguous(), "the test needs a layout that is not contiguous"


BUNDLE = {
    "name": "a", "kind": "teacher", "model_config": {}, "contract": {"image_size": 48}, "training_prior": [1 / 7] * 7,
    "ids": {},
}  # fmt: skip
WHOLE = {**Progress().__dict__, "fit_key": "k", "numerics": {}, "epoch": 1.0, "bundle": BUNDLE}


@pytest.mark.parametrize(
    "change",
    [
        {"bundle": None},
        {"bundle": []},
        {"bundle": BUNDLE | {"contract": {"image_size": 10**9}}},
        {"bundle": BUNDLE | {"contract": ...}},
        {"bundle": BUNDLE | {"ids": ...}},
        {"bundle": BUNDLE | {"training_prior": "x"}},
        {"bundle": BUNDLE | {"more": 1}},
        {"epoch": "one"},
        {"epoch": float("nan")},
        {"epoch": ...},
    ],
)
def test_a_forged_description_makes_no_bundle(tmp_path, change):
    def without(values):
        return {k: without(v) if isinstance(v, dict) else v for k, v in values.items() if v is not ...}

    save_checkpoint(tmp_path / LAST, TENSORS, without(WHOLE | change))
    with pytest.raises(BundleError, match=rf"{META} holds an invalid value"):
        checkpoint_weights(tmp_path / LAST)


@pytest.mark.parametrize(
    "change", [{"step": "x"}, {"history": 5}, {"step": ...}, {"numerics": ...}, {"numerics": 5}, {}]
)
def test_a_forged_state_is_not_resumed(tmp_path, change):
    model, optimiser = small(1)
    tensors = pack_state(model, optimiser, None) if change else TENSORS
    meta = {name: value for name, value in (WHOLE | change).items() if value is not ...}
    save_checkpoint(tmp_path / LAST, tensors, meta)
    with pytest.raises(BundleError, match="is not a state of this fit .* delete that folder"):
        resume(tmp_path, "k", {}, model, optimiser, None)
    save_checkpoint(tmp_path / LAST, pack_state(model, optimiser, None), WHOLE)
    assert resume(tmp_path, "k", {}, model, optimiser, None) == (Progress(), [])


def test_a_file_that_is_no_safetensors_is_rejected_also_with_its_hash(path):
    (path / STATE).write_bytes(b"\xff" * 64)
    meta = json.loads((path / META).read_text())
    meta["sha256"] = hashlib.sha256(b"\xff" * 64).hexdigest()
    meta["checksum"] = checksum({k: v for k, v in meta.items() if k != "checksum"})
    (path / META).write_text(json.dumps(meta))
    with pytest.raises(BundleError, match="can't be read .*move"):
        load_checkpoint(path)
