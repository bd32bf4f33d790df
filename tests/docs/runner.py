"""Runs documented commands, one after the other, in a copy of what the repository's reader has before him.

A process that has imported what the commands import forks for each of them, so that none waits for PyTorch.
"""

from __future__ import annotations

import logging
import os
import shutil
from itertools import count
from pathlib import Path

from tests.docs.places import RELEASES
from tests.docs.shell import ROOT, Command
from tests.docs.table import DOWNLOADED, PLACES, named, shortened
from tests.forked import run_python

_logger = logging.getLogger(__name__)

LIMIT_S = 600
TOLD = 3000  # characters
COPIED = ("bundles", "benchmarks", "monai_deploy_app")
SURROUNDINGS = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg", "PYTHONWARNINGS": "ignore"}


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
            laid = path.exists() and not any(other.startswith(f"{name}/") for other in here)
            if words[index - 1] == "--dst" and (name in here or path.exists()):
                words[index] = next(new for n in count(1) if not (self.tree / folder / (new := f"{name}_{n}")).exists())
            elif words[index - 1] == "--src" and name not in here and not laid:
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
            surroundings = {**os.environ, **SURROUNDINGS}
            done = run_python(words[1:], self.tree / command.folder, surroundings, LIMIT_S, together=True)
            code, told = done.returncode, done.stdout[-TOLD:]
            self.said[key] = f"exit code {code}: {' '.join(words)}\n{told}" if code else None
            if code:  # at once, by `-o log_cli=true`: the pages take an hour
                _logger.error(self.said[key])
        return self.said[key]
