"""Phases of a cycle that do nothing but count: a backbone is a number that each training adds to."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.distributed as dist

FRONT, BACK = 1, 100  # what a training of either end adds
FIELD = 200  # grey of the images
INSIDE = np.zeros((40, 40), bool)  # the one instance of each
INSIDE[5:20, 8:30] = True


def _begin(folder):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a") as log:
        log.write("run\n")
    return folder


def _backbone(path):
    return torch.load(path, weights_only=True)["w"] if path else torch.zeros(1)


def front(ckpt_dir, backbone_weights, step):
    folder = _begin(ckpt_dir)
    torch.save({"backbone.w": _backbone(backbone_weights) + step, "fc": torch.zeros(1)}, folder / "model.pt")


def data_set(output_dir, *made_from, test=({"image": "a.png"},)):
    content = {"test": list(test), "made_from": [*map(str, made_from)]}
    (_begin(output_dir) / "dataset.json").write_text(json.dumps(content))


def back(ckpt_dir, dataset_dir, backbone_weights, start_from, scores):
    folder = _begin(ckpt_dir)
    begun = torch.load(start_from, weights_only=True)["backbone.w"] if start_from else _backbone(backbone_weights)
    assert (Path(dataset_dir) / "dataset.json").is_file()
    torch.save({"backbone.w": begun + BACK, "head": torch.zeros(1)}, folder / "model.pt")
    score = scores.get(f"{folder.parent.name}/{folder.name}", 0.5)
    (folder / "history.json").write_text(json.dumps([{"epoch": 1}, {"epoch": 2, "val_dice": score}]))


def evaluate(ckpt_dir, output_dir, size):
    """``size``: of images whose instances are left for the picture; 0 for none."""
    assert (Path(ckpt_dir) / "model.pt").is_file()
    folder = _begin(output_dir)
    metrics = {"dice": {"value": 0.7, "low": 0.6, "high": 0.8}, "images": 3}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    images = Path(output_dir).parents[2] / "images"  # the same ones for all networks
    images.mkdir(exist_ok=True)
    items = []
    for number in range(3 if size else 0):
        image, mask = images / f"{number}.png", folder / f"{number}.png"
        cv2.imwrite(str(image), np.full((size, size, 3), FIELD, np.uint8))
        cv2.imwrite(str(mask), INSIDE.astype(np.uint8))
        items.append({"image": str(image), "label": str(mask), "instances": str(mask)})
    if items:
        (folder / "dataset.json").write_text(json.dumps({"test": items}))


def mark(folder):
    """A phase that notes which rank runs it; the first one leaves the result."""
    rank = dist.get_rank()
    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    with (folder / f"rank_{rank}.txt").open("a") as log:
        log.write("run\n")
    if rank == 0:
        (folder / "result.txt").write_text("done")
