"""Reading, checking and converting data."""

from typing import TYPE_CHECKING

from monai_ext.base.lazy import lazy_names

if TYPE_CHECKING:
    from monai_ext.base.cache_names import item_hash, settings_hash
    from monai_ext.data.annotations import check_annotated_item
    from monai_ext.data.checked_lists import is_large
    from monai_ext.data.cohort import Cohort
    from monai_ext.data.crops import CropDataset
    from monai_ext.data.datalist import check_label_item, check_mask_item, check_points_item, load_datalist
    from monai_ext.data.field_tiles import FieldTiles, Tile, tile_corners
    from monai_ext.data.nuclei import (
        NucleusPatches,
        check_nuclei_item,
        crop_patches,
        expert_nuclei,
        read_class_names,
        write_nuclei,
    )
    from monai_ext.data.review_order import REVIEW_ORDERS, appearance, farthest_first, next_objects
    from monai_ext.data.teacher_labels import TeacherLabels
    from monai_ext.data.templates import keep_templates
    from monai_ext.data.tiles import load_tiles
    from monai_ext.data.vessels import (
        SlideVessels,
        Vessel,
        check_vessel_image,
        check_vessel_item,
        keep_lumen,
        vessel_items,
        vessel_outlines,
    )
    from monai_ext.formats.geojson import (
        Features,
        GeoJSONWriter,
        label_map_to_polygons,
        rasterize,
        read_geojson,
        write_geojson,
    )
    from monai_ext.formats.hotspot import hot_spot, mitosis_summary
    from monai_ext.formats.image import Field, read_field, read_mask
    from monai_ext.formats.point_files import read_points, write_points
    from monai_ext.instances.targets import collate_targets

__all__ = [
    "REVIEW_ORDERS",
    "Cohort",
    "CropDataset",
    "Features",
    "Field",
    "FieldTiles",
    "GeoJSONWriter",
    "NucleusPatches",
    "SlideVessels",
    "TeacherLabels",
    "Tile",
    "Vessel",
    "appearance",
    "check_annotated_item",
    "check_label_item",
    "check_mask_item",
    "check_nuclei_item",
    "check_points_item",
    "check_vessel_image",
    "check_vessel_item",
    "collate_targets",
    "crop_patches",
    "expert_nuclei",
    "farthest_first",
    "hot_spot",
    "is_large",
    "item_hash",
    "keep_lumen",
    "keep_templates",
    "label_map_to_polygons",
    "load_datalist",
    "load_tiles",
    "mitosis_summary",
    "next_objects",
    "rasterize",
    "read_class_names",
    "read_field",
    "read_geojson",
    "read_mask",
    "read_points",
    "settings_hash",
    "tile_corners",
    "vessel_items",
    "vessel_outlines",
    "write_geojson",
    "write_nuclei",
    "write_points",
]

__getattr__ = lazy_names(__name__, __file__)
