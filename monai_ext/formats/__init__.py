"""What is read and written: images, slides, points, outlines, GeoJSON, ImageScope and ASAP XML, OME-TIFF."""

from typing import TYPE_CHECKING

from monai_ext.base.lazy import lazy_names

if TYPE_CHECKING:
    from monai_ext.formats.asap import read_asap, read_xml, write_asap
    from monai_ext.formats.dicom_annotations import read_dicom_annotations
    from monai_ext.formats.dicom_segmentation import read_dicom_segmentation
    from monai_ext.formats.fragments import Box, tissue_fragments
    from monai_ext.formats.geojson import Features, GeoJSONWriter, rasterize, read_geojson, write_geojson
    from monai_ext.formats.heatmap import HeatMap
    from monai_ext.formats.hotspot import hot_spot, mitosis_summary
    from monai_ext.formats.image import Field, read_field, read_mask
    from monai_ext.formats.levels import open_levels
    from monai_ext.formats.measurements import measure_instances
    from monai_ext.formats.ome import write_ome_tiff
    from monai_ext.formats.outlines import label_map_to_polygons, polygons_to_label_map, polygons_to_mask
    from monai_ext.formats.point_files import read_points, write_points
    from monai_ext.formats.reader import SlideReader, check_slide
    from monai_ext.formats.roles import read_objects
    from monai_ext.formats.tissue import Tissue, tissue_mask
    from monai_ext.formats.torn import check_whole

__all__ = [
    "Box",
    "Features",
    "Field",
    "GeoJSONWriter",
    "HeatMap",
    "SlideReader",
    "Tissue",
    "check_slide",
    "check_whole",
    "hot_spot",
    "label_map_to_polygons",
    "measure_instances",
    "mitosis_summary",
    "open_levels",
    "polygons_to_label_map",
    "polygons_to_mask",
    "rasterize",
    "read_asap",
    "read_dicom_annotations",
    "read_dicom_segmentation",
    "read_field",
    "read_geojson",
    "read_mask",
    "read_objects",
    "read_points",
    "read_xml",
    "tissue_fragments",
    "tissue_mask",
    "write_asap",
    "write_geojson",
    "write_ome_tiff",
    "write_points",
]

__getattr__ = lazy_names(__name__, __file__)
