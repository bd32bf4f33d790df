"""Weakly supervised histopathology with MONAI: see ``README.md`` and ``docs/``."""

from __future__ import annotations

import importlib
from types import ModuleType

__version__ = "0.1.0"

_MODULES = ("data", "distributed", "errors", "flags", "handlers", "inferers", "losses", "metrics", "networks")
_MODULES += ("optimizers", "slides", "transforms", "tuning", "visualize")


def __getattr__(name: str) -> ModuleType:
    # so that `import monai_ext` is enough in a configuration, and costs nothing on the command line
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
