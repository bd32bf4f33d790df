"""What the app's datastore lists; in MONAI Label's own environment, without a server."""

import subprocess

import pytest

from tests.bundles.conftest import ROOT, environment
from tests.label.conftest import PYTHON

LIST = """
import sys
from lib.datastore import SlideDatastore
print(sorted(SlideDatastore(sys.argv[1], extensions=["*.jpg", "*.vms"]).list_images()))
"""


@pytest.mark.skipif(not PYTHON.exists(), reason="needs make test-label")
@pytest.mark.slow
def test_parts_of_slides_and_hidden_files_are_no_images(tmp_path):
    (tmp_path / "s.vms").write_text("ImageFile=a.jpg\nMapFile=m.jpg\n")
    for name in ("a.jpg", "m.jpg", "b.jpg", "._b.jpg"):
        (tmp_path / name).write_bytes(b"-")
    run = subprocess.run([PYTHON, "-c", LIST, tmp_path], cwd=ROOT / "monailabel_app", env=environment(),
                         capture_output=True, text=True, check=False)  # fmt: skip
    assert run.stdout.strip().splitlines()[-1:] == ["['b', 's']"], run.stderr
