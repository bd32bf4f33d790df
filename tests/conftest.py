"""What all tests share."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("busy", deadline=None)  # speed is the benchmarks' concern: machines are busy at times
settings.load_profile("busy")

IN_CI = ("mitosis", "cell_semantic")  # heat maps and points; cells and outlines


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked ``dear`` run the same code for each bundle: two bundles before a change lands, or those that the
    marker names (``dear("mitosis")``); all at leisure."""
    for item in items:
        dear = item.get_closest_marker("dear")
        if dear and not any(name in item.name for name in dear.args or IN_CI):
            item.add_marker(pytest.mark.exhaustive)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images, or a skip that says why."""
    folder = os.environ.get("MONAI_EXT_DATA")
    if not folder:
        pytest.skip("MONAI_EXT_DATA is not set: no real images")
    if not Path(folder).is_dir():
        pytest.skip(f"MONAI_EXT_DATA is {folder}: no such folder")
    return Path(folder).resolve()


@pytest.fixture
def bfloat16(monkeypatch):
    """A processor that computes in bfloat16, whatever this one does."""
    monkeypatch.setattr("monai_ext.inferers.autocast.cpu_computes_bfloat16", lambda: True)
