"""Objects on slides in DICOM: every graphic type, pixels and mm, and what does not fit."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import shapely

from monai_ext.base.errors import InputError
from monai_ext.formats import open_levels, read_dicom_annotations
from monai_ext.formats.dicom import read_dicom, slide_frame
from tests.formats.dicom_slides import (
    MM,
    ORIENTATION,
    ORIGIN,
    group,
    item,
    measurement,
    on_glass,
    write_annotations,
    write_slide,
)

SQUARE = np.array([[10, 20], [30, 20], [30, 40], [10, 40]], np.float32)
TRIANGLE = np.array([[100, 50], [110, 50], [100, 70]], np.float32)
TURNED = np.array([[50, 60], [60, 70], [55, 75], [45, 65]], np.float32)  # a rectangle
ELLIPSE = np.array([[80, 30], [120, 30], [100, 20], [100, 40]], np.float32)  # the ends of both axes
POINT, LINE = np.array([[7, 9]], np.float32), np.array([[0, 0], [5, 5]], np.float32)
OBJECTS = {
    "POLYGON": [SQUARE, TRIANGLE],
    "RECTANGLE": [TURNED, SQUARE],
    "ELLIPSE": [ELLIPSE],
    "POINT": [POINT, POINT + 2],
    "POLYLINE": [LINE],
}
EXPECTED = {
    "POLYGON": [shapely.box(10, 20, 30, 40), shapely.Polygon(TRIANGLE)],
    "RECTANGLE": [shapely.Polygon(TURNED), shapely.box(10, 20, 30, 40)],
    "POINT": [shapely.Point(7, 9), shapely.Point(9, 11)],
    "POLYLINE": [shapely.LineString(LINE)],
}


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """Its data set, and its grid."""
    folder = tmp_path_factory.mktemp("slide")
    pixels = np.random.default_rng(0).integers(0, 256, (130, 200, 3)).astype(np.uint8)
    first = write_slide(folder, pixels)
    return first, slide_frame({path: read_dicom(path) for path in sorted(folder.glob("*.dcm"))}), pixels


def stored(points, kind: str, dtype):
    """Places as a file of 2D or 3D has them."""
    return [(each if kind == "2D" else on_glass(each)).astype(dtype) for each in points]


@pytest.mark.parametrize("kind", ["2D", "3D"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("graphic", OBJECTS)
def test_every_graphic_type(tmp_path, slide, graphic, kind, dtype):
    first, frame, _ = slide
    groups = [group(1, graphic, stored(OBJECTS[graphic], kind, dtype))]
    write_annotations(tmp_path / "a.dcm", first, groups, kind)
    features = read_dicom_annotations(tmp_path / "a.dcm", frame)
    near = 1e-6 if kind == "2D" else 0.02  # px: mm in single precision
    if graphic == "ELLIPSE":
        (ellipse,) = features.geometry
        assert ellipse.bounds == pytest.approx((80, 20, 120, 40), abs=near)
        assert ellipse.area == pytest.approx(np.pi * 20 * 10, rel=5e-3)
        assert ellipse.is_valid
    else:
        assert len(features) == len(EXPECTED[graphic])
        for found, expected in zip(features.geometry, EXPECTED[graphic], strict=True):
            assert found.geom_type == expected.geom_type
            assert shapely.hausdorff_distance(found, expected) < near
    assert set(features.classes) == {"Nucleus"}
    assert set(features.names) == {"nuclei"}
    assert set(features.object_types) == {"detection"}


def test_a_pixel_of_a_slide_is_where_its_annotation_says(tmp_path, slide):
    """The first pixel's centre in mm is .5, .5, as in QuPath; OpenSlide reads the same grid."""
    _, frame, pixels = slide
    assert frame.shape == pixels.shape[:2]
    assert (frame.patient, frame.container) == ("TCGA-AA-0001", "TCGA-AA-0001-01Z-00-DX1")
    assert frame.origin == ORIGIN
    assert frame.orientation == ORIENTATION
    assert frame.to_xy([[*ORIGIN, 0]]).tolist() == [[0.5, 0.5]]
    assert len(frame.instances) == 2, "an overview is none"
    levels, is_slide = open_levels(frame.path)
    assert is_slide
    assert levels.shapes == [(130, 200), (65, 100)]
    assert levels.resolution.mpp == pytest.approx(1000 * MM)
    assert np.array_equal(levels.read(0, 0, 0, 130, 200)[0], pixels)


def test_pixels_of_a_coarser_image(tmp_path, slide):
    first, frame, _ = slide
    coarse = next(uid for uid, shape in frame.instances.items() if shape != frame.shape)
    reference = [item(ReferencedSOPClassUID=first.SOPClassUID, ReferencedSOPInstanceUID=coarse)]
    groups = [group(1, "POLYGON", [SQUARE])]
    write_annotations(tmp_path / "a.dcm", first, groups, ReferencedImageSequence=reference)
    assert read_dicom_annotations(tmp_path / "a.dcm", frame).geometry[0].bounds == (20, 40, 60, 80)
    assert read_dicom_annotations(tmp_path / "a.dcm").geometry[0].bounds == (10, 20, 30, 40), "as they are"
    write_annotations(tmp_path / "b.dcm", first, groups, ReferencedImageSequence=None)
    assert read_dicom_annotations(tmp_path / "b.dcm", frame).geometry[0].bounds == (10, 20, 30, 40), "by its series"


