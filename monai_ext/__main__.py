"""The command line: ``python -m monai_ext phantom | prepare | tune ...``."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

import fire

from monai_ext.errors import InputError, input_error_in
from monai_ext.flags import as_flag


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


def phantom(method: str, dst: str, **options: Any) -> str:
    """Write a synthetic data set, or a slide.

    Args:
        method: mitosis, metastasis, cells, nuclei, vessels, or slide for one pyramidal TIFF.
        dst: the folder to write; for a slide, the file.
        **options: see ``monai_ext.data.phantom.write_dataset`` and ``write_slide``.
    """
    from monai_ext.data.phantom import write_dataset, write_slide

    if method == "slide":
        return _call(write_slide, "phantom slide", dst, **options)
    return _call(write_dataset, "phantom", method, dst, **options)


def prepare(name: str, src: str, dst: str, **options: Any) -> str:
    """Convert an official release into a bundle's data set.

    Args:
        name: mitos12, mitos14, amida13, tupac16 or midog.
        src: the folder of the release as it was unpacked.
        dst: the folder to write.
        **options: see ``monai_ext.data.prepare``: split, seed, overwrite, link.
    """
    from monai_ext.data.prepare import PREPARE

    if name not in PREPARE:
        raise InputError("prepare", " or ".join(PREPARE), repr(name))
    return _call(PREPARE[name], f"prepare {name}", src, dst, **options)


def tune(method: str, **options: Any) -> str:
    """Choose a method's thresholds on the validation list.

    Args:
        method: mitosis.
        **options: see ``monai_ext.tuning.tune_mitosis``.
    """
    if method != "mitosis":
        raise InputError("tune", "mitosis", repr(method))
    from monai_ext.tuning import tune_mitosis

    return _call(tune_mitosis, f"tune {method}", **options)


def main() -> None:
    """Run a command; what is wrong with the input ends it with one line and exit code 1."""
    try:
        fire.Fire({"phantom": phantom, "prepare": prepare, "tune": tune}, name="monai_ext")
    except Exception as error:
        cause = input_error_in(error)  # MONAI wraps what a configuration raises
        if cause is None:
            raise
        print(f"{type(cause).__name__}: {cause}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
