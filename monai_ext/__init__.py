"""Weakly supervised histopathology with MONAI: see ``README.md`` and ``docs/``."""

__version__ = "0.1.0"
