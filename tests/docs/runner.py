"""Runs documented commands, one after the other, in a copy of what the repository's reader has before him.

A process that has imported what the commands import forks for each of them, so that none waits for PyTorch.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import shutil
import sys
from itertools import count
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.docs.places import RELEASES
from tests.docs.shell import ROOT, Command
from tests.docs.table import DOWNLOADED, PLACES, named, shortened

LIMIT_S = 600
TOLD = 3000  # characters
COPIED = ("bundles", "benchmarks")
PRELOADED = (
    "monai.bundle",
    "monai.engines",
    "monai_ext.reports.agreement",
    "monai_ext.reports.comparison",
    "monai_ext.phantom",
    "monai_ext.prepare",
    "monai_ext.engines",
    "monai_ext.handlers",
    "monai_ext.inferers",
    "monai_ext.losses",
    "monai_ext.networks",
    "monai_ext.optimizers",
    "monai_ext.slides",
    "monai_ext.tuning",
    "monai_ext.visualize",
)
SURROUNDINGS = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg", "PYTHONWARNINGS": "ignore"}


def _interpret(words: tuple[str, ...], folder: str, log: str) -> None:
    """What ``python`` does with its arguments, in a process of its own."""
    os.chdir(folder)
    with Path(log).open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        if words[0] == "-m":
            sys.argv, sys.path[0] = list(words[1:]), folder
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv, sys.path[0] = list(words), str(Path(folder, words[0]).parent)
            runpy.run_path(words[0], run_name="__main__")
    except Exception:
        sys.excepthook(*sys.exc_info())  # which a bundle may have set
        sys.exit(1)


class Desk:
    """Where a reader types: the repository's folders, and below the names of placeholders small data.

    Args:
        tree: an empty folder.
    """

    def __init__(self, tree: Path) -> None:
        self.tree, self.said = tree, {}
        for name in COPIED:
            shutil.copytree(
                ROOT / name, tree / name, ignore=shutil.ignore_patterns("eval", "runs", "data", "__pycache__")
            )
        for name, bundle in DOWNLOADED.items():
            (tree / name).symlink_to(tree / bundle)
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(list(PRELOADED))

    def lay_out(self, folder: str, words: tuple[str, ...]) -> None:
        """Make what the words name and is not there yet."""
        for place, name in named(folder, words):
            path = self.tree / place / name
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                PLACES[place][name](path)

    def moved(self, folder: str, words: tuple[str, ...]) -> tuple[str, ...]:
        """A release to prepare is that of its own name; a data set goes where none is yet."""
        if words[2:4] not in {("monai_ext", "prepare"), ("monai_ext", "phantom")}:
            return words
        words, here = list(words), PLACES.get(folder, {})
        for index in (words.index(option) + 1 for option in ("--src", "--dst") if option in words):
            name = words[index]
            path = self.tree / folder / name
            if words[index - 1] == "--dst" and (name in here or path.exists()):
                words[index] = next(new for n in count(1) if not (self.tree / folder / (new := f"{name}_{n}")).exists())
            elif words[index - 1] == "--src" and name not in here and not path.exists():
                words[index] = str(self.release(words[4]))
        return tuple(words)

    def release(self, name: str) -> Path:
        path = self.tree / "releases" / name
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            RELEASES[name](path)
        return path

    def run(self, command: Command) -> str | None:
        """Run a command unless it was run; what it said if it failed."""
        key = (command.folder, shortened(command))
        if key not in self.said:
            words = self.moved(*key)
            self.lay_out(command.folder, words)
            folder, log = self.tree / command.folder, self.tree / "log.txt"
            process = self.context.Process(target=_interpret, args=(words[1:], str(folder), str(log)))
            code = self.ended(process)
            self.said[key] = f"exit code {code}: {' '.join(words)}\n{log.read_text()[-TOLD:]}" if code else None
        return self.said[key]

    def ended(self, process: BaseProcess) -> int:
        before = {name: os.environ.get(name) for name in SURROUNDINGS}
        os.environ.update(SURROUNDINGS)  # the first process starts the one that forks
        try:
            process.start()
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
        process.join(LIMIT_S)
        if process.exitcode is None:
            process.kill()
            process.join()
        return process.exitcode
