"""What computes the tiles of a slide: three ways from a network to a map of probabilities, and the choice of one.

Each is called with uint8 RGB tiles and gives one value for each ``step`` x ``step`` cell; a tile brings ``margin`` px
of its surroundings along on every side. See :class:`monai_ext.slides.TilePredictor`.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_ext.base.errors import InputError
from monai_ext.inferers.autocast import AutocastInferer
from monai_ext.networks.convention import InputConvention
from monai_ext.networks.nets.celnet import CELNet
from monai_ext.networks.runtime import RuntimeNetwork
from monai_ext.networks.utils import weights_digest

__all__ = ["ExactWindows", "MapPredictor", "PixelMap", "SharedWindows", "choose_windows"]


class MapPredictor(ABC):
    """Pixels in, probabilities out; the network's normalisation, device and precision are settled here."""

    channels = 1
    align = 1

    def __init__(
        self,
        network: nn.Module,
        step: int,
        margin: int,
        convention: InputConvention | None,
        device: torch.device | str,
        autocast: bool,
    ) -> None:
        device = torch.device(device)
        network = network.for_inference() if hasattr(network, "for_inference") else network.eval()
        self.network = network.to(device, memory_format=torch.channels_last)
        self.step, self.margin, self.device = step, margin, device
        self.convention = convention or InputConvention()
        dtype = torch.float16 if device.type == "cuda" else torch.bfloat16
        self.infer = AutocastInferer(autocast, device.type, dtype)

    @property
    def fingerprint(self) -> str:
        """All that decides the map, as text: the network and its weights, its input, the geometry, the precision.

        The device counts by its kind, and so does the batch: sums in another order differ in their last bits.
        """
        settings = {name: value for name, value in vars(self).items() if isinstance(value, int)}
        precision = str(self.infer.dtype) if self.infer.enabled else "torch.float32"
        values = [self.convention.content(), self.device.type, precision]
        return json.dumps([type(self).__qualname__, weights_digest(self.network), settings, values], sort_keys=True)

    @torch.no_grad()
    def __call__(self, tiles: Tensor, **options: Any) -> Tensor:
        """The maps of a batch of tiles.

        Args:
            tiles: uint8 ``(B, 3, h * step + 2 * margin, w * step + 2 * margin)`` RGB.
            **options: passed on to :meth:`probabilities`.

        Returns:
            float32 ``(B, 1, h, w)`` probabilities on the predictor's device.
        """
        images = self.convention(tiles.to(self.device, non_blocking=True))
        return self.probabilities(images.contiguous(memory_format=torch.channels_last), **options)

    @abstractmethod
    def probabilities(self, images: Tensor) -> Tensor:
        """The maps of normalised tiles."""


