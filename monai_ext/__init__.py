"""Weakly supervised histopathology with MONAI: see ``README.md`` and ``docs/``."""

from typing import TYPE_CHECKING

from monai_ext.base.lazy import lazy_names
from monai_ext.base.memory import keep_memory
from monai_ext.base.version import __version__

if TYPE_CHECKING:
    from monai_ext import (
        base,
        data,
        distribution,
        engines,
        exchange,
        explain,
        formats,
        handlers,
        inferers,
        instances,
        label,
        learn,
        losses,
        metrics,
        networks,
        optimizers,
        phantom,
        prepare,
        reports,
        slides,
        transforms,
        tuning,
        view,
        visualize,
    )
    from monai_ext.base import distributed, errors, flags

__all__ = [
    "__version__",
    "base",
    "data",
    "distributed",
    "distribution",
    "engines",
    "errors",
    "exchange",
    "explain",
    "flags",
    "formats",
    "handlers",
    "inferers",
    "instances",
    "label",
    "learn",
    "losses",
    "metrics",
    "networks",
    "optimizers",
    "phantom",
    "prepare",
    "reports",
    "slides",
    "transforms",
    "tuning",
    "view",
    "visualize",
]

keep_memory()
# so that `import monai_ext` is enough in a configuration, and costs nothing on the command line
__getattr__ = lazy_names(__name__, __file__)
