"""Where the results of an image go, and the table that has a row for each."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from filelock import FileLock
from monai.data import MetaTensor

from monai_ext.base.errors import InputError
from monai_ext.base.files import atomic_path

__all__ = ["ResultFiles"]


class ResultFiles:
    """Names the files of each image after its place below the input folder, and keeps ``summary.csv``.

    Where two images differ only in their suffix, the second keeps its suffix in its files' names.

    Args:
        output_dir: folder to write to; it is made.
        data_root_dir: folder that the images lie below; images elsewhere are written below their own full path.
        max_side: pictures are reduced until no side is longer, px.
    """

    def __init__(
        self, output_dir: str | os.PathLike[str], data_root_dir: str | os.PathLike[str], max_side: int = 4096
    ) -> None:
        self.output_dir, self.data_root_dir = Path(output_dir), Path(data_root_dir).resolve()
        self.max_side = max_side
        self._sources: dict[Path, Path] = {}

    def source(self, image: Any, name: str = "image") -> Path:
        """The image's path below the input folder.

        Args:
            image: a MetaTensor that names its file.
            name: how an error calls it.

        Raises:
            InputError: it names no file.
        """
        meta = image.meta if isinstance(image, MetaTensor) else {}
        if not meta.get("filename_or_obj"):
            raise InputError(f"{name!r}", "a MetaTensor that names its file", type(image).__name__)
        path = Path(str(meta["filename_or_obj"])).resolve()
        return path.relative_to(self.data_root_dir if path.is_relative_to(self.data_root_dir) else path.anchor)

    def path(self, source: Path, ending: str) -> Path:
        """The file of an image that ends in ``ending``, as ``_overlay.png``."""
        stem = source.with_suffix("")
        if self._sources.setdefault(stem, source) != source:
            stem = source
        return (self.output_dir / stem).with_name(f"{stem.name}{ending}")

    def write_picture(self, path: Path, picture: np.ndarray) -> None:
        """Write uint8 RGB ``(H, W, 3)``, reduced where it is too large."""
        shrink = self.max_side / max(picture.shape)
        if shrink < 1:
            picture = cv2.resize(picture, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        with atomic_path(path) as temporary:
            cv2.imwrite(str(temporary), picture[..., ::-1])

    def write_row(self, row: Mapping[str, Any]) -> None:
        """Add an image's row to ``summary.csv``, or replace it; any number of processes may do so."""
        path = self.output_dir / "summary.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.output_dir / ".summary.lock"):
            table = pd.DataFrame([row], dtype=object)
            if path.exists():
                earlier = pd.read_csv(path, dtype=str, keep_default_na=False)
                table = pd.concat([earlier[earlier["image"] != row["image"]], table]).sort_values("image")
            with atomic_path(path) as temporary:
                table.to_csv(temporary, index=False)
