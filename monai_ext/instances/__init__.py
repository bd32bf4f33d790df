"""Instances of objects, and the maps and targets that networks learn them by."""

from typing import TYPE_CHECKING

from monai_ext.base.lazy import lazy_names

if TYPE_CHECKING:
    from monai_ext.instances.hover import hover_instances, hover_maps
    from monai_ext.instances.parting import fill_holes, grow_parts, split_touching
    from monai_ext.instances.pieces import whole_instances
    from monai_ext.instances.sparse import SparseInstances
    from monai_ext.instances.targets import collate_targets

__all__ = [
    "SparseInstances",
    "collate_targets",
    "fill_holes",
    "grow_parts",
    "hover_instances",
    "hover_maps",
    "split_touching",
    "whole_instances",
]

__getattr__ = lazy_names(__name__, __file__)
