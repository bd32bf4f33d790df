"""A network whose evidence is known, and images to find it in."""

import json

import cv2
import numpy as np
import torch
from torch import nn

PINK, RED, PURPLE = (220, 180, 200), (230, 20, 20), (90, 60, 130)  # RGB
SIDE = 48


class RedNetwork(nn.Module):
    """Red pixels, as normalised by the bundle, speak for tumour: exactly so in ``stage2``, by cells in ``stage3``."""

    def __init__(self):
        super().__init__()
        self.stage2 = nn.Sequential(nn.Conv2d(3, 1, 1), nn.ReLU())
        self.stage3 = nn.Sequential(nn.AvgPool2d(4), nn.ReLU())
        with torch.no_grad():
            self.stage2[0].weight.copy_(torch.tensor([[1.0, -1, 0]])[..., None, None])  # pink .6, red 3.5
            self.stage2[0].bias.fill_(-2)

    def forward(self, x):
        y = self.stage3(self.stage2(x))
        return 8 * y.mean((2, 3)) - 1


def write_planted(folder, masks=True, positives=3, negatives=9, lists=("validation",)):
    """Patches with a red disk (positive) or without, all with purple ones, as a data set; returns its folder."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    content = {name: [] for name in ("training", "validation", "test")}
    for name in lists:
        for index in range(positives + negatives):
            label = int(index < positives)
            image, mask = np.full((SIDE, SIDE, 3), PINK, np.uint8), np.zeros((SIDE, SIDE), np.uint8)
            for _ in range(4):
                cv2.circle(image, tuple(map(int, rng.integers(0, SIDE, 2))), 3, PURPLE, -1)
            if label:
                centre = tuple(map(int, rng.integers(12, SIDE - 12, 2)))
                cv2.circle(image, centre, 9, RED, -1)
                cv2.circle(mask, centre, 9, 1, -1)
            stem = f"{name}{index}"
            cv2.imwrite(str(folder / f"{stem}.png"), image[..., ::-1])
            item = {"image": f"{stem}.png", "label": label, "group": stem}
            if masks:
                cv2.imwrite(str(folder / f"{stem}_mask.png"), mask)
                item["mask"] = f"{stem}_mask.png"
            content[name].append(item)
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder
