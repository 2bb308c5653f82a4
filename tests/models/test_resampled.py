"""Weights of one picture size in a model of another: grids are resampled, the rest is untouched."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from fer_lib.errors import FerError
from fer_lib.models.classifier import build_classifier
from fer_lib.models.weights import load_pretrained, resampled

VIT = "test_vit"  # patches of 16


def classifier(size, backbone=VIT, seed=0, **other):
    torch.manual_seed(seed)
    config = dict(backbone=backbone, image_size=size, embed_dim=16, dropout=0.0, head="cosine", s=8.0) | other
    return build_classifier(config).eval()


@pytest.fixture(scope="module")
def small():
    return classifier(96)


def test_the_same_size_gives_the_same_tensors(small):
    state = small.state_dict()
    again = resampled(state, classifier(96, seed=1))
    assert list(again) == list(state) and all(again[k] is state[k] for k in state)


def test_a_constant_embedding_stays_constant_and_all_else_as_it_was(small):
    state = {k: v.clone() for k, v in small.state_dict().items()}
    state["backbone.pos_embed"][:, 1:] = 0.25
    out = resampled(state, large := classifier(160, seed=1))
    grid = out["backbone.pos_embed"]
    assert grid.shape == large.backbone.pos_embed.shape == (1, 101, state["backbone.pos_embed"].shape[2])
    torch.testing.assert_close(grid[:, 1:], torch.full_like(grid[:, 1:], 0.25))
    assert torch.equal(grid[:, :1], state["backbone.pos_embed"][:, :1]), "the class token has no place to resample"
    assert all(torch.equal(out[k], state[k]) for k in state if k != "backbone.pos_embed")
    large.load_state_dict(out)


def test_a_smooth_embedding_is_read_between_its_points(small):
    """A plane over the picture is the same plane at the centres of other patches (but for the outermost, clamped)."""
    state = {k: v.clone() for k, v in small.state_dict().items()}

    def plane(n):
        at = (np.arange(n) + 0.5) / n
        return torch.from_numpy(at[:, None] - 2 * at[None, :]).float().reshape(-1)

    state["backbone.pos_embed"][0, 1:, 0] = plane(6)
    out = resampled(state, classifier(192))["backbone.pos_embed"][0, 1:, 0].reshape(12, 12)
    wanted = plane(12).reshape(12, 12)
    assert (out - wanted)[3:-3, 3:-3].abs().max() < 0.02
    assert (out - wanted.T).abs().max() > 1, "rows and columns are not swapped"


def test_predictions_of_the_resized_model_stay_close(small):
    """Against the same model with another smooth embedding, as loud, at the new size."""
    torch.manual_seed(3)
    width = small.backbone.pos_embed.shape[2]
    mine, other = torch.randn(2, 1, width, 3, 3)

    def grid(rough, n):
        return F.interpolate(rough, size=(n, n), mode="bicubic").flatten(2).transpose(1, 2)

    large, stranger = classifier(192), classifier(192)
    with torch.no_grad():
        small.backbone.pos_embed[:, 1:] = grid(mine, 6)
        large.load_state_dict(resampled(small.state_dict(), large))
        stranger.load_state_dict(large.state_dict())
        stranger.backbone.pos_embed[:, 1:] = grid(other, 12)
        pictures = F.interpolate(torch.randn(16, 3, 4, 4), size=(96, 96), mode="bicubic")
        wide = F.interpolate(pictures, size=(192, 192), mode="bicubic")
        here, there, lost = small(pictures), large(wide), stranger(wide)
    assert (there - here).abs().mean() < 0.25 * (lost - here).abs().mean()


def test_windows_of_another_size_are_resampled_too():
    state = classifier(64, "swin_tiny_patch4_window7_224", seed=2).state_dict()
    large = classifier(128, "swin_tiny_patch4_window7_224")
    out = resampled(state, large)
    large.load_state_dict(out)
    grids = {k for k in state if state[k].shape != out[k].shape}
    assert grids and all("relative_position" in k or "attn_mask" in k for k in grids)
    weights = [k for k in state if k.endswith((".weight", ".bias")) and k not in grids]
    assert weights and all(torch.equal(out[k], state[k]) for k in weights)
    with torch.no_grad():
        assert torch.isfinite(large(torch.zeros(2, 3, 128, 128))).all()


def test_what_is_another_model_is_refused(small):
    with pytest.raises(
        FerError,
        match="at 160 px: tensor 'embedding.0.weight' is .16, 64. there and .32, 64. here",
    ):
        resampled(small.state_dict(), classifier(160, embed_dim=32))
    short = {k: v for k, v in small.state_dict().items() if k != "head.weight"}
    with pytest.raises(FerError, match="'head.weight' is absent there"):
        resampled(short, classifier(160))
    resnet = classifier(64, "test_resnet").state_dict()
    with pytest.raises(FerError, match="don't fit 'test_resnet' at 64 px"):
        resampled(resnet, classifier(64, "test_resnet", embed_dim=32))


def test_a_file_of_weights_may_be_of_another_size(small, tmp_path):
    save_file({k: v.contiguous() for k, v in small.backbone.state_dict().items()}, tmp_path / "vit.safetensors")
    large = classifier(160, seed=1)
    load_pretrained(large, str(tmp_path / "vit.safetensors"))
    wanted = resampled(small.state_dict(), large)["backbone.pos_embed"]
    torch.testing.assert_close(large.backbone.pos_embed.detach(), wanted)
