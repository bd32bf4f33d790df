"""Parameter groups for optimizers."""

from typing import TYPE_CHECKING

from monai_ext.base.lazy import lazy_names

if TYPE_CHECKING:
    from monai_ext.optimizers.fine_tuning import fine_tuning_groups
    from monai_ext.optimizers.param_groups import caffe_param_groups

__all__ = [
    "caffe_param_groups",
    "fine_tuning_groups",
]

__getattr__ = lazy_names(__name__, __file__)
