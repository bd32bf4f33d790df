"""A bundle of a few bytes."""

import json
from pathlib import Path

import pytest

from tests.loopback import serve

METADATA = {
    "version": "1.2.0",
    "changelog": {"1.2.0": "second", "1.1.0": "first"},
    "monai_version": "1.6.1",
    "pytorch_version": ">=2.11",
    "numpy_version": "2.2.6",
    "required_packages_version": {"fire": "0.7.1"},
}
INFERENCE = {"loaded": "$monai_ext.base.flags.as_flag('true', @bundle_root + '/models/second/model.pt')"}
WEIGHTS = bytes(range(256)) * 40
FILES = {
    "LICENSE": b"free",
    "configs/inference.json": json.dumps(INFERENCE).encode(),
    "configs/metadata.json": json.dumps(METADATA).encode(),
    "docs/README.md": b"# tiny\n",
    "docs/scores/one/scores.csv": b"a,b\n",
    "models/model.pt": WEIGHTS,
    "models/second/model.pt": WEIGHTS[::-1],
    "models/thresholds.json": b"{}",
}


def write_bundle(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


@pytest.fixture
def tiny(tmp_path) -> Path:
    """The bundle ``tiny`` in a folder of bundles."""
    return write_bundle(tmp_path / "bundles/tiny")


@pytest.fixture
def shelf(tmp_path):
    """A folder that a server on loopback serves, and its address."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    with serve(folder) as address:
        yield folder, address
