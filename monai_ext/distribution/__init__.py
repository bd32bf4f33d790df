"""Bundles as zips that run where this repository is not."""

from monai_ext.distribution.export import export_bundles

__all__ = ["export_bundles"]
