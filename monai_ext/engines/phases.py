"""Phases of a training that is made of several: each a configuration of the bundle, run once its inputs are new."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import monai.bundle
from monai.bundle import ConfigParser

from monai_ext.base.distributed import barrier, is_first
from monai_ext.base.errors import InputError, input_error_in
from monai_ext.base.files import atomic_path
from monai_ext.base.fingerprint import fingerprint
from monai_ext.base.flags import as_flag
from monai_ext.data.datalist import read_content

__all__ = ["Phase", "PhaseRunner"]

# where and how fast a phase runs does not change its result
_INDIFFERENT = ("device", "amp", "num_workers", "resume", "bundle_root")

_STATE = "training_state.pt"  # what TrainingState resumes from


@dataclass(frozen=True)
class Phase:
    """One step of a chain.

    Args:
        name: by which ``start``, ``stop`` and the printed lines call it.
        configs: the bundle's configuration files, the later over the earlier, relative to the bundle's folder.
        result: the file that the phase writes at its end.
        settings: entries of the configuration to set.
        inputs: files and data sets (folders with ``dataset.json``) that it reads; changed ones start it anew.
        metrics: ``result`` is a ``metrics.json``, of which the chain's table gets a row.
        parallel: under ``torchrun`` all ranks run it, with configurations made for that; else the first one alone.
    """

    name: str
    configs: Sequence[str]
    result: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: Sequence[str] = ()
    metrics: bool = False
    parallel: bool = False


class PhaseRunner:
    """Runs phases through MONAI's own ``bundle run``; done ones are skipped, stopped ones resumed.

    A phase is done when its result is there and ``phase_<result>.json`` beside it tells of the same configuration and
    the same inputs, by size and time of change. A phase that was stopped under the same ones is run with ``resume``;
    any other is run afresh, and its old files are removed. Under ``torchrun`` every rank calls the runner, and
    none continues before all are through.

    Args:
        bundle_root: the bundle's folder, which the configurations are relative to.
        settings: entries for every phase whose configuration has them, such as ``device``.
    """

    def __init__(self, bundle_root: str | os.PathLike, settings: Mapping[str, Any] | None = None) -> None:
        self.root, self.settings = Path(bundle_root).resolve(), dict(settings or {})

    def __call__(self, phase: Phase, number: str = "") -> bool:
        """Run a phase unless it is done.

        Args:
            phase: the phase.
            number: of it among the others, for the printed line, such as ``"2/11"``.

        Returns:
            whether it was run.

        Raises:
            InputError: an input is missing, a setting is of no entry, or the phase left no result.
        """
        before = f"phase {number}, {phase.name}:" if number else f"{phase.name}:"
        now, notes = self._state(phase), self._notes(phase)
        earlier = _read(notes)
        same = {key: earlier.get(key) for key in now} == now
        done = same and earlier.get("done") and earlier.get("result") == _fingerprint(phase.result)
        barrier()  # all have read before one writes
        if done:
            self._say(f"{before} done before, {phase.result}")
            return False
        self._say(f"{before} {'going on' if same else 'starting'}, {phase.result}")
        if is_first():
            self._begin(phase, {**now, "done": False}, same)
        barrier()
        if phase.parallel or is_first():
            self._run(phase, resume=same)
        barrier()
        if _fingerprint(phase.result) is None:
            raise InputError(phase.result, f"the result of the phase {phase.name}", "no such file")
        if is_first():
            _write(notes, {**now, "done": True, "result": _fingerprint(phase.result)})
        barrier()
        return True

    @staticmethod
    def _say(text: str) -> None:
        if is_first():
            print(text, flush=True)

    def _begin(self, phase: Phase, notes: Mapping[str, Any], same: bool) -> None:
        """Record that the phase has started; files of another one are removed."""
        if not same:  # else a run that is killed in its first epoch would resume from another one's state
            for path in (Path(phase.result), Path(phase.result).with_name(_STATE)):
                path.unlink(missing_ok=True)
        _write(self._notes(phase), notes)

    @staticmethod
    def _notes(phase: Phase) -> Path:
        # results may share a folder: a dataset.json and a model.pt have notes of their own
        path = Path(phase.result)
        return path.with_name(f"phase_{path.stem}.json")

    def _files(self, phase: Phase) -> list[str]:
        files = [self.root / name for name in phase.configs]
        for file in files:
            if not file.is_file():
                raise InputError(file, f"a configuration of the phase {phase.name}", "no such file")
        return [str(file) for file in files]

    def _parser(self, phase: Phase) -> ConfigParser:
        parser = ConfigParser()
        parser.read_config(self._files(phase))
        unknown = [key for key in phase.settings if parser.get(key) is None and key not in parser]
        if unknown:
            raise InputError(f"phase {phase.name}", f"entries of {', '.join(phase.configs)}", ", ".join(unknown))
        return parser

    def _overrides(self, phase: Phase, parser: ConfigParser) -> dict[str, Any]:
        shared = {key: value for key, value in self.settings.items() if key in parser}
        return {**shared, **phase.settings, "bundle_root": str(self.root)}

    def _state(self, phase: Phase) -> dict[str, Any]:
        """What the result depends on: the configuration with all its overlays and settings, and the inputs."""
        parser = self._parser(phase)
        parser.update(self._overrides(phase, parser))
        content = {key: value for key, value in parser.get().items() if key not in _INDIFFERENT and key != "_meta_"}
        text = json.dumps(content, sort_keys=True, default=str)
        return {
            "configuration": hashlib.sha256(text.encode()).hexdigest(),
            "inputs": {str(path): self._input(phase, Path(path)) for path in phase.inputs},
        }

    @staticmethod
    def _input(phase: Phase, path: Path) -> Any:
        if path.is_file():
            return fingerprint(path)
        listing = path / "dataset.json"
        if not listing.is_file():
            raise InputError(path, f"an input of the phase {phase.name}: a file or a data set", "none")
        content = read_content(path, listing)
        lists = [content.get(part) or [] for part in ("training", "validation", "test")]
        texts = {v for items in lists for item in items for v in item.values() if isinstance(v, str)}
        files = sorted(text for text in texts if (path / text).is_file())
        state = [fingerprint(listing), *([name, *fingerprint(path / name)] for name in files)]
        return hashlib.sha256(json.dumps(state).encode()).hexdigest()

    def _run(self, phase: Phase, resume: bool) -> None:
        parser = self._parser(phase)
        overrides = self._overrides(phase, parser)
        if "resume" in parser:
            overrides["resume"] = resume or as_flag(overrides.get("resume", False), "resume")
        # MONAI drops None, and the configuration's own value would stay
        overrides = {key: "$None" if value is None else value for key, value in overrides.items()}
        try:
            monai.bundle.run(config_file=self._files(phase), **overrides)
        except RuntimeError as error:
            raise input_error_in(error) or error from None


def _fingerprint(path: str) -> list[int] | None:
    return fingerprint(path) if Path(path).is_file() else None


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet, or a torn one: nothing is done
        return {}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
