"""No network at all: how much hematoxylin a pixel holds, as the baseline of trained networks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_ext.base.stain import HE_STAINS
from monai_ext.networks.convention import InputConvention

__all__ = ["HematoxylinGrid", "HematoxylinMap", "HematoxylinScore"]


class HematoxylinMap(nn.Module):
    """Maps an image to logits whose softmax is its hematoxylin, in the place of a segmentation network.

    The optical density is unmixed by the fixed vectors of hematoxylin and eosin (Ruifrok and Johnston); a concentration
    of 0 becomes a probability of 0, one of ``darkest`` and above becomes 1.

    Args:
        convention: of the images that it is given; ``None`` for RGB divided by 255.
        darkest: concentration, in units of optical density, of a probability of 1.
    """

    def __init__(self, convention: InputConvention | None = None, darkest: float = 3.0) -> None:
        super().__init__()
        self.darkest = darkest
        stains = torch.as_tensor(HE_STAINS, dtype=torch.float32)
        self.register_buffer("unmix", torch.linalg.pinv(stains / stains.norm(dim=0))[0], persistent=False)
        convention = convention or InputConvention()
        # the way back to pixels as tensors, which TorchScript takes
        black = convention.undo(torch.zeros(1, 3, 1, 1))
        self.register_buffer("black", black, persistent=False)
        self.register_buffer("slope", convention.undo(torch.ones(1, 3, 1, 1)) - black, persistent=False)
        self.bgr = convention.channels == "BGR"

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, 2, H, W)`` of a normalised image ``(B, 3, H, W)``."""
        amount = self.amount(x) / self.darkest
        return torch.stack([torch.zeros_like(amount), amount.clamp(1e-6, 1 - 1e-6).logit()], dim=1)

    def amount(self, x: Tensor) -> Tensor:
        """Concentrations of hematoxylin ``(B, H, W)``, in units of optical density, of ``(B, 3, H, W)``."""
        rgb = x.flip(1) if self.bgr else x
        light = ((rgb * self.slope + self.black) / 255).clamp(1 / 255, 1)
        return torch.einsum("c,bchw->bhw", self.unmix, -light.log())


class HematoxylinScore(nn.Module):
    """Scores a patch by the hematoxylin in its middle, in the place of a classifier: cells crowd in tumour.

    Args:
        convention: as for :class:`HematoxylinMap`.
        centre: side of the middle square that is looked at, px; 32 for PCam, whose label speaks of it alone.
        halfway: mean concentration of a probability of .5, in units of optical density.
    """

    def __init__(self, convention: InputConvention | None = None, centre: int = 32, halfway: float = 0.35) -> None:
        super().__init__()
        self.map, self.centre, self.halfway = HematoxylinMap(convention), centre, halfway

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, 1)`` of normalised patches ``(B, 3, H, W)``, not smaller than the square."""
        top, left = (x.shape[2] - self.centre) // 2, (x.shape[3] - self.centre) // 2
        middle = x[:, :, top : top + self.centre, left : left + self.centre]
        return (self.map.amount(middle).mean((1, 2)) - self.halfway)[:, None]


class HematoxylinGrid(nn.Module):
    """Calls a cell cancerous by the hematoxylin in its patch, in the place of LoopNet: large nuclei, much chromatin.

    A vessel is judged by its darkest cell. Both cuts were chosen on vessels of the phantom.

    Args:
        convention: as for :class:`HematoxylinMap`.
        grid: patches along a side of the mosaic.
        cut: mean concentration in a patch above which its cell is cancerous, in units of optical density.
        halfway: mean concentration in the darkest patch at a probability of .5.
    """

    def __init__(
        self,
        convention: InputConvention | None = None,
        grid: int = 14,
        cut: float = 0.35,
        halfway: float = 0.93,
    ) -> None:
        super().__init__()
        self.map, self.grid = HematoxylinMap(convention), grid
        self.cut, self.halfway = cut, halfway

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """As LoopNet: of mosaics ``(B, 3, H, W)`` ``logit``, ``(B, 1)``, and ``p_loc``, ``(B, 3, grid, grid)``."""
        amount = F.adaptive_avg_pool2d(self.map.amount(x)[:, None], self.grid)
        # half of the cut is taken for an empty patch; glass has none
        located = torch.cat([self.cut / 2 - amount, torch.zeros_like(amount), amount - self.cut], dim=1)
        return {"logit": amount.flatten(1).amax(1, keepdim=True) - self.halfway, "p_loc": located}
