#!/usr/bin/env bash
# napari's plugin for OME-Zarr lays a reduced image, or a part of a larger one, at the origin: its translation is dropped.
#
# Seen with napari-ome-zarr 0.10.0 and napari 0.9.2: of a dataset's coordinateTransformations, which OME-NGFF 0.4 and 0.5
# ask to be a scale and then, if any, a translation, only the first is read. A map of 4 x 4 px whose centre lies where it
# should over an image of 8 times its resolution is shown half a pixel of the map up and left; a crop lies at 0, 0.
# Who meets it: whoever lays a heat map or a crop over its slide in napari, whatever wrote them.
# Source: napari_ome_zarr/ome_zarr_reader.py of 0.10.0 (`ds_transform = ds_transforms[0]`); OME-NGFF 0.4, section 3.4;
# earlier releases read both (pull request 32 of ome/napari-ome-zarr).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check napari==0.9.2 napari-ome-zarr==0.10.0 zarr==3.1.6
cat > "$work/try.py" <<'PY'
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import zarr
from napari_ome_zarr import napari_get_reader

print(", ".join(f"{name} {version(name)}" for name in ("napari-ome-zarr", "napari", "zarr")))
axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"]
shown = {}
for name, begins in (("origin", 0.0), ("crop", 100.0)):
    path = str(Path(sys.argv[1]) / f"{name}.zarr")
    root = zarr.open_group(path, mode="w", zarr_format=2)
    root.create_array("0", data=np.ones((4, 4), np.float32))
    steps = [{"type": "scale", "scale": [2.0, 2.0]}, {"type": "translation", "translation": [begins, begins]}]
    levels = [{"path": "0", "coordinateTransformations": steps}]
    root.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": levels}]
    [(_, layer, _)] = napari_get_reader(path)(path)
    shown[name] = np.array(layer.get("translate", (0, 0))) + layer["affine"].translate
    print(f"{name}: written at {begins:g} um, scale 2; layer at {shown[name].tolist()}, scale {layer['scale']}")
sys.exit(not (shown["crop"] == shown["origin"]).all())
PY
"$work/env/bin/python" -W ignore "$work/try.py" "$work" 2> /dev/null | grep -v "^Root group"
