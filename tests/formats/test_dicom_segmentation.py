"""Segmentations of slides in DICOM, written by highdicom, as objects in level-0 pixels."""

import json

import numpy as np
import pytest
import shapely

pytest.importorskip("pydicom", reason="pydicom is not installed (the extra [dicom])")
highdicom = pytest.importorskip("highdicom", reason="highdicom is not installed")

from pydicom import dcmread  # noqa: E402
from pydicom.sr.codedict import codes  # noqa: E402
from pydicom.uid import generate_uid  # noqa: E402

from monai_ext.base.errors import InputError  # noqa: E402
from monai_ext.exchange import Exchange, Results  # noqa: E402
from monai_ext.formats import Features, polygons_to_mask, read_objects, read_points, write_geojson  # noqa: E402
from monai_ext.formats import dicom_segmentation as module  # noqa: E402
from monai_ext.formats.dicom_segmentation import read_dicom_segmentation  # noqa: E402
from monai_ext.label.annotations import object_points  # noqa: E402
from monai_ext.transforms import LoadGeoJSON  # noqa: E402
from tests.formats import dicom_slides as made  # noqa: E402

SHAPE = (200, 300)
MAKER = {
    "manufacturer": "a",
    "manufacturer_model_name": "b",
    "software_versions": "1",
    "device_serial_number": "c",
    "instance_number": 1,
}


def masks():
    """A ring, and two squares that meet in a corner with a third beside them, which overlap the ring."""
    one, two = np.zeros((2, *SHAPE), bool)
    one[20:90, 30:120], one[40:60, 50:80] = True, False
    two[80:100, 100:120] = two[100:120, 120:140] = two[150:160, 10:20] = True
    return np.stack([one, two])


@pytest.fixture
def folder(tmp_path):
    made.write_slide(tmp_path, np.full((*SHAPE, 3), 200, np.uint8), levels=(1, 2))
    return tmp_path


def write(folder, array, level="level_1.dcm", kind="BINARY", sides=(made.MM, made.MM), at=(0, 0), manual=False, **more):
    """A segmentation of a slide, ``(segments, H, W)``, that begins at the px ``at`` of its full resolution."""
    source = dcmread(folder / level)
    for name in ("StudyDate", "StudyTime", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber"):
        setattr(source, name, None)
    source.StudyID, source.ReferringPhysicianName = "1", ""
    algorithm = highdicom.AlgorithmIdentificationSequence("x", codes.cid7162.ArtificialIntelligence, "1")
    segments = [
        highdicom.seg.SegmentDescription(
            number,
            label,
            codes.SCT.AnatomicalStructure,
            codes.SCT.Cell,
            "MANUAL" if manual else "AUTOMATIC",
            None if manual else algorithm,
        )
        for number, label in enumerate(("ring", "squares")[: len(array)], 1)
    ]
    across, down = np.reshape(made.ORIENTATION, (2, 3))
    # of the first pixel's centre, from that of full resolution's
    y, x = (place + (side / made.MM - 1) / 2 for place, side in zip(at, sides, strict=True))
    first = [*made.ORIGIN, 0] + across * x * made.MM + down * y * made.MM
    data = highdicom.seg.Segmentation(
        [source],
        np.moveaxis(array, 0, -1)[None],
        kind,
        segments,
        generate_uid(),
        2,
        generate_uid(),
        pixel_measures=highdicom.PixelMeasuresSequence(sides, 0.001),
        plane_orientation=highdicom.PlaneOrientationSequence("SLIDE", made.ORIENTATION),
        plane_positions=[highdicom.PlanePositionSequence("SLIDE", first.tolist(), pixel_matrix_position=(1, 1))],
        tile_pixel_array=True,
        tile_size=(64, 64),
        **MAKER,
        **more,
    )
    data.save_as(folder / "seg.dcm")
    return folder / "seg.dcm"


def drawn(objects, name):
    return polygons_to_mask(list(objects.geometry[objects.classes == name]), SHAPE) > 0


def test_segments_are_classes_and_their_parts_objects(folder):
    objects, regions = read_objects(write(folder, masks()))
    assert len(regions) == 0
    assert objects.classes.tolist() == ["ring", "squares", "squares"]
    assert set(objects.object_types) == {"detection"}
    for name, mask in zip(("ring", "squares"), masks(), strict=True):
        np.testing.assert_array_equal(drawn(objects, name), mask)
    assert objects.geometry[0].area == masks()[0].sum()
    assert len(shapely.get_rings(objects.geometry[0])) == 2  # the hole


def test_what_a_person_drew(folder):
    assert set(read_objects(write(folder, masks(), manual=True)).objects.object_types) == {"annotation"}


def test_fractions_count_from_a_half_on(folder):
    array = np.where(masks(), 0.6, 0.4)
    path = write(folder, array, kind="FRACTIONAL", fractional_type="PROBABILITY")
    np.testing.assert_array_equal(drawn(read_objects(path).objects, "ring"), masks()[0])


@pytest.mark.parametrize("level", ["level_1.dcm", "level_2.dcm"])
def test_at_half_the_resolution_and_at_a_place(folder, level):
    """Whichever file of the slide it refers to: places are those of the glass."""
    array = masks()[:, 20:180:2, 30:290:2]
    path = write(folder, array, level, sides=(2 * made.MM, 2 * made.MM), at=(20, 30))
    expected = np.zeros(SHAPE, bool)
    expected[20:180, 30:290] = np.kron(array[0], np.ones((2, 2))) > 0
    np.testing.assert_array_equal(drawn(read_objects(path).objects, "ring"), expected)


def test_wherever_objects_are_read(folder):
    path = write(folder, masks())
    points = read_points(path, classes=["squares"])
    np.testing.assert_allclose(sorted(points.tolist()), [[99.5, 119.5], [154.5, 14.5]], atol=1e-5)
    assert len(object_points(path)) == 3
    assert len(LoadGeoJSON(objects=True)(path)) == 3


def test_annotations_are_read_there_too(folder):
    """Those of a coarser level are scaled by the slide that lies beside them."""
    source = dcmread(folder / "level_2.dcm")
    group = made.group(1, "POINT", [np.array([[5.0, 7.0]], np.float32)])
    made.write_annotations(folder / "ann.dcm", source, [group])
    np.testing.assert_allclose(read_points(folder / "ann.dcm"), [[13.5, 9.5]])


@pytest.mark.parametrize("kind", ["dicom-ann", "dicom-seg"])
def test_what_this_package_writes_of_a_slide(folder, tmp_path_factory, kind):
    """Named by its folder, as a run names it: the same outlines, once the file lies beside the slide."""
    outlines = [shapely.box(30, 20, 120, 90) - shapely.box(50, 40, 80, 60), shapely.box(200, 100, 220, 130)]
    results = tmp_path_factory.mktemp("results")
    cells = Features(outlines, classes=["ring", "squares"], object_types="detection")
    geojson = write_geojson(results / "a.geojson", cells)
    [path] = Exchange([kind]).write(Results(geojson, "a", image=folder, shape=SHAPE, mpp=(0.25, 0.25)), results / "a")
    objects, _ = read_objects(path.rename(folder / path.name))
    assert objects.classes.tolist() == ["ring", "squares"]
    for one, other in zip(objects.geometry, outlines, strict=True):
        assert one.symmetric_difference(other).area < 0.01


# -- bad input ---------------------------------------------------------------------------------------------------------


def refusal(path):
    with pytest.raises(InputError) as caught:
        read_objects(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))
    return str(caught.value)


