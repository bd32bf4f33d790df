"""The command line: ``python -m monai_ext annotate | export | phantom | prepare | report | templates | tune``.

``python -m monai_ext prepare pvid --help`` shows what one converter, phantom, tuning or report does, with its options;
``python -m monai_ext templates --help`` those of a command that does one thing.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

import fire

from monai_ext.base.errors import InputError, input_error_in
from monai_ext.base.flags import as_flag


def _call(function: Callable[..., Any], name: str, *args: Any, **options: Any) -> str:
    """Call a function with options of the command line; a missing or unknown one is the user's mistake, not a bug."""
    signature = inspect.signature(function)
    try:
        signature.bind(*args, **options)
    except TypeError as error:
        known = ", ".join(f"--{p.name}" for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD)
        raise InputError(name, f"options among {known}", str(error)) from error
    for parameter in signature.parameters.values():
        if isinstance(parameter.default, bool) and parameter.name in options:
            options[parameter.name] = as_flag(options[parameter.name], f"--{parameter.name}")
    return str(function(*args, **options))


def _phantoms() -> dict[str, Callable[..., Any]]:
    from monai_ext.phantom import (
        METHODS,
        write_camelyon16,
        write_dataset,
        write_nucleus_patches,
        write_slide,
        write_vessel_slide,
        write_vessels,
    )

    return {
        **dict.fromkeys(METHODS, write_dataset),
        "camelyon16": write_camelyon16,
        "nucleus_patches": write_nucleus_patches,
        "slide": write_slide,
        "vessel_slide": write_vessel_slide,
        "vessels": write_vessels,
    }


def _converters() -> dict[str, Callable[..., Any]]:
    from monai_ext import prepare

    return {
        name.removeprefix("prepare_"): getattr(prepare, name) for name in prepare.__all__ if name.startswith("prepare_")
    }


def _tunings() -> dict[str, Callable[..., Any]]:
    from monai_ext.tuning import tune_evidence, tune_expert_count, tune_instances, tune_mitosis

    return {
        "mitosis": tune_mitosis,
        "evidence": tune_evidence,
        "instances": tune_instances,
        "expert-count": tune_expert_count,
    }


def _reports() -> dict[str, Callable[..., Any]]:
    from monai_ext.reports.agreement import compare_cells
    from monai_ext.reports.comparison import compare_annotations, compare_classifiers, compare_instances
    from monai_ext.slides import evaluate_slides

    return {
        "annotations": compare_annotations,
        "cells": compare_cells,
        "classifiers": compare_classifiers,
        "instances": compare_instances,
        "slides": evaluate_slides,
    }


def _single() -> dict[str, Callable[..., Any]]:
    from monai_ext.distribution import export_bundles
    from monai_ext.prepare.annotator import annotate
    from monai_ext.prepare.templates import choose_templates

    return {"annotate": annotate, "export": export_bundles, "templates": choose_templates}


_KINDS = {"phantom": _phantoms, "prepare": _converters, "report": _reports, "tune": _tunings}


def _call_one(command: str, kind: str, *args: Any, **options: Any) -> str:
    """One of the functions that a command stands for."""
    known = _KINDS[command]()
    if kind not in known:
        raise InputError(command, " or ".join(known), repr(kind))
    return _call(known[kind], f"{command} {kind}", *args, **options)


def phantom(method: str, dst: str, **options: Any) -> str:
    """Write a synthetic data set, a slide, or slides and annotations as an official release has them.

    Args:
        method: mitosis, metastasis, cells or nuclei; nucleus_patches for nuclei with classes; vessels; slide or
            vessel_slide for one pyramidal TIFF; camelyon16 for a release.
        dst: the folder to write; for a slide, the file.
        options: of the method; ``phantom METHOD --help`` shows them.
    """
    from monai_ext.phantom import METHODS

    return _call_one("phantom", method, *([method] if method in METHODS else []), dst, **options)


def prepare(name: str, src: str, dst: str, **options: Any) -> str:
    """Convert an official release into a bundle's data set, or cut tiles with and without nuclei.

    Args:
        name: mitos12, mitos14, amida13, tupac16, midog, pcam, camelyon16, hploc, lizard, monuseg, consep, ccrcc,
            dsb2018, nucls, crchisto, qupath or pvid; or tiles.
        src: the folder of the release as it was unpacked; for tiles, a data set of outlined nuclei, a slide or a folder
            of slides.
        dst: the folder to write.
        options: of the converter; ``prepare NAME --help`` shows them.
    """
    return _call_one("prepare", name, src, dst, **options)


def templates(dst: str, **options: Any) -> str:
    """Make a folder of cell templates from points on an image or from crops, and show what they find.

    Args:
        dst: the folder to write.
        options: image, points and size, or crops, and more; ``templates --help`` shows them.
    """
    return _call(_single()["templates"], "templates", dst, **options)


def annotate(dataset_dir: str, **options: Any) -> str:
    """Add a column of automatic annotations to a data set of nuclei, learnt from another column.

    Args:
        dataset_dir: the data set's folder.
        options: column, from (or source) and more; ``annotate --help`` shows them.
    """
    options = {"source" if name == "from" else name: value for name, value in options.items()}
    return _call(_single()["annotate"], "annotate", dataset_dir, **options)


def export(name: str, dst: str, **options: Any) -> str:
    """Write a bundle as a zip that MONAI can download and that runs without this repository.

    Args:
        name: of the bundle, or all.
        dst: the folder to write to.
        options: url, max_mb, bundles and overwrite; ``export --help`` shows them.
    """
    return _call(_single()["export"], "export", name, dst, **options)


def tune(method: str, **options: Any) -> str:
    """Choose what a method leaves open on the validation list.

    Args:
        method: mitosis, evidence, instances or expert-count.
        options: of the method; ``tune METHOD --help`` shows them.
    """
    return _call_one("tune", method, **options)


def report(kind: str, **options: Any) -> str:
    """Turn the files of finished runs into numbers with intervals and a page.

    Args:
        kind: classifiers or instances, to compare the scores of several evaluations; slides, for AUC and FROC of a
            cohort; annotations, to score a data set's annotations of nuclei against each other; cells, for outlines
            against others, such as QuPath's own.
        options: of the report; ``report KIND --help`` shows them.
    """
    return _call_one("report", kind, **options)


def main() -> None:
    """Run a command; what is wrong with the input ends it with one line and exit code 1."""
    try:
        functions = (annotate, export, phantom, prepare, report, templates, tune)
        commands = {function.__name__: function for function in functions}
        command, kind = (*sys.argv[1:3], "", "")[:2]
        if command in commands and {"-h", "--help"} & set(sys.argv):
            one = _KINDS[command]().get(kind) if command in _KINDS else None
            shown = one or _single().get(command, commands[command])
            fire.Fire(shown, command=["--", "--help"], name=f"monai_ext {command} {kind if one else ''}".rstrip())
        fire.Fire(commands, name="monai_ext")
    except Exception as error:
        cause = input_error_in(error)  # MONAI wraps what a configuration raises
        if cause is None:
            raise
        print(f"{type(cause).__name__}: {cause}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
