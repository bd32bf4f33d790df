"""Teacher-student chaining: phases one after the other, each a configuration of the bundle.

Háberová and Vykopal 2023, section 4: segmentation, extraction of nuclei, teacher, student, fine-tuning.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from monai_ext.base.errors import InputError
from monai_ext.base.files import atomic_path
from monai_ext.engines.phases import Phase, PhaseRunner

__all__ = ["TeacherStudentChain"]


class TeacherStudentChain:
    """Runs phases in their order, each unless it is done (:class:`~monai_ext.engines.PhaseRunner`).

    Since a phase's inputs are results of phases before it, a new teacher brings a new student along, and a student of
    another annotation, in a folder of its own, starts from the teacher that is there.

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
        self.runner, self.output_dir = PhaseRunner(bundle_root, settings), Path(output_dir)
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
            if self.runner(phase, f"{number}/{len(self.phases)}"):
                ran.append(phase.name)
            self._tabulate()
        return ran

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
