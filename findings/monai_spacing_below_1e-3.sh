#!/usr/bin/env bash
# MONAI's Spacing leaves a microscope's image as it is when its affine is in mm.
#
# Seen with monai 1.6.1 and torch 2.15.0: an image of 64 x 64 px at .25 um/px, resampled to .5 um/px, becomes 32 x 32 px
# if its affine is written in um, and stays 64 x 64 px, with its old spacing and without a word, if it is in mm.
# Why it surprises: mm is the unit of NIfTI, of DICOM and of MONAI's own documentation, and spacings are compared with
# an absolute tolerance of 1e-3 (AFFINE_TOL in monai/transforms/spatial/array.py), which is larger than any pixel of a
# light microscope in mm (.00025). The factor of two is lost, not an error of rounding.
# Who meets it: whoever gives pathology images a spacing in mm, as ITK-SNAP, 3D Slicer and NIfTI want it, and puts
# Spacing or Spacingd into a pipeline that worked for CT.
# Source: monai/transforms/spatial/array.py of monai 1.6.1 (SpatialResample compares affines with AFFINE_TOL).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check monai==1.6.1 torch==2.15.0 numpy==2.2.6
cat > "$work/try.py" <<'PY'
import monai
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Spacing

print(f"monai {monai.__version__}, torch {torch.__version__}")
sizes = {}
for unit, um in (("um", 1.0), ("mm", 1e-3)):
    image = MetaTensor(torch.rand(1, 64, 64), affine=torch.tensor(np.diag([0.25 * um, 0.25 * um, 1, 1])))
    sizes[unit] = tuple(Spacing((0.5 * um, 0.5 * um))(image).shape[1:])
    print(f"from .25 to .5 um/px, affine in {unit}: 64 x 64 px become {sizes[unit][0]} x {sizes[unit][1]}")
raise SystemExit(sizes != {"um": (32, 32), "mm": (64, 64)})
PY
"$work/env/bin/python" "$work/try.py" 2> /dev/null
