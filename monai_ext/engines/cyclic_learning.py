"""Cyclic Learning: classifier, seeds, self-training, repeated (Zhou et al. 2023, section III)."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from monai_ext.base.distributed import barrier, is_first
from monai_ext.base.errors import InputError
from monai_ext.base.files import atomic_path, write_png
from monai_ext.data.datalist import load_datalist, read_content
from monai_ext.data.result_files import CYCLES
from monai_ext.engines.phases import Phase, PhaseRunner
from monai_ext.formats.image import read_field, read_mask
from monai_ext.networks.convention import copy_weights
from monai_ext.networks.utils import read_state_dict
from monai_ext.reports.instance_pictures import instance_rows

__all__ = ["CyclicLearning"]

_SHARING = ("bilateral", "unilateral", "none")
_BEGIN = ("front", "teacher")
_DATA = ("dataset_dir", "tiles_dir")  # settings that name what a phase learns from
_PREFIX = "backbone."


class CyclicLearning:
    """Runs the cycles, phase by phase, each unless it is done (:class:`~monai_ext.engines.PhaseRunner`).

    A cycle: the front end learns the images' labels; its relevance gives seeds in the back end's images; the teacher
    learns the seeds (eq. 1); then students, each of the masks so far and of those that the network before it found
    (eq. 2), until ``patience`` of them in a row were no better than the best before. The best network by the
    validation list gives its backbone to the next cycle's front end. Seeds are made afresh in each cycle
    (section III-C). Only backbones cross.

    Below ``output_dir`` each cycle has a folder: ``cycle_1/front``, ``seeds``, ``student_0`` (the teacher),
    ``masks_1``, ``student_1`` ..., each with what its configuration writes. ``cycles.csv`` has a row for each network
    (Table III), ``cycles.png`` shows what the best of each cycle finds in some images of the test list (Fig. 4).
    ``model.pt``, its ``model.json`` and ``history.json`` of the best network of all are copied to ``output_dir``.

    Args:
        bundle_root: the bundle's folder, which the configurations are relative to.
        output_dir: see above.
        front_configs: trains the front end; entries ``ckpt_dir``, ``backbone_weights``.
        seeds_configs: writes a data set of seeds; ``front_dir``, ``output_dir``.
        back_configs: trains the back end; ``dataset_dir``, ``ckpt_dir``, ``backbone_weights``, ``start_from`` (the
            weights of the network before).
        found_configs: writes a data set of masks so far and masks found; ``masks_dir``, ``back_dir``, ``output_dir``.
        evaluate_configs: over ``back_configs``, scores the test list, if there is one; ``ckpt_dir``, ``output_dir``,
            where it may leave ``dataset.json`` with the ``instances`` that it found, for the picture.
        cycles: how many; the paper's m = 5.
        students: most networks of a cycle, the teacher among them: the paper's f1 to f5 (Table III). 1 for the teacher
            alone.
        patience: how many students in a row may be no better than the best of their cycle before it ends. ``None`` for
            all, as in Table III, where in cycles 3 and 4 the best network follows a dip.
        sharing: ``"bilateral"``: backbones cross both ways; ``"unilateral"``: from the back end to the front end only,
            and the back end begins with ``backbone_weights``; ``"none"``: both begin with them.
        students_begin: ``"front"``: with the front end's backbone, as the teacher (the paper's Fig. 1), or
            ``"teacher"``: with all weights of the network before (its eq. 2).
        backbone_weights: what the first front end begins with: a path, torchvision's name, or ``None`` for nothing.
        key_metric: of the back end's ``history.json``, the larger the better.
        pictures: how many images ``cycles.png`` shows.
        parallel: kinds of phases (see ``settings``) that all ranks of ``torchrun`` run together; their configurations
            are made for that. The first rank does the others.
        later_front_settings: further entries for the front end from the second cycle on, whose backbone is trained
            already; such as a lower learning rate.
        settings: entries for each kind of phase, by ``front``, ``seeds``, ``back``, ``found``, ``evaluate``.
        shared_settings: entries for every phase whose configuration has them, such as ``device``.

    Raises:
        InputError: an unknown way of sharing, fewer than one cycle or network, settings of an unknown kind.
    """

    def __init__(
        self,
        bundle_root: str | os.PathLike,
        output_dir: str | os.PathLike,
        front_configs: Sequence[str],
        seeds_configs: Sequence[str],
        back_configs: Sequence[str],
        found_configs: Sequence[str],
        evaluate_configs: Sequence[str],
        cycles: int = 5,
        students: int = 5,
        patience: int | None = 2,
        sharing: str = "bilateral",
        students_begin: str = "front",
        backbone_weights: str | None = None,
        key_metric: str = "val_dice",
        pictures: int = 4,
        parallel: Sequence[str] = (),
        later_front_settings: Mapping[str, Any] | None = None,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        shared_settings: Mapping[str, Any] | None = None,
    ) -> None:
        for name, value, choices in (("sharing", sharing, _SHARING), ("students_begin", students_begin, _BEGIN)):
            if value not in choices:
                raise InputError(name, " or ".join(choices), repr(value))
        for name, value in (("cycles", cycles), ("students", students), ("patience", patience)):
            none = name == "patience" and value is None
            if not none and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise InputError(name, "a whole number from 1" + ", or null" * (name == "patience"), repr(value))
        self.configs = {
            "front": list(front_configs),
            "seeds": list(seeds_configs),
            "back": list(back_configs),
            "found": list(found_configs),
            "evaluate": [*back_configs, *evaluate_configs],
        }
        self.phase_settings = {kind: dict(values) for kind, values in (settings or {}).items()}
        for name, kinds in (("settings", self.phase_settings), ("parallel", parallel)):
            if unknown := set(kinds) - set(self.configs):
                raise InputError(name, f"some of {', '.join(self.configs)}", ", ".join(sorted(unknown)))
        self.runner, self.output_dir = PhaseRunner(bundle_root, shared_settings), Path(output_dir)
        self.cycles, self.students, self.sharing = cycles, students, sharing
        self.patience, self.students_begin = patience, students_begin
        self.pictures, self.parallel = pictures, tuple(parallel)
        self.backbone_weights, self.key_metric = backbone_weights, key_metric
        self.later_front_settings = dict(later_front_settings or {})
        self.rows: list[dict[str, Any]] = []

    def run(self) -> Path:
        """Run what is not done.

        Returns:
            the folder of the best back end, by the validation list.

        Raises:
            InputError: as the phases do, or a history without the key metric.
        """
        self.rows = []
        crossing = self.backbone_weights
        for cycle in range(1, self.cycles + 1):
            folder = self.output_dir / f"cycle_{cycle}"
            later = self.later_front_settings if cycle > 1 else {}
            self._phase(
                cycle, "front", "front end", folder / "front/model.pt",
                {**later, "ckpt_dir": folder / "front", "backbone_weights": crossing}, [crossing],
            )  # fmt: skip
            seeds = folder / "seeds/dataset.json"
            front = {"front_dir": folder / "front", "output_dir": seeds.parent}
            self._phase(cycle, "seeds", "seeds", seeds, front, [folder / "front/model.pt"])
            taken = _backbone(folder / "front") if self.sharing == "bilateral" else self.backbone_weights
            best = self._self_training(cycle, folder, taken)
            self._draw()
            crossing = self.backbone_weights if self.sharing == "none" else _backbone(best)
        best = self._best(self.rows)
        if is_first():
            copy_weights(best / "model.pt", self.output_dir / "model.pt")
            with atomic_path(self.output_dir / "history.json") as temporary:
                shutil.copyfile(best / "history.json", temporary)
        barrier()
        return best

    def _best(self, rows: Sequence[Mapping[str, Any]]) -> Path:
        return Path(max(rows, key=lambda row: row[self.key_metric])["folder"])

    def _self_training(self, cycle: int, folder: Path, backbone: str | None) -> Path:
        """The teacher and its students; the folder of the best."""
        masks = folder / "seeds"
        scores: list[float] = []
        for number in range(self.students):
            back = folder / f"student_{number}"
            before = folder / f"student_{number - 1}"
            if number:
                more = folder / f"masks_{number}"
                values = {"masks_dir": masks, "back_dir": before, "output_dir": more}
                inputs = [masks, before / "model.pt"]
                self._phase(cycle, "found", f"masks for student {number}", more / "dataset.json", values, inputs)
                masks = more
            goes_on = number > 0 and self.students_begin == "teacher"
            begun = str(before / "model.pt") if goes_on else backbone
            values = {
                "dataset_dir": masks,
                "ckpt_dir": back,
                "backbone_weights": None if goes_on else backbone,
                "start_from": begun if goes_on else None,
            }
            name = f"student {number}" if number else "teacher"
            self._phase(cycle, "back", name, back / "model.pt", values, [masks, begun])
            evaluation = {"dataset_dir": masks, "ckpt_dir": back, "output_dir": back / "test"}
            metrics = back / "test/metrics.json"
            if read_content(masks, masks / "dataset.json").get("test"):
                self._phase(cycle, "evaluate", f"{name}, test", metrics, evaluation, [masks, back / "model.pt"])
            scores.append(self._record(cycle, number, back))
            since_best = number - scores.index(max(scores))
            if self.patience is not None and since_best >= self.patience:
                break
        return folder / f"student_{scores.index(max(scores))}"

    def _phase(
        self, cycle: int, kind: str, name: str, result: Path, values: Mapping[str, Any], inputs: Sequence[Any]
    ) -> None:
        settings = {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}
        entries = self.phase_settings.get(kind, {})
        files = [str(path) for path in inputs if path is not None and Path(path).exists()]
        files += [
            str(entries[key]) for key in _DATA if key in entries and _is_data_set(entries[key])
        ]  # a change restarts
        phase = Phase(
            f"cycle {cycle}, {name}", self.configs[kind], str(result), {**entries, **settings}, files,
            parallel=kind in self.parallel,
        )  # fmt: skip
        self.runner(phase)

    def _record(self, cycle: int, student: int, back: Path) -> float:
        """Add the network's row to ``cycles.csv``; its validation score."""
        history = json.loads((back / "history.json").read_text(encoding="utf-8"))
        values = [entry[self.key_metric] for entry in history if entry.get(self.key_metric) is not None]
        if not values:
            raise InputError(back / "history.json", f"epochs with {self.key_metric}", "none")
        row: dict[str, Any] = {"cycle": cycle, "student": student, self.key_metric: max(values)}
        metrics = back / "test/metrics.json"
        scores = json.loads(metrics.read_text(encoding="utf-8")) if metrics.is_file() else {}
        for name, value in scores.items():
            if isinstance(value, dict) and "value" in value:
                row |= {name: value["value"], f"{name} low": value["low"], f"{name} high": value["high"]}
        self.rows.append(row | {"folder": str(back)})
        if is_first():
            with atomic_path(self.output_dir / "cycles.csv") as temporary:
                pd.DataFrame(self.rows).to_csv(temporary, index=False)
        return max(values)

    def _draw(self) -> None:
        """Write ``cycles.png`` anew, if the evaluations wrote their instances."""
        cycles = sorted({row["cycle"] for row in self.rows})
        best = [self._best([row for row in self.rows if row["cycle"] == cycle]) / "test" for cycle in cycles]
        if not is_first() or not all((folder / "dataset.json").is_file() for folder in best):
            return
        results = [_found_instances(folder) for folder in best]
        images = [name for name in results[0] if all(name in each for each in results)][: self.pictures]
        if not images:
            return
        maps = [
            [read_mask(results[0][name]["label"]), *(read_mask(each[name]["instances"]) for each in results)]
            for name in images
        ]
        headings = ["image", "labels", *(f"cycle {cycle}" for cycle in cycles)]
        # with a resolution given px stay the file's own, as the maps' are
        picture = instance_rows([read_field(name, mpp=1.0).image for name in images], maps, headings)
        write_png(self.output_dir / CYCLES, picture)


def _found_instances(folder: Path) -> dict[str, dict[str, Any]]:
    """The items an evaluation wrote, by image."""
    items = load_datalist(folder, ["test"], None, ("image", "label"), ("instances",))["test"]
    return {str(Path(item["image"]).resolve()): item for item in items if "instances" in item}


def _is_data_set(folder: Any) -> bool:
    return isinstance(folder, (str, os.PathLike)) and (Path(folder) / "dataset.json").is_file()


def _backbone(folder: Path) -> str:
    """The backbone of the network in a folder, as a file of its own."""
    model, path = folder / "model.pt", folder / "backbone.pt"
    # a new file would be a new input, and repeat what was done with the old one
    made = path.is_file() and path.stat().st_mtime_ns >= model.stat().st_mtime_ns
    barrier()  # all have looked before one writes
    if made:
        return str(path)
    if is_first():
        state = read_state_dict(model)
        with atomic_path(path) as temporary:
            torch.save({k.removeprefix(_PREFIX): v for k, v in state.items() if k.startswith(_PREFIX)}, temporary)
    barrier()
    return str(path)
