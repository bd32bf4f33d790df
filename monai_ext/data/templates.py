"""Templates of cells: small pictures by which a correlation filter finds the others (LoopNet, section 3.2.1).

A template is a tight crop of one typical cell, so that the mean side of all templates is the mean size of a cell.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from monai_ext.base.errors import InputError
from monai_ext.base.files import write_png
from monai_ext.formats.image import SUFFIXES, read_field

__all__ = ["LEAST_SIDE", "Templates", "check_template", "keep_templates", "read_templates"]

Templates = dict[str, np.ndarray]

LEAST_SIDE = 3  # px: a cell of one or two pixels has no shape


def check_template(template: np.ndarray, where: str | os.PathLike = "template") -> None:
    """Refuse a template that cannot find cells.

    Args:
        template: ``(C, h, w)``.
        where: the file an error names.

    Raises:
        InputError: not such a shape, smaller than 3 px, or of one colour: it resembles every smooth region alike.
    """
    if template.ndim != 3 or min(template.shape[1:]) < LEAST_SIDE:
        raise InputError(where, f"a template (C, h, w) of at least {LEAST_SIDE} x {LEAST_SIDE} px", f"{template.shape}")
    if (template == template[:, :1, :1]).all():
        raise InputError(where, "a template that shows a cell", "one colour")


def read_templates(folder: str | os.PathLike) -> Templates:
    """The templates that are the images of a folder, by their names; its subfolders are left out.

    Args:
        folder: PNG, JPEG, BMP or TIFF files, each a crop of one cell, all at the resolution of what they are to find.

    Returns:
        uint8 ``(3, h, w)`` RGB of each.

    Raises:
        InputError: no such folder, no image in it, or one that cannot serve (:func:`check_template`).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(folder, "a folder of templates", "a file" if folder.exists() else "no such folder")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
    if not paths:
        raise InputError(folder, "crops of cells (PNG, JPEG, BMP, TIFF)", "none")
    templates = {path.stem: read_field(path).image for path in paths}
    for path in paths:
        check_template(templates[path.stem], path)
    return templates


def keep_templates(source: str | os.PathLike, folder: str | os.PathLike) -> Path:
    """Copy templates to ``<folder>/templates``, beside weights that were trained on what they find.

    Args:
        source: a folder of templates.
        folder: of the weights.

    Returns:
        The new folder; what was in it before is gone.

    Raises:
        InputError: as :func:`read_templates`.
    """
    templates, dst = read_templates(source), Path(folder) / "templates"
    if dst.resolve() == Path(source).resolve():
        return dst
    for path in [path for path in dst.glob("*") if path.suffix.lower() in SUFFIXES]:
        path.unlink()
    for name, template in templates.items():
        write_png(dst / f"{name}.png", np.moveaxis(template, 0, -1))
    return dst
