#!/usr/bin/env bash
# tifffile's read_segments numbers segments by the caller's indices, but not if there is only one.
#
# Seen with tifffile 2025.5.10: FileHandle.read_segments(offsets, bytecounts, indices) gives each segment's bytes with
# the index the caller named. Asked for tiles [2, 3] of a page it gives them as 2 and 3; asked for tile [2] alone it
# uses 2 as a position in the lists of length 1, and fails with "list index out of range".
# Why it surprises: regions inside one tile fail, regions over two work, so it depends on the size and the place of
# what is read; a reader tried on large regions only passes its tests.
# Who meets it: whoever reads tiles of a slide by tifffile without decoding the whole level, as tile servers, viewers
# and readers of patches do.
# Source: tifffile/tifffile.py, FileHandle.read_segments; tried here.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check tifffile==2025.5.10 numpy==2.2.6
cd "$work"
cat > try.py <<'PY'
import numpy as np
import tifffile

print(f"tifffile {tifffile.__version__}")
pixels = np.random.default_rng(0).integers(0, 255, (512, 512, 3)).astype(np.uint8)
tifffile.imwrite("slide.tif", pixels, tile=(256, 256), photometric="rgb")
outcome = {}
with tifffile.TiffFile("slide.tif") as tiff:
    page = tiff.pages[0]
    for wanted in ((2, 3), (2,)):
        offsets, counts = [page.dataoffsets[i] for i in wanted], [page.databytecounts[i] for i in wanted]
        try:
            outcome[wanted] = [index for _, index in tiff.filehandle.read_segments(offsets, counts, list(wanted))]
        except IndexError as error:
            outcome[wanted] = f"IndexError: {error}"
        print(f"tiles {list(wanted)}: {outcome[wanted]}")
raise SystemExit(outcome != {(2, 3): [2, 3], (2,): "IndexError: list index out of range"})
PY
env/bin/python try.py
