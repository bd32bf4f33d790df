"""Small slides, and a network that is quick to run."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import tifffile
import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    """One thread a process, so that equal seeds give equal sums."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


class ConvPredictor:
    """Three valid convolutions, a mean over cells, a sigmoid: plainly convolutional, receptive field 7 px + step."""

    def __init__(self, step: int = 8, margin: int = 3, channels: int = 1, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.step, self.margin, self.channels = step, margin, channels
        layers = [nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Conv2d(6, 6, 3), nn.Tanh(), nn.Conv2d(6, channels, 3)]
        self.network = nn.Sequential(*layers, nn.AvgPool2d(step)).eval()
        for parameter in self.network.parameters():
            nn.init.normal_(parameter, std=0.4, generator=generator)

    @torch.inference_mode()
    def __call__(self, tiles: Tensor) -> Tensor:
        crop = self.margin - 3
        inner = tiles[..., crop : tiles.shape[-2] - crop, crop : tiles.shape[-1] - crop]
        return self.network(inner.float() / 128 - 1).sigmoid()


class DarkPredictor:
    """How dark a cell is: 1 for black, 0 for white."""

    step, margin, channels = 8, 0, 1

    def __init__(self, step: int = 8, margin: int = 0) -> None:
        self.step, self.margin = step, margin

    def __call__(self, tiles: Tensor) -> Tensor:
        m = self.margin
        inner = tiles[..., m : tiles.shape[-2] - m, m : tiles.shape[-1] - m]
        return 1 - nn.functional.avg_pool2d(inner.float().mean(dim=1, keepdim=True) / 255, self.step)


def paint(height: int, width: int, seed: int = 0) -> np.ndarray:
    """An ellipse of stained tissue on glass, uint8 ``(H, W, 3)``."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 244, np.float32)
    noise = cv2.GaussianBlur(rng.normal(0, 1, (height, width)).astype(np.float32), (0, 0), 4)
    tissue = np.array([205, 130, 180], np.float32) + 260 * noise[..., None]
    mask = np.zeros((height, width), np.uint8)
    cv2.ellipse(mask, (width // 2, height // 2), (int(width * 0.38), int(height * 0.36)), 0, 0, 360, 1, -1)
    image[mask > 0] = tissue[mask > 0]
    return np.clip(image, 0, 255).astype(np.uint8)


def write_tiff(
    path: Path, image: np.ndarray, mpp: float | None = 0.5, levels: int = 1, tile: int = 256, compression: str = "zlib"
) -> Path:
    """A tiled TIFF as scanners' converters write them, each level half the one before."""
    with tifffile.TiffWriter(path) as writer:
        for number in range(levels):
            stated = {} if mpp is None else {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
            writer.write(
                image,
                photometric="rgb",
                tile=(tile, tile),
                compression=compression,
                subfiletype=int(number > 0),
                metadata=None,
                **stated,
            )
            image = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return path


def files(folder: Path) -> dict[str, bytes]:
    """What a folder holds."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
