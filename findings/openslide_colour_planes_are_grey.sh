#!/usr/bin/env bash
# OpenSlide shows the red plane of a tiled OME-TIFF as a grey slide.
#
# Seen with OpenSlide 4.0.1 (openslide-python 1.4.7, openslide-bin 4.0.1.2) and tifffile 2025.5.10: an OME-TIFF of the
# axes CYX, tiled, whose three 8-bit planes are red, green and blue, opens as vendor "generic-tiff". Every pixel is
# (red, red, red): the other two planes are directories of their own, and only the first is looked at. No error.
# Why it surprises: the file opens, has the right size and looks like a slide; without colour, though, a tissue mask
# that asks for colour finds none, and a run ends with "no tissue" and exit code 0.
# Who meets it: whoever writes H&E with a tool that stores channels apart (Bio-Formats' converters, tifffile's default
# for CYX, many fluorescence pipelines) and reads it with what reads slides: TRIDENT, CLAM, MONAI's WSIReader.
# Source: OpenSlide's documentation of generic tiled TIFF; tried here.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check \
    openslide-python==1.4.7 openslide-bin==4.0.1.2 tifffile==2025.5.10 numpy==2.2.6
cd "$work"
cat > try.py <<'PY'
import numpy as np
import openslide
import tifffile

print(f"OpenSlide {openslide.__library_version__}, tifffile {tifffile.__version__}")
colour = (200, 60, 120)
planes = np.stack([np.full((512, 512), value, np.uint8) for value in colour])
tifffile.imwrite("slide.ome.tif", planes, tile=(256, 256), photometric="minisblack", metadata={"axes": "CYX"})
with openslide.OpenSlide("slide.ome.tif") as slide:
    pixel = slide.read_region((100, 100), 0, (1, 1)).getpixel((0, 0))[:3]
    print(f"written {colour}, read {pixel}, vendor {slide.properties['openslide.vendor']}")
raise SystemExit(pixel != (200, 200, 200))
PY
env/bin/python try.py
