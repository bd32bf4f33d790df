"""Tiny images of dark discs on a light ground, and what instances of them share."""

import torch


def disc_image(seed=0, count=5, side=96, radii=(6, 11)):
    """``(3, side, side)`` and the ids ``(1, side, side)`` of ``count`` discs that do not touch."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.zeros(1, side, side, dtype=torch.int64)
    rows, cols = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    found = 0
    while found < count:
        row, col = torch.randint(8, side - 8, (2,), generator=generator)
        distance = ((rows - row) ** 2 + (cols - col) ** 2).sqrt()
        radius = torch.randint(*radii, (1,), generator=generator)
        if not (ids[0][distance <= radius + 2] > 0).any():
            found += 1
            ids[0][distance <= radius] = found
    noise = 0.1 * torch.randn(3, side, side, generator=generator)
    return torch.where(ids > 0, -1.0, 1.0) + noise, ids


def grid_ids(across, pitch=6, size=4):
    """Ids ``(1, side, side)`` of ``across ** 2`` squares of ``size`` px, ``pitch`` px apart."""
    place = torch.arange(across * pitch)
    number = torch.where(place % pitch < size, place // pitch, -1)
    both = (number[:, None] >= 0) & (number[None] >= 0)
    return torch.where(both, number[:, None] * across + number[None] + 1, 0)[None]


def dense_ious(one, other):
    """``(N, M)`` intersection over union of masks ``(N, H, W)`` and ``(M, H, W)``, mask by mask."""
    table = [[(a & b).sum() / (a | b).sum().clamp(min=1) for b in other] for a in one]
    return torch.tensor(table).view(len(one), len(other))


def f1(found, true, iou=0.5):
    """Share of the instances, found and true, that have a partner of a greater IoU than ``iou`` (unique from .5)."""
    matched = (dense_ious(found, true) > iou).sum().item()
    return 2 * matched / (len(found) + len(true))
