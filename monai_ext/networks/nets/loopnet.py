"""LoopNet: says whether a vessel is invaded and where its cancerous cells are (Zhang et al., CVPR 2023, section 3)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch.nn.functional as F
from monai.networks.nets import ResNet
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights

from monai_ext.base.errors import InputError
from monai_ext.networks.blocks.backbones import Backbone
from monai_ext.networks.blocks.encoders import ENCODERS
from monai_ext.networks.blocks.grid_gcn import GridGCN
from monai_ext.networks.utils import read_state_dict

__all__ = ["LoopNet"]

# torchvision's name, or _SMALL -> channels of the features, all at 1/32 of the image's resolution
_SMALL = "resnet10"
_CHANNELS = {
    _SMALL: 128,
    "resnet18": 512,
    "resnet50": 2048,
    "alexnet": 256,
    "vgg16": 512,
    "efficientnet_v2_s": 1280,
    "mobilenet_v2": 1280,
    "convnext_base": 1024,
}


class LoopNet(nn.Module):
    """A backbone that two heads share: one classifies the vessel, one locates cells on a grid of patches.

    The backbone is torchvision's network without its head, or MONAI's ResNet of four blocks; the classification head is
    that network's own, with one logit; the locating head is a :class:`GridGCN`. Where the features are no ``grid`` x
    ``grid`` map (AlexNet: 19 x 19 of 640 px) the locating head pools them to one.

    Args:
        backbone: ``"resnet50"`` (the paper's default), ``"alexnet"``, ``"vgg16"``, ``"efficientnet_v2_s"``,
            ``"mobilenet_v2"``, ``"convnext_base"`` (Table 1), the smaller ``"resnet18"``, or ``"resnet10"``: a basic
            block a stage, 16 to 128 channels, for training without a GPU; or ``"timm:<name>"`` or one of pathology's
            encoders, see :class:`~monai_ext.networks.blocks.Backbone`, with a linear classification head. The patches
            of a plain transformer must divide the mosaic.
        grid: patches along a side of the mosaic.
        weights: ``None``; a torchvision name such as ``"IMAGENET1K_V1"`` or ``"DEFAULT"`` (downloaded by torchvision);
            or the path to a state dict of the classifier that the backbone is of, with any number of classes. The last
            layer starts afresh. For timm's networks see ``Backbone``.
        hidden: features between the layers of the locating head.
        dropout: probabilities between them.

    Raises:
        InputError: an unknown backbone; weights that are missing or do not fit.
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        grid: int = 20,
        weights: str | Path | None = None,
        hidden: Sequence[int] = (512, 128),
        dropout: Sequence[float] = (0.2, 0.1),
    ) -> None:
        super().__init__()
        self.grid = grid
        if backbone.startswith("timm:") or backbone in ENCODERS:
            self.backbone = _CoarsestMap(backbone, weights)
            channels = self.backbone.out_channels[-1]
            self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1))
        elif backbone in _CHANNELS:
            channels = _CHANNELS[backbone]
            model = _small() if backbone == _SMALL else get_model(backbone, num_classes=1)
            if weights is not None:
                _load_features(model, backbone, weights)
            self.backbone, self.head = _parts(model)
        else:
            expected = f"one of {', '.join([*_CHANNELS, *ENCODERS])}, or timm:<name>"
            raise InputError("backbone", expected, repr(backbone))
        self.locator = GridGCN((channels, *hidden, 3), dropout)

    def features(self, images: Tensor) -> Tensor:
        """F_b: images ``(B, 3, H, W)`` -> features ``(B, C, H / 32, W / 32)``."""
        return self.backbone(images)

    def classify(self, features: Tensor) -> Tensor:
        """F_c: features -> logit of an invaded vessel ``(B, 1)``."""
        return self.head(features)

    def locate(self, features: Tensor) -> Tensor:
        """F_l: features -> logits ``(B, 3, grid, grid)`` of background, healthy and cancerous cell."""
        if features.shape[2] != self.grid or features.shape[3] != self.grid:
            features = F.adaptive_avg_pool2d(features, self.grid)
        return self.locator(features)

    def forward(self, images: Tensor, locate: bool = True) -> dict[str, Tensor]:
        """Both branches over one pass of the backbone.

        Args:
            images: mosaics ``(B, 3, 32 grid, 32 grid)``, normalised.
            locate: ``False`` for the classification branch alone.

        Returns:
            ``logit``, ``(B, 1)``, and ``p_loc``, logits ``(B, 3, grid, grid)``; see the methods.
        """
        features = self.features(images)
        out = {"logit": self.classify(features)}
        if locate:
            out["p_loc"] = self.locate(features)
        return out


class _CoarsestMap(Backbone):
    """The map of stride 32, or the tokens of a plain transformer."""

    def forward(self, images: Tensor) -> Tensor:
        return self.tokens(images) if self.is_plain else super().forward(images, ["3"])["3"]


def _small() -> ResNet:
    return ResNet(
        "basic", [1, 1, 1, 1], [16, 32, 64, 128], spatial_dims=2, n_input_channels=3, conv1_t_size=3, conv1_t_stride=2,
        num_classes=1, bias_downsample=False,
    )  # fmt: skip


def _parts(model: nn.Module) -> tuple[nn.Sequential, nn.Sequential]:
    """A classifier of torchvision or MONAI as its backbone and its head."""
    if hasattr(model, "fc"):
        named = list(model.named_children())
        return nn.Sequential(OrderedDict(named[:-2])), nn.Sequential(model.avgpool, nn.Flatten(), model.fc)
    layers = list(model.classifier)
    if not any(isinstance(layer, nn.Flatten) for layer in layers):
        layers.insert(0, nn.Flatten())
    return model.features, nn.Sequential(getattr(model, "avgpool", nn.AdaptiveAvgPool2d(1)), *layers)


def _load_features(model: nn.Module, backbone: str, weights: str | Path) -> None:
    """Load all but the last layer of a classifier."""
    named = {} if backbone == _SMALL else get_model_weights(backbone).__members__
    loaded = named[str(weights)].get_state_dict(check_hash=True) if str(weights) in named else read_state_dict(weights)
    expected = model.state_dict()
    last = list(expected)[-1].rpartition(".")[0] + "."
    state = {name: tensor for name, tensor in loaded.items() if not name.startswith(last)}

    def fits(name: str) -> bool:
        # torchvision's IMAGENET1K_FEATURES has classifiers of NaN
        return name in state and state[name].shape == expected[name].shape and bool(state[name].isfinite().all())

    wrong = [name for name in expected if not name.startswith(last) and not fits(name)] + sorted(
        set(state) - set(expected)
    )
    if wrong:
        raise InputError(weights, f"weights of {backbone}", f"{len(wrong)} that do not fit: {wrong[0]}")
    model.load_state_dict(state, strict=False)
