#!/usr/bin/env bash
# ITK and SimpleITK open no NIfTI-2, the only NIfTI that can hold a side above 32,767 px.
#
# Seen with SimpleITK 2.5.7 and itk-io 5.4.7, on a file of nibabel 5.4.2: SimpleITK "Unable to determine ImageIO reader",
# itk "Could not create IO object for reading file"; the same pixels as NIfTI-1 are read by both. nibabel reads either.
# Why it surprises: NIfTI-2 is of 2011, the file ends in .nii as any other, and neither message says that it is the
# version of the format which is not read.
# Who meets it: who writes a label map of a whole slide, of which one side has more than 32,767 px, as NIfTI for
# ITK-SNAP, 3D Slicer or elastix, which all read through ITK. NRRD has no such limit.
# Source: https://nifti.nimh.nih.gov/nifti-2 (dim is int16 in NIfTI-1, int64 in NIfTI-2); ITK's issue 3639, open: ITK
# ships the sources of NIfTI-1 alone (Modules/ThirdParty/NIFTI/src/nifti/niftilib).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check \
    nibabel==5.4.2 itk-io==5.4.7 SimpleITK==2.5.7 numpy==2.2.6
cd "$work"
cat > try.py <<'PY'
from importlib.metadata import version

import itk
import nibabel
import numpy as np
import SimpleITK

print(", ".join(f"{name} {version(name)}" for name in ("nibabel", "itk-io", "SimpleITK")))
values = np.arange(24, dtype=np.uint8).reshape(4, 3, 2)
readers = {
    "nibabel": lambda path: np.asarray(nibabel.load(path).dataobj),
    "itk": lambda path: itk.array_from_image(itk.imread(path)).T,
    "SimpleITK": lambda path: SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path)).T,
}
read = {}
for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image):
    path = f"{kind.__name__}.nii"
    image = kind(values, np.diag([0.5, 0.5, 0.5, 1]))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    for name, reader in readers.items():
        try:
            read[kind.__name__, name] = bool((reader(path) == values).all())
            print(f"{path}, {name}: {'the same values' if read[kind.__name__, name] else 'other values'}")
        except RuntimeError as error:
            read[kind.__name__, name] = False
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            said = next((line for line in lines if "Unable" in line or "Could not" in line), lines[-1])
            print(f"{path}, {name}: {said}")
expected = {key: key[0] == "Nifti1Image" or key[1] == "nibabel" for key in read}
raise SystemExit(read != expected)
PY
env/bin/python try.py