def test_a_segmentation_of_another_slide(folder, tmp_path_factory):
    path, other = write(folder, masks()), tmp_path_factory.mktemp("other")
    made.write_slide(other, np.full((*SHAPE, 3), 200, np.uint8))
    frame = module._frame_beside(path, dcmread(path))
    assert frame.shape == SHAPE
    made_of = module.dicom_frame(other)
    with pytest.raises(InputError, match="found one of another slide"):
        read_dicom_segmentation(path, made_of)
    assert "the slide that the segmentation is of, in the same folder, found none" in refusal(
        path.rename(other / "seg.dcm")
    )


@pytest.mark.parametrize("name", ["PatientID", "ContainerIdentifier"])
def test_of_another_patient_or_container(folder, name):
    """Whatever coordinate system it states; where it does not say whose it is nothing speaks against it."""
    path = write(folder, masks())
    data = dcmread(path)
    own = data[name].value
    setattr(data, name, "other")
    data.save_as(path)
    assert f"a segmentation of {folder / 'level_1.dcm'} ({name} {own}), found one of {name} other" in refusal(path)
    setattr(data, name, "")
    data.save_as(path)
    assert len(read_objects(path).objects) == 3


def test_turned_against_the_slide(folder):
    path = write(folder, masks())
    data = dcmread(path)
    data.ImageOrientationSlide = [0, -1, 0, 1, 0, 0]
    data.save_as(path)
    assert "expected rows and columns along those of" in refusal(path)


def test_a_file_that_is_cut_off(folder):
    path = write(folder, masks())
    path.write_bytes(path.read_bytes()[:-3000])
    assert refusal(path).startswith(f"{path}: expected")


def test_no_segmentation(folder):
    assert "SOP class" in refusal(folder / "level_1.dcm")
    (folder / "a.dcm").write_text(json.dumps({}))
    assert "expected a DICOM file" in refusal(folder / "a.dcm")


def test_without_highdicom_it_is_named(folder, monkeypatch):
    def missing(name):
        raise ImportError(name)

    path = write(folder, masks())
    monkeypatch.setattr(module, "import_module", missing)
    assert "highdicom to read it (pip install 'monai_ext[dicom]'), found no such package" in refusal(path)
