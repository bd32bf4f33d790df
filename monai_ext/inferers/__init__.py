"""Inferers."""

from monai_ext.inferers.halo import HaloInferer

__all__ = ["HaloInferer"]
