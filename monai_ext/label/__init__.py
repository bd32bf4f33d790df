"""What an annotation server needs of the bundles: regions of slides, results as contours, annotations as labels."""

from typing import TYPE_CHECKING

from monai_ext.base.lazy import lazy_names

if TYPE_CHECKING:
    from monai_ext.data.regions import in_region, load_region, load_vessel_region
    from monai_ext.label.annotations import has_finding, has_object, object_map, object_points, training_label
    from monai_ext.label.contours import as_annotation, found_features, uncertainty

__all__ = [
    "as_annotation",
    "found_features",
    "has_finding",
    "has_object",
    "in_region",
    "load_region",
    "load_vessel_region",
    "object_map",
    "object_points",
    "training_label",
    "uncertainty",
]

__getattr__ = lazy_names(__name__, __file__)
