"""Segmentations of DICOM, by highdicom."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from monai_ext.base.errors import InputError
from monai_ext.exchange.dicom_source import MAKER, code_of, new_uid, source_image, stated_name
from monai_ext.exchange.label_maps import class_map
from monai_ext.exchange.results import NothingFoundError, Results
from monai_ext.formats.dicom import stated

__all__ = ["write"]

_TILE = 512
_MOST_CLASSES = 255


def write(results: Results, path: Path) -> None:
    """Write the map of the classes in tiles, a segment for each class; tiles in which there is none are left out.

    It lies in the coordinate system of the slide's glass, as the slide does.

    Args:
        results: what there is, with its resolution.
        path: the file.

    Raises:
        InputError: nothing has an area, a class name that DICOM cannot hold, or objects of another slide.
    """
    import highdicom
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom.sr.codedict import codes

    source, drawn = source_image(results), class_map(results)
    if not drawn.values.any():
        raise NothingFoundError(results.geojson, "objects with an area: a DICOM segmentation cannot be empty", "none")
    if len(drawn.legend) > _MOST_CLASSES:
        raise InputError(results.geojson, f"at most {_MOST_CLASSES} classes", f"{len(drawn.legend)}")
    algorithm = highdicom.AlgorithmIdentificationSequence(
        "monai_ext", codes.cid7162.ArtificialIntelligence, MAKER["software_versions"]
    )
    segments = [
        SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=code_of(name, results.geojson),
            algorithm_type="MANUAL" if results.drawn else "SEMIAUTOMATIC" if results.checked else "AUTOMATIC",
            algorithm_identification=None if results.drawn else algorithm,
            display_color=highdicom.color.CIELabColor.from_rgb(*colour),
        )
        for number, (name, colour) in enumerate(drawn.legend.items(), 1)
    ]
    # from the slide's first px to the middle of the map's, along its rows and columns
    with stated(results.image or results.geojson):
        origin = source.TotalPixelMatrixOriginSequence[0]
        across, down = np.reshape(np.array(source.ImageOrientationSlide, float), (2, 3))
    y, x = drawn.origin
    first = np.array([origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem, 0], float)
    first += across * x + down * y
    with stated(results.image or results.geojson):  # what a slide lacks of what highdicom copies
        data = Segmentation(
            source_images=[source],
            pixel_array=drawn.values[None],
            segmentation_type="BINARY",
            segment_descriptions=segments,
            series_instance_uid=new_uid(),
            series_number=2,
            sop_instance_uid=new_uid(),
            pixel_measures=highdicom.PixelMeasuresSequence(drawn.sides, drawn.sides[1]),
            plane_orientation=highdicom.PlaneOrientationSequence("SLIDE", [*across, *down]),
            plane_positions=[
                highdicom.PlanePositionSequence("SLIDE", [float(part) for part in first], pixel_matrix_position=(1, 1))
            ],
            tile_pixel_array=True,
            tile_size=(_TILE, _TILE),
            content_label="CLASSES",
            content_description=stated_name(results),
            specific_character_set="ISO_IR 192",
            **MAKER,
        )
    data.save_as(path, enforce_file_format=True)
