"""Reading, checking and converting data."""

from monai_ext.data.cohort import Cohort
from monai_ext.data.datalist import check_label_item, check_mask_item, check_points_item, load_datalist
from monai_ext.data.geojson import (
    Features,
    GeoJSONWriter,
    label_map_to_polygons,
    rasterize,
    read_geojson,
    write_geojson,
)
from monai_ext.data.hotspot import hot_spot, mitosis_summary
from monai_ext.data.image import Field, read_field, read_mask
from monai_ext.data.instance_targets import collate_targets
from monai_ext.data.nuclei import (
    NucleusPatches,
    check_nuclei_item,
    crop_patches,
    expert_nuclei,
    read_class_names,
    write_nuclei,
)
from monai_ext.data.points import read_points, write_points
from monai_ext.data.teacher_labels import TeacherLabels
from monai_ext.data.tiles import load_tiles

__all__ = [
    "Cohort",
    "Features",
    "Field",
    "GeoJSONWriter",
    "NucleusPatches",
    "TeacherLabels",
    "check_label_item",
    "check_mask_item",
    "check_nuclei_item",
    "check_points_item",
    "collate_targets",
    "crop_patches",
    "expert_nuclei",
    "hot_spot",
    "label_map_to_polygons",
    "load_datalist",
    "load_tiles",
    "mitosis_summary",
    "rasterize",
    "read_class_names",
    "read_field",
    "read_geojson",
    "read_mask",
    "read_points",
    "write_geojson",
    "write_nuclei",
    "write_points",
]
