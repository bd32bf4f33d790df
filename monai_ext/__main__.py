"""The command line: ``python -m monai_ext phantom | prepare | tune ...``."""

from __future__ import annotations

import sys
from typing import Any

import fire

from monai_ext.errors import InputError


def phantom(method: str, dst: str, **options: Any) -> str:
    """Write a synthetic data set, or a slide.

    Args:
        method: mitosis, metastasis, cells, nuclei, vessels, or slide for one pyramidal TIFF.
        dst: the folder to write; for a slide, the file.
        **options: see ``monai_ext.data.phantom.write_dataset`` and ``write_slide``.
    """
    from monai_ext.data.phantom import write_dataset, write_slide

    return str(write_slide(dst, **options) if method == "slide" else write_dataset(method, dst, **options))


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
    return str(PREPARE[name](src, dst, **options))


def tune(method: str, **options: Any) -> str:
    """Choose a method's thresholds on the validation list.

    Args:
        method: mitosis.
        **options: see ``monai_ext.tuning.tune_mitosis``.
    """
    from monai_ext.tuning import tune_mitosis

    methods = {"mitosis": tune_mitosis}
    if method not in methods:
        raise InputError("tune", " or ".join(methods), repr(method))
    return methods[method](**options)


def main() -> None:
    """Run a command; what is wrong with the input ends it with one line and exit code 1."""
    try:
        fire.Fire({"phantom": phantom, "prepare": prepare, "tune": tune}, name="monai_ext")
    except InputError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
