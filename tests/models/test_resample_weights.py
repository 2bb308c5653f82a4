"""Weights of another image size: position grids are resampled, all other tensors are unchanged."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from fer_lib.errors import FerError
from fer_lib.models.classifier import build_classifier
from fer_lib.models.weights import load_pretrained, resample_weights

VIT = "test_vit"  # patches of 16


def classifier(size, backbone=VIT, seed=0, **other):
    torch.manual_seed(seed)
    config = dict(backbone=backbone, image_size=size, embed_dim=16, dropout=0.0, head="cosine", s=8.0) | other
    return build_classifier(config).eval()


@pytest.fixture(scope="module")
def small():
    return classifier(96)


def test_weights_of_the_same_size_are_unchanged(small):
    state = small.state_dict()
    again = resample_weights(state, classifier(96, seed=1))
    assert list(again) == list(state) and all(again[k] is state[k] for k in state)


def test_constant_position_embedding_stays_constant_and_other_tensors_are_unchanged(small):
    state = {k: v.clone() for k, v in small.state_dict().items()}
    state["backbone.pos_embed"][:, 1:] = 0.25
    out = resample_weights(state, large := classifier(160, seed=1))
    grid = out["backbone.pos_embed"]
    assert grid.shape == large.backbone.pos_embed.shape == (1, 101, state["backbone.pos_embed"].shape[2])
    torch.testing.assert_close(grid[:, 1:], torch.full_like(grid[:, 1:], 0.25))
    assert torch.equal(grid[:, :1], state["backbone.pos_embed"][:, :1]), "the class token is not resampled"
    assert all(torch.equal(out[k], state[k]) for k in state if k != "backbone.pos_embed")
    large.load_state_dict(out)


def test_smooth_position_embedding_is_interpolated(small):
    """A plane over the image is the same plane at the centres of other patches, except at the clamped border."""
    state = {k: v.clone() for k, v in small.state_dict().items()}

    def plane(n):
        centres = (np.arange(n) + 0.5) / n
        return torch.from_numpy(centres[:, None] - 2 * centres[None, :]).float().reshape(-1)

    state["backbone.pos_embed"][0, 1:, 0] = plane(6)
    out = resample_weights(state, classifier(192))["backbone.pos_embed"][0, 1:, 0].reshape(12, 12)
    expected = plane(12).reshape(12, 12)
    assert (out - expected)[3:-3, 3:-3].abs().max() < 0.02
    assert (out - expected.T).abs().max() > 1, "rows and columns are not swapped"


def test_predictions_of_the_resized_model_stay_close(small):
    """Compared with the same model whose position embedding is another smooth grid of the same scale."""
    torch.manual_seed(3)
    width = small.backbone.pos_embed.shape[2]
    coarse, other_coarse = torch.randn(2, 1, width, 3, 3)

    def grid(rough, n):
        return F.interpolate(rough, size=(n, n), mode="bicubic").flatten(2).transpose(1, 2)

    large, other = classifier(192), classifier(192)
    with torch.no_grad():
        small.backbone.pos_embed[:, 1:] = grid(coarse, 6)
        large.load_state_dict(resample_weights(small.state_dict(), large))
        other.load_state_dict(large.state_dict())
        other.backbone.pos_embed[:, 1:] = grid(other_coarse, 12)
        images = F.interpolate(torch.randn(16, 3, 4, 4), size=(96, 96), mode="bicubic")
        large_images = F.interpolate(images, size=(192, 192), mode="bicubic")
        small_logits, large_logits, other_logits = small(images), large(large_images), other(large_images)
    assert (large_logits - small_logits).abs().mean() < 0.25 * (other_logits - small_logits).abs().mean()


def test_relative_positions_of_other_windows_are_resampled():
    state = classifier(64, "swin_tiny_patch4_window7_224", seed=2).state_dict()
    large = classifier(128, "swin_tiny_patch4_window7_224")
    out = resample_weights(state, large)
    large.load_state_dict(out)
    grids = {k for k in state if state[k].shape != out[k].shape}
    assert grids and all("relative_position" in k or "attn_mask" in k for k in grids)
    weights = [k for k in state if k.endswith((".weight", ".bias")) and k not in grids]
    assert weights and all(torch.equal(out[k], state[k]) for k in weights)
    with torch.no_grad():
        assert torch.isfinite(large(torch.zeros(2, 3, 128, 128))).all()


def test_weights_of_another_model_are_rejected(small):
    message = r"at 160 px: tensor 'embedding.0.weight' is \[16, 64\] in the weights and \[32, 64\] in the model"
    with pytest.raises(FerError, match=message):
        resample_weights(small.state_dict(), classifier(160, embed_dim=32))
    short = {k: v for k, v in small.state_dict().items() if k != "head.weight"}
    with pytest.raises(FerError, match="'head.weight' is absent in the weights"):
        resample_weights(short, classifier(160))
    resnet = classifier(64, "test_resnet").state_dict()
    with pytest.raises(FerError, match="don't fit 'test_resnet' at 64 px"):
        resample_weights(resnet, classifier(64, "test_resnet", embed_dim=32))


def test_weights_file_of_another_size_is_resampled(small, tmp_path):
    save_file({k: v.contiguous() for k, v in small.backbone.state_dict().items()}, tmp_path / "vit.safetensors")
    large = classifier(160, seed=1)
    load_pretrained(large, str(tmp_path / "vit.safetensors"))
    expected = resample_weights(small.state_dict(), large)["backbone.pos_embed"]
    torch.testing.assert_close(large.backbone.pos_embed.detach(), expected)
