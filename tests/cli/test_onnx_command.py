"""``fer onnx``, as a person types it: of a checkpoint that lies alone, of folders, and what it refuses."""

import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from fer_lib.cli import main as cli
from fer_lib.models.bundle import read_bundle
from fer_lib.models.classifier import build_classifier
from fer_lib.training.checkpoint import STATE, load_checkpoint


@pytest.fixture
def fer(tmp_path, monkeypatch, capsys):
    """``fer("a", "b")``: exit code, what it said, what it said of errors; in an empty folder without a store."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("FER_HOME", str(tmp_path))

    def call(*arguments):
        with pytest.raises(SystemExit) as end:
            cli.main(["onnx", *map(str, arguments)])
        said = capsys.readouterr()
        return end.value.code, said.out, said.err

    return call


@pytest.fixture
def alone(drawn_teachers, tmp_path):
    """The last checkpoint of a fit, copied to where nothing lies beside it."""
    return shutil.copytree(drawn_teachers[0].parent / "checkpoint_last", tmp_path / "elsewhere" / "epoch2")


def answers(file, faces):
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"faces": faces})[0]


def test_a_checkpoint_alone_becomes_a_file_that_answers_as_torch_does(fer, alone, tmp_path):
    code, said, err = fer(alone, tmp_path / "new" / "last.onnx", "--opset", "20")
    assert code == 0, err
    tensors, meta = load_checkpoint(alone)
    model = build_classifier(meta["bundle"]["model_config"]).eval()
    model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    faces = np.random.default_rng(3).standard_normal((5, 3, 32, 32), dtype=np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(faces)).numpy()
    file = tmp_path / "new" / "last.onnx"
    np.testing.assert_allclose(answers(file, faces), expected, atol=1e-4)
    assert np.ptp(expected) > 1, "logits far enough apart to tell"
    assert [o.version for o in onnx.load(file).opset_import if not o.domain] == [20]
    assert f"{file.stat().st_size:,} bytes, opset 20" in said and "largest difference from torch" in said
    lines = [line for line in said.splitlines() if "p50" in line]
    assert [line.split()[0] for line in lines] == ["onnxruntime", "torch"] and all("p95" in line for line in lines)
    assert sorted(p.name for p in file.parent.iterdir()) == ["last.onnx"]
    assert sorted(p.name for p in alone.parent.iterdir()) == ["epoch2"], "nothing was written beside the checkpoint"


def test_a_fit_is_its_best_and_a_file_that_is_there_stays_unless_forced(fer, drawn_teachers, tmp_path):
    bundle = read_bundle(drawn_teachers[1])
    file = tmp_path / "here" / f"{bundle.name}.onnx"
    file.write_bytes(b"of another")
    code, out, err = fer(drawn_teachers[1])
    assert code == 1 and out == "" and f"{file.name} is there already" in err and "--force" in err
    assert file.read_bytes() == b"of another"
    code, said, err = fer(drawn_teachers[1].parent, "--force")
    assert code == 0 and bundle.weights_sha256[:12] in said, err
    faces = np.random.default_rng(4).standard_normal((2, 3, 40, 40), dtype=np.float32)
    with torch.no_grad():
        expected = bundle.model()(torch.from_numpy(faces)).numpy()
    np.testing.assert_allclose(answers(file, faces), expected, atol=1e-4)


def damaged(path):
    (path / STATE).write_bytes((path / STATE).read_bytes()[:-20])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (damaged, "is damaged"),
        (lambda path: (path / STATE).unlink(), "can't be read"),
        (shutil.rmtree, "holds no bundle"),
        (lambda path: [shutil.rmtree(path), path.mkdir()], "holds no bundle"),
    ],
)
def test_what_is_no_model(fer, alone, tmp_path, spoil, said):
    spoil(alone)
    code, out, err = fer(alone, "x.onnx")
    assert code == 1 and said in err and str(alone) in err and out == ""
    assert list((tmp_path / "here").iterdir()) == []


def test_where_no_file_can_be(fer, alone, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, _, err = fer(alone, tmp_path / "file" / "x.onnx")
    assert code == 1 and f"cannot write {tmp_path / 'file' / 'x.onnx'}" in err and "another output folder" in err
    code, _, err = fer(alone, tmp_path)
    assert code == 1 and "is a folder: name the file" in err
    code, _, err = fer("models:/nobody@here", "x.onnx")
    assert code == 1 and "there is no registry" in err
    code, _, err = fer("packaged", "x.onnx")
    assert code == 1 and "model.safetensors" in err
