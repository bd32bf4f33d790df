"""Converters from the official releases of public data sets to the data contract: one function each.

``PREPARE`` maps a data set's name to its converter.
"""

from __future__ import annotations

from monai_ext.data.prepare.camelyon import prepare_camelyon16, prepare_hploc
from monai_ext.data.prepare.ccrcc import prepare_ccrcc
from monai_ext.data.prepare.consep import prepare_consep
from monai_ext.data.prepare.crchisto import prepare_crchisto
from monai_ext.data.prepare.dsb2018 import prepare_dsb2018
from monai_ext.data.prepare.lizard import prepare_lizard
from monai_ext.data.prepare.mitosis import (
    prepare_amida13,
    prepare_midog,
    prepare_mitos12,
    prepare_mitos14,
    prepare_tupac16,
)
from monai_ext.data.prepare.monuseg import prepare_monuseg
from monai_ext.data.prepare.nucls import prepare_nucls
from monai_ext.data.prepare.pcam import prepare_pcam
from monai_ext.data.prepare.pvid import prepare_pvid
from monai_ext.data.prepare.qupath import prepare_qupath

__all__ = [
    "PREPARE",
    "prepare_amida13",
    "prepare_camelyon16",
    "prepare_ccrcc",
    "prepare_consep",
    "prepare_crchisto",
    "prepare_dsb2018",
    "prepare_hploc",
    "prepare_lizard",
    "prepare_midog",
    "prepare_mitos12",
    "prepare_mitos14",
    "prepare_monuseg",
    "prepare_nucls",
    "prepare_pcam",
    "prepare_pvid",
    "prepare_qupath",
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
    "lizard": prepare_lizard,
    "monuseg": prepare_monuseg,
    "consep": prepare_consep,
    "ccrcc": prepare_ccrcc,
    "dsb2018": prepare_dsb2018,
    "nucls": prepare_nucls,
    "crchisto": prepare_crchisto,
    "qupath": prepare_qupath,
    "pvid": prepare_pvid,
}
