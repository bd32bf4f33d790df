"""The images of one inference run, and what became of each."""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from monai_ext.base.distributed import is_first
from monai_ext.base.errors import InputError
from monai_ext.base.flags import as_flag
from monai_ext.data.datalist import load_datalist
from monai_ext.data.result_files import is_result, maps_in_datalists
from monai_ext.data.run_state import RunState, exit_on_sigterm
from monai_ext.exchange.registry import Exchange
from monai_ext.formats.find import find_images, is_image
from monai_ext.formats.image import SUFFIXES, Field, read_field
from monai_ext.formats.resolution import warn_of_conflict

__all__ = ["Cohort"]


class Cohort:
    """Finds the images to work on, sets aside those that cannot be read, and records what became of each.

    ``<output_dir>/state.json`` records of every image whether it is ``pending``, ``done`` or ``failed``, and why; where
    images come with a summary, ``summary.csv`` holds one row each. Any number of processes may work on the images.
    While they do, the state is in ``state.sqlite``: what is marked there outlives a process that is killed, and the
    next run resumes it. The two files are exported from it now and then, by :meth:`close`, which removes it, and when
    the process ends without that: by an error, by Ctrl-C, or by SIGTERM, which from now on does what Ctrl-C does.

    Args:
        source: an image; a folder of images, looked through with its subfolders; or a data set's folder, of which the
            images of its ``test`` list are taken. What counts as one image tells
            :func:`~monai_ext.formats.find.find_images`.
        output_dir: where the state file goes.
        mpp: um/px of all files at full resolution; ``None`` for what they state.
        target_mpp: um/px that they will be read at.
        check: called with an image's path, ``mpp`` and ``target_mpp`` before anything is computed; raises an
            :class:`InputError` for one that cannot be used. By default the image is read as a whole.
        resume: keep what an earlier run recorded of images that are done.
        formats: that results will be written in; images that lack what one needs cannot be used.

    Attributes:
        root: the folder that the images lie below.
        path: the exported state file.
        state: of each image, what is recorded; what other processes record comes in by :meth:`reload`.
        items: ``{"image": path}`` of each readable image, with the keys of its item in the data list.

    Raises:
        InputError: there is no such path, or no readable image in it; a state file that is damaged, or that something
            else wrote; a format that is none, or needs a package that is not installed.
    """

    def __init__(
        self,
        source: str | os.PathLike,
        output_dir: str | os.PathLike,
        mpp: float | None = None,
        target_mpp: float | None = None,
        check: Callable[..., Any] | None = None,
        resume: bool = False,
        formats: str | Sequence[str] = ("geojson",),
    ) -> None:
        source, exchange = Path(source), Exchange(formats)
        self.path = Path(output_dir) / "state.json"
        self._recorded = RunState(output_dir)
        self.state: dict[str, dict[str, Any]] = {}
        self.items: list[dict[str, Any]] = []
        earlier = self._recorded.read() if as_flag(resume, "resume") else {}
        self._is_first = is_first()
        if self._is_first:
            self._recorded.check_writable()
        warn_of_conflict.cache_clear()  # each run says it
        candidates = self._find(source, self.path.parent)
        one = source.is_file() or candidates[0]["image"] == str(source)
        self.root = source.parent if one else source
        self._told = {item["image"]: {"mpp": told} for item in candidates if (told := mpp or item.get("mpp"))}
        for item in tqdm(candidates, desc="checking images", unit="image", disable=len(candidates) < 20):
            told = self._told.get(item["image"], {})
            try:
                found = (check or read_field)(item["image"], told.get("mpp"), target_mpp)
                if isinstance(found, Field):
                    exchange.check(item["image"], found.mpp)
            except InputError as error:
                self.state[item["image"]] = {"status": "failed", "reason": str(error)}
                print(f"left out: {error}", file=sys.stderr)
            else:
                before = earlier.get(item["image"], {})
                self.state[item["image"]] = (before if before.get("status") == "done" else {"status": "pending"}) | told
                self.items.append(item)
        exit_on_sigterm()
        self._at_exit = weakref.finalize(self, self._recorded.export)
        if self._is_first:
            self._recorded.begin(self.state)
        if not self.items:
            self._end()
            first = next(iter(self.state.values()))["reason"]
            raise InputError(
                source, "at least one readable image", f"{len(candidates)} that cannot be read; the first: {first}"
            )

    @staticmethod
    def _find(source: Path, output_dir: Path) -> list[dict[str, Any]]:
        if source.is_file() or is_image(source):
            return [{"image": str(source)}]
        if not source.is_dir():
            raise InputError(source, "an image or a folder of images (--dataset_dir)", "nothing there")
        if (source / "dataset.json").is_file():
            return load_datalist(source, ["test"], check=None, path_keys=["image"])["test"]
        results, images = (os.path.realpath(folder) for folder in (output_dir, source))
        below = results != images and Path(results).is_relative_to(images)
        maps = maps_in_datalists(source)
        paths = find_images(
            source,
            output_dir if below else None,
            leave_out=lambda path: is_result(path) or (maps and Path(os.path.normpath(path)) in maps),
        )
        if not paths:
            raise InputError(source, f"images ({', '.join(SUFFIXES)})", "none in this folder or below it")
        return [{"image": str(path)} for path in paths]

    def reload(self) -> None:
        """Take over what other processes recorded."""
        self.state |= self._recorded.read()

    def _end(self) -> None:
        self._at_exit.detach()
        if self._is_first:  # another process may end long before the last image is recorded
            self._recorded.close()
        else:
            self._recorded.export()

    def _record(self, image: str, entry: dict[str, Any]) -> None:
        entry |= self._told.get(image, {})
        self._recorded.write(image, entry)
        self.state[image] = entry

    def done(self, image: str, **facts: Any) -> None:
        """Record that an image's results are written.

        Args:
            image: its path.
            **facts: anything that JSON can hold; ``summary`` is a row of the table.

        Raises:
            OSError: a full disk.
        """
        self._record(image, {"status": "done", **facts})

    def failed(self, image: str, reason: str) -> None:
        """Record that an image's results could not be made.

        Args:
            image: its path.
            reason: in one line.

        Raises:
            OSError: a full disk.
        """
        self._record(image, {"status": "failed", "reason": reason})

    def close(self) -> None:
        """End the run: with exit code 1 where an image failed or was not reached.

        Raises:
            SystemExit: with code 1.
        """
        self.reload()
        self._end()
        done, failed = (sum(entry["status"] == s for entry in self.state.values()) for s in ("done", "failed"))
        print(f"{done} of {len(self.state)} images done, {failed} failed: {self.path}")
        if done < len(self.state):
            raise SystemExit(1)
