import os
import platform
import subprocess
import sys

import pytest

BLOCK_MB, USES = 64, 20
PAGES = BLOCK_MB * 2**20 // os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
PROBE = f"""
import resource
import numpy
import monai_ext
numpy.ones({BLOCK_MB} << 20, numpy.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({USES}):
    numpy.ones({BLOCK_MB} << 20, numpy.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")


def faults(**environment: str) -> int:
    """Pages that the system cleared while a block was used again and again."""
    kept = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    run = subprocess.run([sys.executable, "-c", PROBE], env=kept | environment, capture_output=True, check=True)
    return int(run.stdout)


def test_a_block_that_is_used_again_is_not_cleared_again():
    assert faults() < PAGES / 4


@pytest.mark.parametrize(
    "environment",
    [
        {"MONAI_EXT_KEEP_MEMORY": "0"},
        {"MALLOC_MMAP_THRESHOLD_": "131072"},  # the user's own choice
        {"MALLOC_MMAP_MAX_": "65536", "MALLOC_MMAP_THRESHOLD_": "131072"},
        {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072"},
    ],
)
@pytest.mark.slow
def test_not_against_the_environment(environment, monkeypatch):
    # numpy asks for huge pages where it can, so that fewer faults are larger: a tenth of the pages is a cleared block
    assert faults(**environment) > USES * 2
    assert faults(**environment) > 4 * faults()
