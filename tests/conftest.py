"""What all tests share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images, or a skip that says why."""
    folder = os.environ.get("MONAI_EXT_DATA")
    if not folder:
        pytest.skip("MONAI_EXT_DATA is not set: no real images")
    if not Path(folder).is_dir():
        pytest.skip(f"MONAI_EXT_DATA is {folder}: no such folder")
    return Path(folder).resolve()
