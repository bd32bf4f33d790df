"""The feature extractor that the two ends of Cyclic Learning share (Zhou et al. 2023, sections III-A and IV-B)."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model, get_model_weights

from monai_ext.base.errors import InputError
from monai_ext.networks.utils import load_state, read_state_dict

__all__ = ["BACKBONES", "Backbone"]

BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "swin_t")
_RESNET_LAYERS = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
_HEADS = {"fc", "head", "norm"}  # what torchvision's classifiers hold behind the features; "norm" is Swin's last one


class Backbone(nn.Module):
    """A torchvision network without its head, as a pyramid of features.

    Its parameters keep torchvision's names, and its state dict is all that crosses between the ends of a cycle:
    ``back.backbone.load_state_dict(front.backbone.state_dict())``.

    Args:
        name: one of :data:`BACKBONES`.
        weights: ``None`` (random), the name of weights that torchvision offers for this network (``"IMAGENET1K_V1"``;
            downloaded once to torch's cache), or the path of a state dict: torchvision's own, whose head is left out,
            or a backbone's.

    Attributes:
        name: as given.
        out_channels: channels of the four maps.

    Raises:
        InputError: an unknown name; weights that are no known name and no file, cannot be loaded, or do not fit.
    """

    def __init__(self, name: str = "resnet50", weights: str | Path | None = None) -> None:
        super().__init__()
        if name not in BACKBONES:
            raise InputError("backbone", f"one of {', '.join(BACKBONES)}", repr(name))
        self.name = name
        network = get_model(name)
        if self.is_swin:
            self.features = network.features
            self._stages = {"1": "0", "3": "1", "5": "2", "7": "3"}
        else:
            for layer in _RESNET_LAYERS:
                self.add_module(layer, getattr(network, layer))
            self._stages = {"layer1": "0", "layer2": "1", "layer3": "2", "layer4": "3"}
        widest = (network.head if self.is_swin else network.fc).in_features
        self.out_channels = [widest // 8, widest // 4, widest // 2, widest]
        if weights is not None:
            load_state(self, _read(name, weights), weights, f"weights of a {name}")

    @property
    def is_swin(self) -> bool:
        """Whether it is a Swin transformer; a ResNet otherwise."""
        return self.name.startswith("swin")

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """The maps of the four stages.

        Args:
            images: ``(B, 3, H, W)`` float, normalised as the weights expect; both sides at least 32 px.

        Returns:
            ``"0"`` to ``"3"``: maps ``(B, out_channels[i], H / s, W / s)`` for the strides s = 4, 8, 16 and 32. Where
            the stride does not divide the side, the size is rounded up (Swin rounds down at stride 4).
        """
        maps: OrderedDict[str, Tensor] = OrderedDict()
        x = images
        for name, layer in (self.features if self.is_swin else self).named_children():
            x = layer(x)
            if name in self._stages:
                maps[self._stages[name]] = x.permute(0, 3, 1, 2) if self.is_swin else x
        return maps


def _read(name: str, weights: str | Path) -> dict[str, Tensor]:
    """The state dict of a backbone, from what torchvision offers or from a file."""
    offered = get_model_weights(name).__members__
    if str(weights) in offered:
        state = _download(offered[str(weights)])
    elif Path(weights).is_file():
        state = read_state_dict(weights)
    else:
        raise InputError(weights, f"a file with the weights of a {name}, or one of {', '.join(offered)}", "neither")
    return {key: value for key, value in state.items() if key.split(".")[0] not in _HEADS}


def _download(weights: WeightsEnum) -> dict[str, Tensor]:
    try:
        return weights.get_state_dict(progress=False, check_hash=True)
    except OSError as error:
        raise InputError(weights.url, "weights to download (or pass the path of a copy)", str(error)) from error
