"""A folder as datastore, without what is no image of its own."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from monailabel.datastore.local import LocalDatastore

from monai_ext.base.companions import companions

logger = logging.getLogger(__name__)


class SlideDatastore(LocalDatastore):
    """MONAI Label's own, which would list the JPEGs of a ``.vms`` as images, and what a Mac leaves beside files."""

    def _list_files(self, path: str, patterns: Sequence[str]) -> dict[str, str]:
        listed = super()._list_files(path, patterns)
        parts = companions(Path(path), [entry.name for entry in Path(path).iterdir()])
        if left_out := parts & listed.keys():
            logger.info("%s: left out %d files that are parts of slides", path, len(left_out))
        return {name: file for name, file in listed.items() if name not in parts and not name.startswith(".")}
