"""The classifier: a timm backbone, an embedding, and a head of seven logits."""

from __future__ import annotations

import difflib
from functools import lru_cache
from typing import Any

import timm
import torch
from torch import nn
from torch.nn import functional as F

from fer_lib.emotions import NUM_CLASSES
from fer_lib.errors import FerError
from fer_lib.models.nested import ResidualBlock

NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


class FerClassifier(nn.Module):
    """backbone -> Linear(embed_dim) -> BatchNorm -> SiLU -> Dropout -> [residual blocks] -> head.

    ``head="cosine"``: logits are ``s * cos(theta)`` between the embedding and one weight vector per class (ArcFace's
    inference form, Deng 2019).  The margin belongs to the training loss, so every checkpoint is a working model.
    ``head="linear"``: an affine head.  ``blocks``: the number of residual blocks (:mod:`fer_lib.models.nested`);
    ``backbone_args``: further arguments of timm.create_model.  Both are in ``config`` only when there are any.

    Input float32 ``[B, 3, S, S]``, normalised by the face contract; output float32 ``[B, 7]`` logits.
    Raises FerError when timm has no model ``backbone``, or it does not accept ``backbone_args``.
    """

    def __init__(
        self,
        backbone: str,
        image_size: int,
        embed_dim: int = 512,
        dropout: float = 0.2,
        head: str = "cosine",
        s: float = 30.0,
        backbone_args: dict[str, Any] | None = None,
        blocks: int = 0,
    ):
        super().__init__()
        self.config: dict[str, Any] = dict(
            backbone=backbone, image_size=image_size, embed_dim=embed_dim, dropout=dropout, head=head, s=s
        )
        if backbone_args:
            self.config["backbone_args"] = dict(backbone_args)
        if blocks:
            self.config["blocks"] = blocks
        self.backbone = make_backbone(backbone, image_size, backbone_args)
        features = getattr(self.backbone, "head_hidden_size", None) or self.backbone.num_features
        self.embedding = nn.Sequential(
            nn.Linear(features, embed_dim), nn.BatchNorm1d(embed_dim), nn.SiLU(), nn.Dropout(dropout)
        )
        self.head = CosineHead(embed_dim) if head == "cosine" else nn.Linear(embed_dim, NUM_CLASSES)
        self.blocks = nn.Sequential(*(ResidualBlock(embed_dim) for _ in range(blocks)))  # after all other weights
        self.scale = s if head == "cosine" else 1.0

    def no_weight_decay(self) -> set[str]:
        """Parameters that the backbone exempts from weight decay (position embeddings, bias tables), read by timm."""
        exempt = getattr(self.backbone, "no_weight_decay", set)
        return {f"backbone.{name}" for name in exempt()}

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Embeddings float32 [B, embed_dim] of ``images`` [B, 3, S, S]."""
        return self.blocks(self.embedding(self.backbone(images)))

    def classify(self, embedding: torch.Tensor, scaled: bool = True) -> torch.Tensor:
        """Logits [B, 7]; with ``scaled`` False, cos(theta) of the cosine head or the logits of the linear head."""
        scores = self.head(embedding).float()
        return scores * self.scale if scaled else scores

    def forward(self, images: torch.Tensor, scaled: bool = True) -> torch.Tensor:
        """:meth:`classify` of the embeddings of ``images``."""
        return self.classify(self.embed(images), scaled)


class CosineHead(nn.Module):
    """cos(theta) between each embedding and each class vector, always in float32 (half precision loses the margin)."""

    def __init__(self, embed_dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(NUM_CLASSES, embed_dim))
        nn.init.xavier_normal_(self.weight)

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        with torch.autocast(embedding.device.type, enabled=False):
            product = F.linear if embedding.device.type == "cpu" else row_products
            return product(F.normalize(embedding.float()), F.normalize(self.weight.float()))


def row_products(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """[N, K] dot products of the rows of ``a`` [N, D] and ``b`` [K, D], without a matrix product.

    When TF32 is allowed, a GPU rounds the factors of a matrix product to ten bits, in the backward pass too.
    """
    return (a.unsqueeze(1) * b).sum(-1)


def build_classifier(config: dict[str, Any]) -> FerClassifier:
    """The classifier of a bundle's ``model`` section, with untrained weights."""
    return FerClassifier(**config)


