"""A tiny data set of nuclei whose class is their colour."""

import json

import numpy as np
import pandas as pd
import torch

from monai_ext.data import write_nuclei
from monai_ext.networks.nets import RCCNet

NAMES = ["other", "immune", "muscle"]
COLOURS = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200], [120, 120, 120]])


def planted(folder, images=(2, 1, 1), count=24, size=16, seed=0, noise=0.0):
    """``count`` nuclei in each image: classes in turn, a fifth of ``ea`` empty, one background in all."""
    rng = np.random.RandomState(seed)
    content = {"class_names": NAMES, "training": [], "validation": [], "test": []}
    for part, number in zip(("training", "validation", "test"), images, strict=True):
        for index in range(number):
            truth = np.arange(count) % 3
            truth[-1] = 3
            patches = np.clip(COLOURS[truth][:, None, None] + rng.normal(0, 20, (count, size, size, 3)), 0, 255)
            names = np.array([*NAMES, "background"])
            wrong = np.where((rng.rand(count) < noise) & (truth < 3), (truth + 1) % 3, truth)
            table = {"row": np.arange(count), "col": np.arange(count) + 0.25, "scale": 1}
            table = pd.DataFrame(table).assign(wsa=names[wrong], ssa=names[truth], ea=names[truth])
            table.loc[::5, "ea"] = ""
            name = f"{part}{index}"
            content[part].append(write_nuclei(folder, name, patches.astype(np.uint8), table) | {"group": name})
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def planted_with_student(folder):
    """:func:`planted` nuclei in ``data``, and in ``student`` an untrained network's weights."""
    planted(folder / "data")
    (folder / "student").mkdir()
    torch.manual_seed(0)
    torch.save(RCCNet(patch_size=16).state_dict(), folder / "student/model.pt")
    return folder
