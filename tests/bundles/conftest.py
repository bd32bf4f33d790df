"""Bundles find themselves: a folder with a metadata file is under test."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.forked import run_python

ROOT = Path(__file__).parents[2]
BUNDLES = sorted(path.parents[1] for path in ROOT.glob("bundles/*/configs/metadata.json"))
LIMIT_S = 900
QUICK = "['configs/train.json','configs/quickstart.json']"


def typed(bundles: list[Path]) -> list:
    """Parameters: a newcomer's tests type the commands of one bundle; the others, minutes each, are slow."""
    slow = {path: [] if "mitosis" in path.name else pytest.mark.slow for path in bundles}
    return [pytest.param(path, id=path.name, marks=slow[path]) for path in bundles]


def environment() -> dict[str, str]:
    """One thread a process, so that equal seeds give equal sums and processes do not fight over two cores."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8", "PYTHONPATH": str(ROOT)}


@dataclass
class Workplace:
    """A copy of a bundle beside its phantom data, and the commands that a user types in it."""

    source: Path
    folder: Path
    data: Path
    trained: dict[str, subprocess.CompletedProcess] = field(default_factory=dict)

    @property
    def metadata(self) -> dict:
        return json.loads((self.source / "configs/metadata.json").read_text())

    def command(self, *args: str, launcher: tuple[str, ...] = ("-m",)) -> list[str]:
        return [
            sys.executable,
            *launcher,
            *(("monai.bundle",) if launcher == ("-m",) else ("-m", "monai.bundle")),
            *args,
        ]

    def bundle(
        self, *args: str, check: bool = True, launcher: tuple[str, ...] = ("-m",)
    ) -> subprocess.CompletedProcess:
        """Run ``python -m monai.bundle ...`` from the bundle's folder."""
        command, options = self.command(*args, launcher=launcher), {"cwd": self.folder, "env": environment()}
        if launcher == ("-m",):
            done = run_python(command[1:], timeout=LIMIT_S, **options)
        else:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False, **options)
        if check and done.returncode:
            pytest.fail(f"{' '.join(args)}: exit code {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}")
        return done

    def training_arguments(self, name: str, **overrides: object) -> list[str]:
        short = {"train#trainer#max_epochs": 4, "val_interval": 2}
        options = {"dataset_dir": self.data, "ckpt_dir": self.folder / "models" / name, **short, **overrides}
        return ["run", "training", "--config_file", QUICK, *(a for k, v in options.items() for a in (f"--{k}", str(v)))]

    def train(self, name: str, **overrides: object) -> Path:
        """Train once for each name; the folder with what the training left."""
        if name not in self.trained:
            self.trained[name] = self.bundle(*self.training_arguments(name, **overrides))
        return self.folder / "models" / name

    def history(self, name: str) -> list[dict]:
        return json.loads((self.folder / "models" / name / "history.json").read_text())


@pytest.fixture(scope="session", params=typed(BUNDLES))
def place(request, tmp_path_factory) -> Workplace:
    """The bundle under test."""
    base = tmp_path_factory.mktemp(request.param.name)
    folder = base / request.param.name
    shutil.copytree(request.param, folder, ignore=shutil.ignore_patterns("eval", "runs"))
    options = json.loads((folder / "configs/quickstart.json").read_text())["phantom"]
    method = options.pop("method")
    arguments = [a for k, v in options.items() for a in (f"--{k}", str(v))]
    words = ["-m", "monai_ext", "phantom", method, "--dst", str(base / "data"), *arguments]
    run_python(words, base, environment(), LIMIT_S).check_returncode()
    return Workplace(request.param, folder, base / "data")


def pytest_generate_tests(metafunc) -> None:
    """Tests of a bundle's files alone take ``bundle``, its folder."""
    if "bundle" in metafunc.fixturenames:
        metafunc.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
