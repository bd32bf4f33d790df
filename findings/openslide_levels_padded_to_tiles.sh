#!/usr/bin/env bash
# OpenSlide takes the quotient of two levels' sizes for their scale, also where a level was padded to whole tiles.
#
# Seen with OpenSlide 4.0.1 (openslide-python 1.4.7, openslide-bin 4.0.1.2) and tifffile 2025.5.10: level 1 is every
# second pixel of a level 0 of 3,400 x 2,500 px, padded to whole tiles of 256 px, 1,792 x 1,280. level_downsamples says
# 1.925 instead of 2, and read_region at px (3300, 2400) of level 0 begins 64 px (of level 1) too far to the right: a
# mark that level 0 has there is not in the region any more.
# Why it surprises: near the upper left corner all is right, so a test on a crop passes; the error grows with the
# distance, and is read as a bad registration of annotations or as a network that misses what lies far out.
# Who meets it: readers of pyramids from writers that pad levels (some converters to tiled TIFF and Philips' files),
# who detect on a coarse level or draw a heat map over the slide.
# Source: OpenSlide's documentation of level_downsamples; tried here.
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
full = np.full((2500, 3400, 3), 255, np.uint8)
full[2400:2420, 3300:3320] = 0  # a mark far from the corner
half = np.full((1280, 1792, 3), 255, np.uint8)
half[:1250, :1700] = full[::2, ::2]
with tifffile.TiffWriter("slide.tif") as writer:
    for level, pixels in enumerate((full, half)):
        writer.write(pixels, photometric="rgb", tile=(256, 256), metadata=None, subfiletype=int(level > 0))
with openslide.OpenSlide("slide.tif") as slide:
    scale = slide.level_downsamples[1]
    print(f"level 1 is 2 times smaller; level_downsamples says {scale:.4f}")
    levels = []
    for level, size in ((0, 120), (1, 60)):  # the same 120 x 120 px of level 0
        region = np.asarray(slide.read_region((3300, 2400), level, (size, size)))
        levels.append(bool(((region[..., 0] == 0) & (region[..., 3] == 255)).any()))
        print(f"level {level}: the mark is {'' if levels[-1] else 'not '}where level 0 has it")
raise SystemExit(levels != [True, False] or abs(scale - 1.925) > 0.001)
PY
env/bin/python try.py
