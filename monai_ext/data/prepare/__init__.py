"""Converters from the official releases of public data sets to the data contract: one function each.

``PREPARE`` maps a data set's name to its converter.
"""

from __future__ import annotations

from monai_ext.data.prepare.camelyon import prepare_camelyon16, prepare_hploc
from monai_ext.data.prepare.mitosis import (
    prepare_amida13,
    prepare_midog,
    prepare_mitos12,
    prepare_mitos14,
    prepare_tupac16,
)
from monai_ext.data.prepare.pcam import prepare_pcam

__all__ = [
    "PREPARE",
    "prepare_amida13",
    "prepare_camelyon16",
    "prepare_hploc",
    "prepare_midog",
    "prepare_mitos12",
    "prepare_mitos14",
    "prepare_pcam",
    "prepare_tupac16",
]

PREPARE = {
    "mitos12": prepare_mitos12,
    "mitos14": prepare_mitos14,
    "amida13": prepare_amida13,
    "tupac16": prepare_tupac16,
    "midog": prepare_midog,
    "pcam": prepare_pcam,
    "camelyon16": prepare_camelyon16,
    "hploc": prepare_hploc,
}
