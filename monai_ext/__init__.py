"""Weakly supervised histopathology with MONAI: see ``README.md`` and ``docs/``."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

__version__ = "0.1.0"

_PACKAGES = sorted(path.parent.name for path in Path(__file__).parent.glob("*/__init__.py"))
_ALIASES = {"distributed": "base.distributed", "errors": "base.errors", "flags": "base.flags"}


def __getattr__(name: str) -> ModuleType:
    # so that `import monai_ext` is enough in a configuration, and costs nothing on the command line
    if name in _PACKAGES or name in _ALIASES:
        return importlib.import_module(f"{__name__}.{_ALIASES.get(name, name)}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PACKAGES, *_ALIASES])
