"""The images of one inference run, and what became of each."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from monai_ext.data.datalist import load_datalist
from monai_ext.data.image import SUFFIXES, read_field
from monai_ext.data.points import atomic_path
from monai_ext.errors import InputError

__all__ = ["Cohort"]


class Cohort:
    """Finds the images to work on, sets aside those that cannot be read, and keeps a state file.

    ``<output_dir>/state.json`` tells of every image whether it is ``pending``, ``done`` or ``failed``, and why.

    Args:
        source: an image; a folder of images, looked through with its subfolders; or a data set's folder, of which the
            images of its ``test`` list are taken.
        output_dir: where the state file goes.
        mpp: um/px of all files at full resolution; ``None`` for what they state.
        target_mpp: um/px that they will be read at.

    Attributes:
        root: the folder that the images lie below.
        items: ``{"image": path}`` of each readable image, with the keys of its item in the data list.

    Raises:
        InputError: there is no such path, or no readable image in it.
    """

    def __init__(
        self,
        source: str | os.PathLike,
        output_dir: str | os.PathLike,
        mpp: float | None = None,
        target_mpp: float | None = None,
    ) -> None:
        source = Path(source)
        self.path = Path(output_dir) / "state.json"
        self.root = source if source.is_dir() else source.parent
        self.state: dict[str, dict[str, str]] = {}
        self.items: list[dict[str, Any]] = []
        (self.path.parent / "summary.csv").unlink(missing_ok=True)  # rows of another run
        found = self._find(source, self.path.parent)
        for item in tqdm(found, desc="checking images", unit="image", disable=len(found) < 20):
            try:
                read_field(item["image"], mpp or item.get("mpp"), target_mpp)
            except InputError as error:
                self.state[item["image"]] = {"status": "failed", "reason": str(error)}
                print(f"left out: {error}", file=sys.stderr)
            else:
                self.state[item["image"]] = {"status": "pending"}
                self.items.append(item)
        self.save()
        if not self.items:
            first = next(iter(self.state.values()))["reason"]
            raise InputError(
                source, "at least one readable image", f"{len(found)} that cannot be read; the first: {first}"
            )

    @staticmethod
    def _find(source: Path, output_dir: Path) -> list[dict[str, Any]]:
        if source.is_file():
            return [{"image": str(source)}]
        if not source.is_dir():
            raise InputError(source, "an image or a folder of images (--dataset_dir)", "nothing there")
        if (source / "dataset.json").is_file():
            return load_datalist(source, ["test"], check=None, path_keys=["image"])["test"]
        paths = sorted(
            path
            for path in source.rglob("*")
            if path.suffix.lower() in SUFFIXES
            and path.is_file()
            and not (path.resolve().is_relative_to(output_dir.resolve()) and output_dir.resolve() != source.resolve())
            and not any(part.startswith(".") for part in path.relative_to(source).parts)
        )
        if not paths:
            raise InputError(source, f"images ({', '.join(SUFFIXES)})", "none in this folder or below it")
        return [{"image": str(path)} for path in paths]

    def save(self) -> None:
        """Write the state file."""
        with atomic_path(self.path) as temporary:
            temporary.write_text(json.dumps(self.state, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def done(self, image: str) -> None:
        """Note that an image's results are written."""
        self.state[image] = {"status": "done"}
        self.save()

    def close(self) -> None:
        """End the run: with exit code 1 where an image failed or was not reached.

        Raises:
            SystemExit: with code 1.
        """
        done, failed = (sum(entry["status"] == s for entry in self.state.values()) for s in ("done", "failed"))
        print(f"{done} of {len(self.state)} images done, {failed} failed: {self.path}")
        if done < len(self.state):
            raise SystemExit(1)
