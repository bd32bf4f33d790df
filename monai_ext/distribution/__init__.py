"""Bundles as zips that run where this repository is not."""

from typing import TYPE_CHECKING

from monai_ext.base.lazy import lazy_names

if TYPE_CHECKING:
    from monai_ext.distribution.export import export_bundles

__all__ = [
    "export_bundles",
]

__getattr__ = lazy_names(__name__, __file__)
