"""What all tests share."""

import os
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several processes the tests of a file stay together, as they share what its fixtures made."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images, or a skip that says why."""
    folder = os.environ.get("MONAI_EXT_DATA")
    if not folder:
        pytest.skip("MONAI_EXT_DATA is not set: no real images")
    if not Path(folder).is_dir():
        pytest.skip(f"MONAI_EXT_DATA is {folder}: no such folder")
    return Path(folder).resolve()