def parameter_count(config: dict[str, Any]) -> int:
    """Number of values that a bundle's ``model`` section describes, without running means and variances."""
    with torch.device("meta"):
        return sum(v.numel() for k, v in build_classifier(config).state_dict().items() if "running" not in k)


def check_size(model: FerClassifier) -> None:
    """FerError when the backbone rejects images of its configured size.  Some do so only in a forward pass."""
    size, name = model.config["image_size"], model.config["backbone"]
    training = model.training
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, 3, size, size))
    except Exception as error:  # each architecture raises its own error for an unsupported size
        cfg = timm.models.get_pretrained_cfg(name)
        advice = "another size" if cfg is None else f"{cfg.input_size[-1]}, its default"
        raise FerError(
            f"backbone {name} does not accept images of {size} x {size} ({str(error) or type(error).__name__}): set "
            f"image_size to {advice}"
        ) from error
    finally:
        model.train(training)


@lru_cache(maxsize=64)
def takes(backbone: str, size: int, args: tuple[tuple[str, Any], ...] = ()) -> bool:
    """Whether :func:`check_size` would pass for the backbone; computed on torch's meta device, without weights.

    ``args``: the items of ``backbone_args``.
    """
    with torch.device("meta"):
        try:
            make_backbone(backbone, size, dict(args)).eval()(torch.zeros(1, 3, size, size))
        except Exception:  # as in check_size; a net that does not run on the meta device counts as rejecting the size
            return False
    return True


def make_backbone(
    name: str, image_size: int, args: dict[str, Any] | None = None, pretrained: bool = False
) -> nn.Module:
    """timm's model without its classifier; ``pretrained`` downloads its weights from timm's hub.

    ``args``: further arguments of timm.create_model.  Raises FerError with similar names when timm has no such model,
    and when the model does not accept ``args``.
    """
    if not timm.is_model(name.split(".")[0]):
        similar = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=8, cutoff=0.5)
        raise FerError(
            f"backbone '{name}' is not a timm {timm.__version__} model; similar names: {', '.join(similar) or 'none'}"
        )
    options = dict(args or {}, pretrained=pretrained, num_classes=0)
    try:
        try:  # transformers need the image size when they are built; convolutional nets reject the argument
            return timm.create_model(name, img_size=image_size, **options)
        except TypeError:
            return timm.create_model(name, **options)
    except Exception as error:  # each architecture raises its own error for an argument
        if pretrained or not args:
            raise
        raise FerError(
            f"backbone {name} does not accept backbone_args {args} ({error}): correct them, or leave them out"
        ) from error


def trainable_parameters(model: FerClassifier, tune: str) -> list[str]:
    """Names of the parameters that ``tune`` leaves trainable: all, head, bn (norm layers and head), last_block, norms.

    Embedding and head, which pretraining does not cover, are trained under every setting except ``norms`` (all norm
    layers, the embedding's included, and nothing else).  ``last_block``: the last numbered block of the backbone and
    the layers after it (a convolution or norm before the pooling).
    """
    embedding_and_head = [n for n, _ in model.named_parameters() if not n.startswith("backbone.")]
    names = [n for n, _ in model.backbone.named_parameters()]
    norms = {n for n, m in model.named_modules() if isinstance(m, NORMS)}
    if tune == "norms":
        return [n for n, _ in model.named_parameters() if n.rpartition(".")[0] in norms]
    if tune == "head":
        selection: list[str] = []
    elif tune == "bn":
        selection = [n for n in names if f"backbone.{n}".rpartition(".")[0] in norms]
    elif tune == "last_block":
        from timm.models import group_parameters

        groups = group_parameters(model.backbone, model.backbone.group_matcher(coarse=False))
        blocks = [g for g in groups if any(part.isdigit() for name in groups[g] for part in name.split("."))]
        selection = [n for g in sorted(groups) if g >= max(blocks) for n in groups[g]]
    else:
        selection = names
    return embedding_and_head + [f"backbone.{n}" for n in selection]