class ExactWindows(MapPredictor):
    """Every window is cut out and scored as a patch of its own, exactly as in training, but those on glass.

    Args:
        network: gives logits ``(B, 1)`` for patches ``(B, 3, window, window)``.
        window: side of a patch, px.
        step: px between neighbouring patches; at most ``window``.
        convention: of the network's input; ``None`` for RGB divided by 255.
        device: where to compute.
        batch_size: patches at a time.
        autocast: float16 on GPUs, bfloat16 on CPUs.

    Raises:
        InputError: a step that is larger than the window or leaves an odd margin.
    """

    selective = True

    def __init__(
        self,
        network: nn.Module,
        window: int = 96,
        step: int = 24,
        convention: InputConvention | None = None,
        device: torch.device | str = "cpu",
        batch_size: int = 64,
        autocast: bool = False,
    ) -> None:
        if not 0 < step <= window or (window - step) % 2:
            raise InputError("ExactWindows", f"a step up to {window}, even like the window", str(step))
        super().__init__(network, step, (window - step) // 2, convention, device, autocast)
        self.window, self.batch_size = window, batch_size

    def probabilities(self, images: Tensor, wanted: Tensor | None = None) -> Tensor:
        """``(B, 1, h, w)`` from ``(B, 3, H, W)``; 0 where a window is not ``wanted``, bool ``(B, h, w)``."""
        windows = images.unfold(2, self.window, self.step).unfold(3, self.window, self.step)
        windows = windows.permute(0, 2, 3, 1, 4, 5)  # views: only a batch at a time is copied
        wanted = torch.ones(windows.shape[:3], dtype=torch.bool) if wanted is None else wanted
        heat = torch.zeros(wanted.shape, device=images.device)
        for part in wanted.nonzero().split(self.batch_size):
            places = part.unbind(1)
            patches = windows[places].contiguous(memory_format=torch.channels_last)
            heat[places] = self.infer(patches, self.network).sigmoid()[:, 0]
        return heat[:, None]


class SharedWindows(MapPredictor):
    """All windows of a tile share its feature maps: each pixel is convolved once, however far windows overlap.

    Channel attention is computed on a lattice of a quarter of the window, so tiles begin at its multiples (``align``).

    Args:
        network: a :class:`CELNet`; its ``window`` decides what a value looks at.
        step: px between neighbouring windows; divides a quarter of the window or is a multiple of it.
        context: px around the windows that feed the convolutions and the attention only, so that tiles meet without a
            seam; a multiple of an eighth of the window. Twice the window leaves no trace; once the window, less than
            a thousandth.
        convention: of the network's input; ``None`` for RGB divided by 255.
        device: where to compute.
        autocast: float16 on GPUs, bfloat16 on CPUs.

    Raises:
        InputError: another network, or a step or a context that does not fit the window.
    """

    def __init__(
        self,
        network: CELNet,
        step: int = 24,
        context: int = 96,
        convention: InputConvention | None = None,
        device: torch.device | str = "cpu",
        autocast: bool = False,
    ) -> None:
        if not hasattr(network, "dense"):
            raise InputError("SharedWindows", "a CELNet; ExactWindows takes any network", type(network).__name__)
        window, cell = network.window, network.window // 4
        steps = [each for each in range(4, window + 1, 4) if each % cell == 0 or cell % each == 0]
        if step not in steps:
            raise InputError("SharedWindows", f"a step (--step) among {', '.join(map(str, steps))}", str(step))
        if context < 0 or context % (cell // 2):
            raise InputError("SharedWindows", f"context as a multiple of {cell // 2}", str(context))
        super().__init__(network, step, (window - step) // 2 + context, convention, device, autocast)
        self.context, self.cell, self.align = context, cell, cell

    def probabilities(self, images: Tensor) -> Tensor:
        """``(B, 1, h, w)`` from ``(B, 3, H, W)``."""
        rows, columns = ((side - 2 * self.margin) // self.step for side in images.shape[2:])
        spare = [-side % self.cell for side in images.shape[:1:-1]]  # for steps below a quarter of the window
        images = F.pad(images, (0, spare[0], 0, spare[1]), mode="replicate") if any(spare) else images
        logits = self.infer(images, self._dense)
        return logits[..., :rows, :columns].sigmoid()

    def _dense(self, images: Tensor) -> Tensor:
        return self.network.dense(images, self.step, self.context)


def choose_windows(
    network: nn.Module,
    step: int = 24,
    window: int = 96,
    context: int = 96,
    convention: InputConvention | None = None,
    device: torch.device | str = "cpu",
    batch_size: int = 64,
    autocast: bool = False,
    engine: nn.Module | None = None,
) -> MapPredictor:
    """The cheaper way to score windows.

    Windows that overlap by half or more are convolved once, by :class:`SharedWindows`, where the network can. What
    overlaps less is convolved about as often either way, and sharing has its context to pay besides: then, and for
    other networks, each is cut out, by :class:`ExactWindows`.

    Args:
        network: a :class:`CELNet`, or any that gives logits ``(B, 1)`` for patches.
        step: px between neighbouring windows.
        window: side of a window, px.
        context: px, see :class:`SharedWindows`.
        convention: of the network's input; ``None`` for RGB divided by 255.
        device: where to compute.
        batch_size: windows at a time, of :class:`ExactWindows`.
        autocast: float16 on GPUs, bfloat16 on CPUs.
        engine: what computes the network where windows are cut out, see :func:`~monai_ext.networks.with_runtime`; by
            default the network itself.

    Raises:
        InputError: a step or a context that does not fit the window.

    Example:
        >>> type(choose_windows(CELNet(), step=24)).__name__, type(choose_windows(CELNet(), step=96)).__name__
        ('SharedWindows', 'ExactWindows')
    """
    if hasattr(network, "dense") and 2 * step <= window:
        if isinstance(engine, RuntimeNetwork):
            engine.decline(f"windows {step} px apart share the network's maps (--step: from {window // 2 + 2} px on)")
        return SharedWindows(network, step, context, convention, device, autocast)
    cut = network if engine is None else engine
    return ExactWindows(cut, window, step, convention, device, batch_size, autocast)


class PixelMap(MapPredictor):
    """One class of a fully convolutional network, its probability pooled over cells.

    Args:
        network: gives logits ``(B, K, H, W)`` for ``(B, 3, H, W)``.
        channel: the class that counts; its probability is the softmax's.
        step: side of a cell, px; the cell takes its largest value.
        margin: px around a tile, at least half of the receptive field; a multiple of ``align``.
        align: the network's largest stride, px; tiles begin at its multiples, so that all are computed on one grid.
        convention: of the network's input; ``None`` for RGB divided by 255.
        device: where to compute.
        autocast: float16 on GPUs, bfloat16 on CPUs.

    Raises:
        InputError: a margin off the network's grid.
    """

    def __init__(
        self,
        network: nn.Module,
        channel: int = 1,
        step: int = 4,
        margin: int = 256,
        align: int = 32,
        convention: InputConvention | None = None,
        device: torch.device | str = "cpu",
        autocast: bool = False,
    ) -> None:
        if margin < 0 or margin % align:
            raise InputError("PixelMap", f"a margin as a multiple of {align}", str(margin))
        super().__init__(network, step, margin, convention, device, autocast)
        self.channel, self.align = channel, align

    def probabilities(self, images: Tensor) -> Tensor:
        """``(B, 1, h, w)`` from ``(B, 3, H, W)``."""
        probability = self.infer(images, self.network).softmax(1)[:, self.channel : self.channel + 1]
        inner = [slice(self.margin, side - self.margin) for side in images.shape[2:]]
        return F.max_pool2d(probability[..., inner[0], inner[1]], self.step)
