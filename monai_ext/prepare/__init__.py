"""Data sets made from official releases, from slides and from other data sets, as the data contract has them."""

from typing import TYPE_CHECKING

from monai_ext.base.lazy import lazy_names

if TYPE_CHECKING:
    from monai_ext.prepare.annotator import annotate
    from monai_ext.prepare.atypical import prepare_atypical
    from monai_ext.prepare.camelyon import prepare_camelyon16, prepare_hploc
    from monai_ext.prepare.cbis_ddsm import prepare_cbis_ddsm
    from monai_ext.prepare.ccrcc import prepare_ccrcc
    from monai_ext.prepare.consep import prepare_consep
    from monai_ext.prepare.crchisto import prepare_crchisto
    from monai_ext.prepare.dsb2018 import prepare_dsb2018
    from monai_ext.prepare.folds import prepare_folds
    from monai_ext.prepare.idc import prepare_idc
    from monai_ext.prepare.lizard import prepare_lizard
    from monai_ext.prepare.midog import prepare_midog, prepare_midogpp
    from monai_ext.prepare.mitosis import prepare_amida13, prepare_mitos12, prepare_mitos14, prepare_tupac16
    from monai_ext.prepare.monuseg import prepare_monuseg
    from monai_ext.prepare.negatives import prepare_negatives
    from monai_ext.prepare.nucls import prepare_nucls
    from monai_ext.prepare.nuinsseg import prepare_nuinsseg
    from monai_ext.prepare.pannuke import prepare_pannuke
    from monai_ext.prepare.pcam import prepare_pcam
    from monai_ext.prepare.puma import prepare_puma
    from monai_ext.prepare.pvid import prepare_pvid
    from monai_ext.prepare.qupath import prepare_qupath
    from monai_ext.prepare.templates import choose_templates
    from monai_ext.prepare.tiles import prepare_tiles

__all__ = [
    "annotate",
    "choose_templates",
    "prepare_amida13",
    "prepare_atypical",
    "prepare_camelyon16",
    "prepare_cbis_ddsm",
    "prepare_ccrcc",
    "prepare_consep",
    "prepare_crchisto",
    "prepare_dsb2018",
    "prepare_folds",
    "prepare_hploc",
    "prepare_idc",
    "prepare_lizard",
    "prepare_midog",
    "prepare_midogpp",
    "prepare_mitos12",
    "prepare_mitos14",
    "prepare_monuseg",
    "prepare_negatives",
    "prepare_nucls",
    "prepare_nuinsseg",
    "prepare_pannuke",
    "prepare_pcam",
    "prepare_puma",
    "prepare_pvid",
    "prepare_qupath",
    "prepare_tiles",
    "prepare_tupac16",
]

__getattr__ = lazy_names(__name__, __file__)
