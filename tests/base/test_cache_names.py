"""A cache's names follow the files and the settings."""

import os
import subprocess
import sys

import numpy as np
import torch
from monai.transforms import CopyItemsd

from monai_ext.data import item_hash, settings_hash
from monai_ext.transforms import KCFPseudoMaskd, LoadVesseld


def test_a_changed_file_has_another_name(tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(b"one")
    item = {"image": str(file), "label": 1}
    name = item_hash(item)
    assert item_hash(dict(item)) == name
    assert item_hash({**item, "label": 0}) != name
    os.utime(file, ns=(1, 1))
    touched = item_hash(item)
    assert touched != name
    file.write_bytes(b"other")
    os.utime(file, ns=(1, 1))
    assert item_hash(item) != touched


def transforms(template, **options):
    return [CopyItemsd("image", names="file"), LoadVesseld("image"), KCFPseudoMaskd("image", [template], **options)]


def test_settings_give_names_and_use_does_not_change_them():
    template = np.random.default_rng(0).integers(0, 255, (3, 9, 9), np.uint8)
    steps = transforms(template)
    name = settings_hash(steps)
    assert settings_hash(transforms(template.copy())) == name
    steps[2].find(np.zeros((3, 40, 40), np.uint8))  # fills the filter's own cache
    assert settings_hash(steps) == name
    assert settings_hash(transforms(template, rotations=2)) != name
    assert settings_hash(transforms(template[:, :8])) != name
    other = template.copy()
    other[0, 0, 0] += 1
    assert settings_hash(transforms(other)) != name


def test_another_process_gives_the_same_name():
    code = "import torch; from monai_ext.data import settings_hash as h; print(h([torch.arange(5.), {'a': (1, None)}]))"
    names = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout}
    assert names == {f"{settings_hash([torch.arange(5.0), {'a': (1, None)}])}\n"}
