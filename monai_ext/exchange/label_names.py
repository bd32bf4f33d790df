"""Names and colours of a map's values, for ITK-SNAP: its label description file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from monai_ext.base.colours import RGB

__all__ = ["write_label_names"]

_HEAD = """\
################################################
# ITK-SnAP Label Description File
# File format:
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
################################################
"""


def write_label_names(path: Path, legend: Mapping[str, RGB]) -> None:
    """Write what ITK-SNAP reads by *Segmentation > Import Label Descriptions*.

    Args:
        path: the file.
        legend: name and RGB of the values 1, 2, ...

    Examples:
        >>> from monai_ext.exchange.label_names import write_label_names
        >>> write_label_names(folder / "names.txt", {"Tumor": (200, 0, 0)})
        >>> (folder / "names.txt").read_text().splitlines()[-1]
        '    1   200    0    0        1  1  1    "Tumor"'
    """
    lines = ['    0     0    0    0        0  0  0    "Clear Label"']
    for number, (name, colour) in enumerate(legend.items(), 1):
        red, green, blue = colour
        label = " ".join(name.replace('"', "'").split())  # a name ends at the next quotation mark, and with the line
        lines.append(f'{number:5} {red:5} {green:4} {blue:4}        1  1  1    "{label}"')
    path.write_text(_HEAD + "\n".join(lines) + "\n", encoding="utf-8")
