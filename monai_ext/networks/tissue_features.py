"""What a network makes of tissue, tile by tile, taken from the passes that it makes anyway."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from monai.utils import convert_to_tensor
from torch import Tensor, nn

from monai_ext.base.errors import InputError
from monai_ext.base.stain import BETA, SOURCE_INTENSITY
from monai_ext.networks.convention import InputConvention
from monai_ext.networks.runtime import RuntimeNetwork

__all__ = ["TissueFeatures"]

_LEAST = 0.25  # of a tile; with less tissue it says more about glass
_GRAIN = 4  # px of the squares in which tissue is told from glass
_DARKNESS = math.exp(-3 * BETA)  # the product of three channels whose mean optical density is that of tissue


class TissueFeatures:
    """Listens to a network: the mean and the deviation of its layers' channels over the tissue of each tile.

    What the network gives is left as it is, to the last bit. Its input is cut into tiles of about ``tile`` px; an
    input that is smaller is one tile. Tissue is what is darker than glass, as in stain estimation; tiles of which less
    than a quarter is tissue are left out.

    Args:
        network: the network; any of its methods that runs its first convolution on images and then all ``layers``. Of a
            :class:`~monai_ext.networks.RuntimeNetwork` the layers that it was told of.
        layers: names of modules that give maps ``(B, C, h, w)``, or mappings of maps, in the order they run; of a
            mapping, ``"backbone:3"`` is the map with key ``"3"``.
        tile: px of the network's input.
        convention: of that input.
        take: called after each pass with the features ``(N, D)``, float32, and how much of each tile counts ``(N,)``:
            its share of tissue, 0 where that is too little; both on the network's device.

    Raises:
        InputError: the network has no such layer.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Sequence[str],
        tile: int,
        convention: InputConvention,
        take: Callable[[Tensor, Tensor], None],
    ) -> None:
        self.layers, self.tile, self.convention, self.take = list(layers), tile, convention, take
        self._tissue: Tensor | None = None
        self._grid = (1, 1)
        self._seen: dict[str, Tensor] = {}
        if isinstance(network, RuntimeNetwork):
            if not set(self.layers) <= set(network.layers):
                raise InputError("runtime", f"the layers {', '.join(self.layers)}", ", ".join(network.layers) or "none")
            network.listeners.append(self._heard)
            self._undo = [partial(network.listeners.remove, self._heard)]
            return
        named = dict(network.named_modules())
        missing = [name for name in self.layers if name.split(":")[0] not in named]
        entry = next((module for module in named.values() if isinstance(module, nn.Conv2d)), None)
        if missing or entry is None:
            raise InputError(type(network).__name__, f"the layers {', '.join(self.layers)}", "a network without them")
        hooks = [entry.register_forward_pre_hook(self._begin)]
        by_module: dict[str, list[str]] = {}
        for name in self.layers:
            by_module.setdefault(name.split(":")[0], []).append(name)
        hooks += [named[name].register_forward_hook(self._listener(names)) for name, names in by_module.items()]
        self._undo = [hook.remove for hook in hooks]

    def remove(self) -> None:
        """Listen no more."""
        for undo in self._undo:
            undo()

    def _heard(self, images: Tensor, maps: Mapping[str, Tensor]) -> None:
        """A pass of a network whose layers another engine computes."""
        self._begin(network=None, inputs=(images,))
        for name in self.layers:
            self._add(name, maps[name])

    @torch.no_grad()
    def _begin(self, network: nn.Module | None, inputs: tuple[Any, ...]) -> None:  # noqa: ARG002 - a hook's arguments
        images = convert_to_tensor(inputs[0].detach(), dtype=torch.float32, track_meta=False)
        self._seen = {}
        self._grid = tuple(max(1, side // self.tile) for side in images.shape[2:])
        small = F.avg_pool2d(images, _GRAIN, ceil_mode=True)
        light = self.convention.undo(small).clamp(min=0) / (255 * SOURCE_INTENSITY)
        self._tissue = (light.prod(1, keepdim=True) < _DARKNESS).float()

    def _listener(self, names: list[str]) -> Callable[..., None]:
        def listen(_: nn.Module, __: Any, output: Any) -> None:
            for name in names:
                key = name.partition(":")[2]
                self._add(name, output[key] if isinstance(output, Mapping) else output)

        return listen

    @torch.no_grad()
    def _add(self, name: str, maps: Tensor) -> None:
        """Take in a layer's maps; of a pass that did not begin with the first convolution they are none."""
        if self._tissue is None:
            return
        self._seen[name] = self._pooled(convert_to_tensor(maps.detach(), track_meta=False), self._tissue)
        if len(self._seen) == len(self.layers):
            self._finish()

    def _pooled(self, maps: Tensor, tissue: Tensor) -> Tensor:
        """Mean and deviation of each channel over the tissue of each tile, ``(B * tiles, 2 C)``."""
        sparse = [max(1, side // fine) for fine, side in zip(tissue.shape[2:], maps.shape[2:], strict=True)]
        maps = maps[..., :: sparse[0], :: sparse[1]].float()  # as dense as tissue is known
        weight = F.adaptive_avg_pool2d(tissue, maps.shape[2:])
        area = F.adaptive_avg_pool2d(weight, self._grid).clamp(min=1e-6)
        weighted = maps * weight
        mean = F.adaptive_avg_pool2d(weighted, self._grid) / area
        square = F.adaptive_avg_pool2d(weighted * maps, self._grid) / area
        deviation = (square - mean**2).clamp(min=0).sqrt()
        return torch.cat([mean, deviation], 1).movedim(1, -1).flatten(0, 2)

    def _finish(self) -> None:
        share = F.adaptive_avg_pool2d(self._tissue, self._grid).flatten()
        features = torch.cat([self._seen[name] for name in self.layers], 1)
        self._tissue, self._seen = None, {}
        with torch.autocast(features.device.type, enabled=False):
            self.take(features, share * (share >= _LEAST))  # all of them: to choose would make a GPU wait