def test_groups_and_measurements(tmp_path, slide):
    first, frame, _ = slide
    areas = measurement("Area", "um2", [25, 12.5])
    some = measurement("Roundness", "1", [0.5], index=[2])
    groups = [
        group(1, "POLYGON", [SQUARE, TRIANGLE], MeasurementsSequence=[areas, some]),
        group(2, "POINT", [POINT], meaning="Mitotic figure", label="seen twice", drawn=True),
    ]
    write_annotations(tmp_path / "a.dcm", first, groups)
    features = read_dicom_annotations(tmp_path / "a.dcm", frame)
    assert features.classes.tolist() == ["Nucleus", "Nucleus", "Mitotic figure"]
    assert features.names.tolist() == ["nuclei", "nuclei", "seen twice"]
    assert features.object_types.tolist() == ["detection", "detection", "annotation"]
    assert np.array_equal(features.measurements["Area um2"], [25, 12.5, np.nan], equal_nan=True)
    assert np.array_equal(features.measurements["Roundness"], [np.nan, 0.5, np.nan], equal_nan=True)


PLANES = [np.array([[20, 40, 0], [20, 39, 0], [19, 39, 0.1]]), np.array([[20, 40, 0], [20, 39, 0], [19, 39, 0.1]])]
BROKEN = {
    "a list that begins elsewhere": ({"LongPrimitivePointIndexList": b"\x03\0\0\0\x09\0\0\0"}, "begins, found another"),
    "odd places": ({"LongPrimitivePointIndexList": b"\x01\0\0\0\x08\0\0\0"}, "polygon of 3 points or more begins"),
    "two points": ({"LongPrimitivePointIndexList": b"\x01\0\0\0\x05\0\0\0"}, "polygon of 3 points or more begins"),
    "no list": ({"LongPrimitivePointIndexList": None}, "what the standard asks for, found .*LongPrimitive"),
    "another count": ({"NumberOfAnnotations": 3}, "3 objects, as it states, found 2"),
    "half a point": ({"PointCoordinatesData": bytes(4 * 13)}, "2 numbers for each point, found 13"),
    "no number": ({"PointCoordinatesData": np.full(14, np.nan, "<f4").tobytes()}, "finite coordinates, found nan"),
    "a circle": ({"GraphicType": "CIRCLE"}, "points, polylines, polygons, rectangles or ellipses, found 'CIRCLE'"),
    "seven corners": ({"GraphicType": "RECTANGLE"}, "4 points for each rectangle, found 7"),
    "no type": ({"AnnotationPropertyTypeCodeSequence": None}, "what the standard asks for"),
    "fewer values": ({"MeasurementsSequence": [measurement("Area", "um2", [1])]}, "Area um2 of its 2 objects, found 1"),
    "a third object": (
        {"MeasurementsSequence": [measurement("Area", "um2", [1], index=[3])]}, "Area um2 of its 2 objects"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_groups_whose_numbers_do_not_fit(tmp_path, slide, name):
    elements, words = BROKEN[name]
    write_annotations(tmp_path / "a.dcm", slide[0], [group(7, "POLYGON", [SQUARE, TRIANGLE], **elements)])
    with pytest.raises(InputError, match=rf"a\.dcm, group 7: expected .*{words}"):
        read_dicom_annotations(tmp_path / "a.dcm", slide[1])


@pytest.mark.parametrize(
    ("kind", "elements", "words"),
    [
        (
            "2D",
            {"PixelOriginInterpretation": "FRAME"},
            r"counted over the whole slide \(VOLUME\), found within a frame",
        ),
        ("2D", {"AnnotationCoordinateType": "4D"}, "places in 2D or 3D, found '4D'"),
        ("2D", {"ReferencedImageSequence": [item(ReferencedSOPInstanceUID="1.2.3")]}, "found of other images, 1.2.3"),
        ("2D", {"ReferencedImageSequence": None, "ReferencedSeriesSequence": None}, "found of other images, none"),
        ("3D", {"FrameOfReferenceUID": "1.2.3"}, r"the frame of reference of .*level_1\.dcm.*, found 1\.2\.3"),
        ("3D", {"FrameOfReferenceUID": None}, "what the standard asks for"),
        ("2D", {"AnnotationGroupSequence": None}, "what the standard asks for"),
        ("2D", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.33"}, "Microscopy Bulk Simple Annotations, found SOP class"),
    ],
)
def test_annotations_of_something_else(tmp_path, slide, kind, elements, words):
    groups = [group(1, "POLYGON", stored([SQUARE], kind, np.float64))]
    write_annotations(tmp_path / "a.dcm", slide[0], groups, kind, **elements)
    with pytest.raises(InputError, match=words):
        read_dicom_annotations(tmp_path / "a.dcm", slide[1])


def test_mm_need_the_slide_and_one_plane(tmp_path, slide):
    write_annotations(tmp_path / "a.dcm", slide[0], [group(1, "POLYGON", stored([SQUARE], "3D", np.float64))], "3D")
    with pytest.raises(InputError, match="expected the slide of places in mm, found none given"):
        read_dicom_annotations(tmp_path / "a.dcm")
    write_annotations(tmp_path / "b.dcm", slide[0], [group(1, "POLYGON", PLANES)], "3D")
    with pytest.raises(InputError, match=r"objects of one plane, found Z from 0 to 0\.1 mm"):
        read_dicom_annotations(tmp_path / "b.dcm", slide[1])


def test_damaged_files(tmp_path, slide):
    write_annotations(tmp_path / "a.dcm", slide[0], [group(1, "POLYGON", [SQUARE])])
    whole = (tmp_path / "a.dcm").read_bytes()
    for length in (200, 700, len(whole) - 60):
        (tmp_path / "b.dcm").write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"b\.dcm"):
            read_dicom_annotations(tmp_path / "b.dcm", slide[1])
    (tmp_path / "c.dcm").write_bytes(b"no DICOM")
    with pytest.raises(InputError, match="expected a DICOM file, found something else"):
        read_dicom_annotations(tmp_path / "c.dcm")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"ImageType": ["DERIVED", "PRIMARY", "LABEL", "NONE"]}, "found labels and overviews alone"),
        ({"TotalPixelMatrixRows": None}, "what the standard asks for"),
        ({"SharedFunctionalGroupsSequence": None}, "what the standard asks for"),
        ({"ImageOrientationSlide": [1, 0, 0, 1, 0, 0]}, "pixels that lie flat on the glass"),
    ],
)
def test_slides_that_do_not_say_where_they_lie(tmp_path, changed, words):
    write_slide(tmp_path, np.zeros((64, 64, 3), np.uint8), levels=(1,), **changed)
    with pytest.raises(InputError, match=words):
        slide_frame({path: read_dicom(path) for path in tmp_path.glob("*.dcm")})


