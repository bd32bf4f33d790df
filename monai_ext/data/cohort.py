"""The images of one inference run, and what became of each."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock
from tqdm import tqdm

from monai_ext.base.distributed import is_first
from monai_ext.base.errors import InputError
from monai_ext.base.files import atomic_path
from monai_ext.base.flags import as_flag
from monai_ext.data.datalist import load_datalist
from monai_ext.formats.image import SUFFIXES, read_field

__all__ = ["Cohort"]

_RESULTS = ("_overlay.png", "_heatmap.ome.tif")  # pictures that a run writes, perhaps among the images


class Cohort:
    """Finds the images to work on, sets aside those that cannot be read, and keeps a state file.

    ``<output_dir>/state.json`` tells of every image whether it is ``pending``, ``done`` or ``failed``, and why. Any
    number of processes may note what they did; where images come with a summary, ``summary.csv`` holds one row each.

    Args:
        source: an image; a folder of images, looked through with its subfolders; or a data set's folder, of which the
            images of its ``test`` list are taken.
        output_dir: where the state file goes.
        mpp: um/px of all files at full resolution; ``None`` for what they state.
        target_mpp: um/px that they will be read at.
        check: called with an image's path, ``mpp`` and ``target_mpp`` before anything is computed; raises an
            :class:`InputError` for one that cannot be used. By default the image is read as a whole.
        resume: keep what the state file of an earlier run says of images that are done.

    Attributes:
        root: the folder that the images lie below.
        state: of each image, what the state file says.
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
        check: Callable[..., Any] | None = None,
        resume: bool = False,
    ) -> None:
        source = Path(source)
        self.path = Path(output_dir) / "state.json"
        self.root = source if source.is_dir() else source.parent
        self.state: dict[str, dict[str, Any]] = {}
        self.items: list[dict[str, Any]] = []
        earlier = self._read() if as_flag(resume, "resume") else {}
        found = self._find(source, self.path.parent)
        for item in tqdm(found, desc="checking images", unit="image", disable=len(found) < 20):
            try:
                (check or read_field)(item["image"], mpp or item.get("mpp"), target_mpp)
            except InputError as error:
                self.state[item["image"]] = {"status": "failed", "reason": str(error)}
                print(f"left out: {error}", file=sys.stderr)
            else:
                before = earlier.get(item["image"], {})
                self.state[item["image"]] = before if before.get("status") == "done" else {"status": "pending"}
                self.items.append(item)
        if is_first():
            self._summary.unlink(missing_ok=True)  # rows of another run
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
            and not path.name.endswith(_RESULTS)
            and not (path.resolve().is_relative_to(output_dir.resolve()) and output_dir.resolve() != source.resolve())
            and not any(part.startswith(".") for part in path.relative_to(source).parts)
        )
        if not paths:
            raise InputError(source, f"images ({', '.join(SUFFIXES)})", "none in this folder or below it")
        return [{"image": str(path)} for path in paths]

    @property
    def _summary(self) -> Path:
        return self.path.parent / "summary.csv"

    @property
    def _lock(self) -> Path:
        return self.path.parent / ".state.lock"

    def _read(self) -> dict[str, dict[str, Any]]:
        return json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else {}

    def save(self) -> None:
        """Write the state file and, where there are summaries, their table."""
        with atomic_path(self.path) as temporary:
            temporary.write_text(json.dumps(self.state, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        rows = [entry["summary"] for entry in self.state.values() if "summary" in entry]
        if rows:
            with atomic_path(self._summary) as temporary:
                pd.DataFrame(rows).sort_values("image").to_csv(temporary, index=False)

    def _note(self, image: str, entry: dict[str, Any]) -> None:
        with FileLock(self._lock):
            self.state = {**self.state, **self._read(), image: entry}
            self.save()

    def reload(self) -> None:
        """Take notice of what other processes noted."""
        self.state |= self._read()

    def done(self, image: str, **facts: Any) -> None:
        """Note that an image's results are written, with any facts that JSON can hold; ``summary`` is a table's row."""
        self._note(image, {"status": "done", **facts})

    def failed(self, image: str, reason: str) -> None:
        """Note that an image's results could not be made."""
        self._note(image, {"status": "failed", "reason": reason})

    def close(self) -> None:
        """End the run: with exit code 1 where an image failed or was not reached.

        Raises:
            SystemExit: with code 1.
        """
        self.reload()
        self._lock.unlink(missing_ok=True)
        done, failed = (sum(entry["status"] == s for entry in self.state.values()) for s in ("done", "failed"))
        print(f"{done} of {len(self.state)} images done, {failed} failed: {self.path}")
        if done < len(self.state):
            raise SystemExit(1)
