"""Results in the formats of other programs: DICOM, NIfTI, NRRD, OME-Zarr, ASAP, TIAToolbox, HistomicsUI, anndata."""

from typing import TYPE_CHECKING

from monai_ext.base.lazy import lazy_names

if TYPE_CHECKING:
    from monai_ext.exchange.conversion import convert
    from monai_ext.exchange.registry import FORMATS, Exchange, Format
    from monai_ext.exchange.results import Results

__all__ = ["FORMATS", "Exchange", "Format", "Results", "convert"]

__getattr__ = lazy_names(__name__, __file__)