def test_without_pydicom(tmp_path, slide, monkeypatch):
    write_annotations(tmp_path / "a.dcm", slide[0], [group(1, "POLYGON", [SQUARE])])
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(
        InputError, match=r"pydicom to read it \(pip install 'monai_ext\[dicom\]'\), found no such package"
    ):
        read_dicom_annotations(tmp_path / "a.dcm")


# ------------------------------------------------------------------------------------- files that highdicom has written


@pytest.mark.parametrize("kind", ["2D", "3D"])
def test_what_highdicom_writes(tmp_path, slide, kind):
    """An independent writer; and its own way from mm to pixels."""
    highdicom = pytest.importorskip("highdicom", reason="highdicom is not installed")
    from highdicom.spatial import ReferenceToImageTransformer
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    first, frame, _ = slide
    for name in (
        "StudyID",
        "AccessionNumber",
        "PatientName",
        "PatientBirthDate",
        "PatientSex",
        "StudyDate",
        "StudyTime",
    ):
        setattr(first, name, "")
    first.ReferringPhysicianName = ""
    nucleus = Code("84640000", "SCT", "Nucleus")
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name="finder", version="1", family=Code("123109", "DCM", "Artificial Intelligence")
    )
    areas = highdicom.ann.Measurements(
        name=Code("42798000", "SCT", "Area"), values=np.array([25, 12.5]), unit=Code("um2", "UCUM", "um2")
    )
    groups = []
    for number, (graphic, objects) in enumerate(OBJECTS.items(), start=1):
        groups.append(
            highdicom.ann.AnnotationGroup(
                number=number,
                uid=highdicom.UID(),
                label=graphic,
                annotated_property_category=codes.SCT.AnatomicalStructure,
                annotated_property_type=nucleus,
                graphic_type=graphic,
                graphic_data=stored(objects, kind, np.float64),
                algorithm_type="AUTOMATIC",
                algorithm_identification=algorithm,
                measurements=[areas] if graphic == "POLYGON" else None,
            )
        )
    highdicom.ann.MicroscopyBulkSimpleAnnotations(
        source_images=[first],
        annotation_coordinate_type=kind,
        annotation_groups=groups,
        series_instance_uid=highdicom.UID(),
        series_number=2,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="ours",
        manufacturer_model_name="ours",
        software_versions="1",
        device_serial_number="1",
    ).save_as(tmp_path / "a.dcm")
    features = read_dicom_annotations(tmp_path / "a.dcm", frame)
    names = np.array(features.names, dtype=str)
    for graphic, expected in EXPECTED.items():
        for found, shape in zip(features.geometry[names == graphic], expected, strict=True):
            assert shapely.hausdorff_distance(found, shape) < 1e-6
    assert features.measurements["Area um2"][names == "POLYGON"].tolist() == [25, 12.5]
    theirs = ReferenceToImageTransformer(
        image_position=(*ORIGIN, 0.0), image_orientation=ORIENTATION, pixel_spacing=(MM, MM)
    )
    places = on_glass(SQUARE)
    assert np.allclose(frame.to_xy(places), theirs(places)[:, :2], atol=1e-6)
