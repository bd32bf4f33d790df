"""Teacher-student chaining: phases one after the other, each a configuration of the bundle.

Háberová and Vykopal 2023, section 4: segmentation, extraction of nuclei, teacher, student, fine-tuning.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import monai.bundle
import pandas as pd
from monai.bundle import ConfigParser

from monai_ext.data.datalist import read_content
from monai_ext.data.fingerprint import fingerprint
from monai_ext.data.points import atomic_path
from monai_ext.errors import InputError, input_error_in
from monai_ext.flags import as_flag

__all__ = ["Phase", "TeacherStudentChain"]

# where and how fast a phase runs does not change what comes out of it
_INDIFFERENT = ("device", "amp", "num_workers", "resume", "bundle_root")

_STATE = "training_state.pt"  # what TrainingState resumes from


@dataclass(frozen=True)
class Phase:
    """One step of a chain.

    Args:
        name: by which ``start``, ``stop`` and the printed lines call it.
        configs: the bundle's configuration files, the later over the earlier, relative to the bundle's folder.
        result: the file that the phase leaves when it is through.
        settings: entries of the configuration to set.
        inputs: files and data sets (folders with ``dataset.json``) that it reads; changed ones start it anew.
        metrics: ``result`` is a ``metrics.json``, of which the chain's table gets a row.
    """

    name: str
    configs: Sequence[str]
    result: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: Sequence[str] = ()
    metrics: bool = False


class TeacherStudentChain:
    """Runs phases in their order through MONAI's own ``bundle run``; what is done is left out, what stopped goes on.

    A phase is done when its result is there and ``phase_<result>.json`` beside it tells of the same configuration and
    the same inputs, by size and time of change. A phase that was stopped under the same ones is run with ``resume``;
    any other is run afresh, and what it left before is removed. Since a phase's inputs are results of phases before it,
    a new teacher brings a new student along, and a student of another annotation, in a folder of its own, starts from
    the teacher that is there.

    Args:
        phases: :class:`Phase`, or its arguments as a mapping.
        bundle_root: the bundle's folder, which the configurations are relative to.
        output_dir: where ``chain.csv`` goes, a row for each evaluation.
        start: name of the first phase to run; those before it must have left their results.
        stop: name of the last one.
        settings: entries for every phase whose configuration has them, such as ``device``.

    Raises:
        InputError: no such phase, configuration or entry.
    """

    def __init__(
        self,
        phases: Sequence[Phase | Mapping[str, Any]],
        bundle_root: str | os.PathLike,
        output_dir: str | os.PathLike,
        start: str | None = None,
        stop: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.phases = [phase if isinstance(phase, Phase) else Phase(**phase) for phase in phases]
        self.root, self.output_dir = Path(bundle_root).resolve(), Path(output_dir)
        self.settings = dict(settings or {})
        names = [phase.name for phase in self.phases]
        if not names or len(set(names)) < len(names):
            raise InputError("phases", "phases of different names", repr(names))
        for option, value in (("start", start), ("stop", stop)):
            if value is not None and value not in names:
                raise InputError(option, f"one of {', '.join(names)}", repr(value))
        first, last = names.index(start or names[0]), names.index(stop or names[-1])
        if last < first:
            raise InputError("stop", f"a phase from {start} on", repr(stop))
        self.phases = self.phases[first : last + 1]

    def run(self) -> list[str]:
        """Run what is not done.

        Returns:
            names of the phases that were run.

        Raises:
            InputError: a phase's input is missing, or a phase left no result.
        """
        ran = []
        for number, phase in enumerate(self.phases, 1):
            before = f"phase {number}/{len(self.phases)}, {phase.name}:"
            now, notes = self._state(phase), self._notes(phase)
            earlier = _read(notes)
            same = {key: earlier.get(key) for key in now} == now
            if same and earlier.get("done") and earlier.get("result") == _found(phase.result):
                print(f"{before} done before, {phase.result}", flush=True)
            else:
                print(f"{before} {'going on' if same else 'starting'}, {phase.result}", flush=True)
                if not same:  # else a run that is killed in its first epoch would go on from another one's state
                    for path in (Path(phase.result), Path(phase.result).with_name(_STATE)):
                        path.unlink(missing_ok=True)
                _write(notes, {**now, "done": False})
                self._run(phase, resume=same)
                if _found(phase.result) is None:
                    raise InputError(phase.result, f"the result of the phase {phase.name}", "no such file")
                _write(notes, {**now, "done": True, "result": _found(phase.result)})
                ran.append(phase.name)
            self._tabulate()
        return ran

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
        try:
            monai.bundle.run(config_file=self._files(phase), **overrides)
        except RuntimeError as error:
            raise input_error_in(error) or error from None

    def _tabulate(self) -> None:
        """Rows of all evaluations whose numbers are there, in the order of the phases."""
        rows = []
        for phase in self.phases:
            if not (phase.metrics and Path(phase.result).is_file()):
                continue
            metrics = json.loads(Path(phase.result).read_text(encoding="utf-8"))
            row: dict[str, Any] = {"phase": phase.name}
            for name, value in metrics.items():
                if isinstance(value, dict) and "value" in value:
                    row |= {name: value["value"], f"{name} low": value["low"], f"{name} high": value["high"]}
            rows.append(row | {"result": phase.result})
        if rows:
            with atomic_path(self.output_dir / "chain.csv") as temporary:
                pd.DataFrame(rows).to_csv(temporary, index=False)


def _found(path: str) -> list[int] | None:
    return fingerprint(path) if Path(path).is_file() else None


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet, or a torn one: as if nothing had been done
        return {}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
