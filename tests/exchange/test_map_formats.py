"""Results as maps: other programs see the same classes at the same place, in mm."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from PIL import Image

from monai_ext.base.errors import InputError
from monai_ext.data.geometry import image_affine
from monai_ext.exchange import Exchange, label_maps
from monai_ext.formats import (
    Features,
    HeatMap,
    label_map_to_polygons,
    read_geojson,
    read_mask,
    write_geojson,
    write_ome_tiff,
)
from monai_ext.formats.annotation_files import read_features
from monai_ext.formats.heatmap import halve
from tests.exchange.results import objects, results_of, written

RING = shapely.box(10, 10, 30, 30) - shapely.box(12, 12, 14, 14) - shapely.box(20, 15, 25, 20)
CELLS = Features(
    [RING, shapely.box(40, 5, 50.4, 9), shapely.Point(3, 3)],
    classes=["Tumor", None, "Mitosis"],
    colors={"Tumor": (200, 0, 0)},
)
OPTIONAL = [("dicom-seg", "highdicom"), ("ome-zarr", "zarr")]
NAMES = ["Mitosis", "Tumor", "object"]
SHAPE, MPP = (40, 60), (0.5, 0.25)  # of oblong px, which shows what is swapped


def expected(factor=1):
    """By the rule that a px is an object's when its centre is inside."""
    rows, cols = (np.arange(-(-side // factor)) * factor + factor / 2 for side in SHAPE)
    # a centre on an outline counts at its left and upper sides
    centres = shapely.points(*(values + 1e-6 for values in np.meshgrid(cols, rows)))
    values = np.zeros(centres.shape, np.uint8)
    for number, shape in ((2, RING), (3, shapely.box(40, 5, 50.4, 9))):
        values[shapely.contains(shape, centres)] = number
    return values


def files(tmp_path, name, **known):
    return written(tmp_path, CELLS, name, **{"shape": SHAPE, "mpp": MPP, **known})


# ------------------------------------------------------------------------------------------------ there and back again


def from_map(path, legend):
    """Each class of a map as an object."""
    values, outlines = label_map_to_polygons(read_mask(path))
    return Features(outlines, classes=[list(legend)[value - 1] for value in values])


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "a.png"
    Image.fromarray(np.full((*SHAPE, 3), 200, np.uint8)).save(path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("name", "extra"), [*((each, None) for each in ("nifti", "nrrd", "mha")), *OPTIONAL])
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(features=objects(points=False, aligned=True))
def test_outlines_on_the_grid_come_back(tmp_path_factory, image, name, extra, features):
    """GeoJSON again: each class covers the same tissue, holes too; what touches is one object."""
    if extra:
        pytest.importorskip(extra)
    folder = tmp_path_factory.mktemp("exchange")
    results = results_of(folder, features, mpp=MPP)
    path, *_ = Exchange([name]).write(results, folder / "a")
    if name == "dicom-seg":
        found = read_features(path, image)
    else:
        found = from_map(path / "labels/classes" if path.is_dir() else path, results.legend)
    found = read_geojson(write_geojson(folder / "b.geojson", found))
    names = np.array([each or "object" for each in features.classes])
    assert set(found.classes) == set(names)
    for each in set(names):
        before, after = (
            shapely.union_all(shapes)
            for shapes in (features.geometry[names == each], found.geometry[found.classes == each])
        )
        assert after.symmetric_difference(before).area < 1e-6
        assert after.area == pytest.approx(before.area)


# ----------------------------------------------------------------------------------------- NIfTI, NRRD, MetaImage


def test_nifti_is_at_its_place_for_nibabel_and_for_itk(tmp_path):
    path, names = files(tmp_path, "nifti")
    assert path.name == "a_labels.nii.gz"
    image = nibabel.load(path)
    np.testing.assert_array_equal(np.asarray(image.dataobj)[..., 0].T, expected())
    np.testing.assert_allclose(image.header.get_zooms(), (0.00025, 0.0005, 0.00025))
    assert image.header.get_xyzt_units()[0] == "mm"
    # x and y as MONAI has them here, whose first axis is that of the rows
    rows_first = image_affine(0.25, (1.0, 1.0))
    np.testing.assert_allclose(image.affine[:2, 0], rows_first[:2, 1], atol=1e-9)
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-7)

    sitk = pytest.importorskip("SimpleITK")
    other = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(other)[0], expected())
    np.testing.assert_allclose(other.GetSpacing(), (0.00025, 0.0005, 0.00025), rtol=1e-5)
    np.testing.assert_allclose(other.GetDirection(), np.eye(3).ravel(), atol=1e-6)
    corner = np.array(other.TransformIndexToPhysicalPoint((59, 39, 0)))  # LPS
    np.testing.assert_allclose(corner * [-1, -1, 1], (image.affine @ [59, 39, 0, 1])[:3], atol=1e-6)

    lines = [line.split(maxsplit=7) for line in names.read_text().splitlines() if not line.startswith("#")]
    assert [line[-1] for line in lines] == ['"Clear Label"', *(f'"{name}"' for name in NAMES)]
    assert lines[2][:4] == ["2", "200", "0", "0"]


@pytest.mark.slow  # ITK takes seconds to import
@pytest.mark.parametrize("name", ["nrrd", "mha"])
def test_itk_maps_are_at_their_place(tmp_path, name):
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.ReadImage(str(files(tmp_path, name)[0]))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image)[0], expected())
    np.testing.assert_allclose(image.GetSpacing(), (0.00025, 0.0005, 0.00025))
    np.testing.assert_allclose(image.GetDirection(), np.eye(3).ravel())
    np.testing.assert_allclose(image.GetOrigin(), 0)


@pytest.mark.slow
def test_slicer_finds_names_colours_and_values(tmp_path):
    nrrd = pytest.importorskip("nrrd")
    values, header = nrrd.read(str(files(tmp_path, "nrrd")[0]))
    np.testing.assert_array_equal(values[..., 0].T, expected())
    assert header["space"] == "left-posterior-superior"
    assert [header[f"Segment{k}_Name"] for k in range(3)] == NAMES
    assert [header[f"Segment{k}_LabelValue"] for k in range(3)] == ["1", "2", "3"]
    assert header["Segment1_Color"] == "0.784314 0.000000 0.000000"
    assert header["Segment1_Extent"] == "0 59 0 39 0 0"
    assert header["Segmentation_SourceRepresentation"] == "Binary labelmap"


@pytest.mark.parametrize("name", ["nifti", pytest.param("nrrd", marks=pytest.mark.slow)])
def test_a_coarser_map_lies_on_the_same_tissue(tmp_path, monkeypatch, name):
    sitk = pytest.importorskip("SimpleITK")
    monkeypatch.setattr(label_maps, "_MOST", 700)
    image = sitk.ReadImage(str(files(tmp_path, name)[0]))
    assert image.GetSize() == (30, 20, 1)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image)[0], expected(2))
    np.testing.assert_allclose(image.GetSpacing(), (0.0005, 0.001, 0.0005), rtol=1e-5)
    # the middle of the first px is that of two of the file
    np.testing.assert_allclose(image.GetOrigin(), (0.000125, 0.00025, 0), atol=1e-8)


def test_long_sides_are_nifti_2(tmp_path):
    path, _ = files(tmp_path, "nifti", shape=(50, 33_000))
    image = nibabel.load(path)
    assert isinstance(image, nibabel.Nifti2Image)
    assert image.shape == (33_000, 50, 1)
    assert isinstance(nibabel.load(files(tmp_path, "nifti")[0]), nibabel.Nifti1Image)


def test_equal_results_are_equal_bytes(tmp_path):
    first, second = ([path.read_bytes() for path in files(tmp_path, "nifti")] for _ in range(2))
    assert first == second


def test_classes_keep_their_numbers_whether_they_are_there_or_not(tmp_path):
    known = {"classes": ["sTIL", "Tumor"], "colours": {"sTIL": (0, 0, 255)}}
    path, names = files(tmp_path, "nifti", **known)
    assert sorted(np.unique(np.asarray(nibabel.load(path).dataobj))) == [0, 2, 4]
    assert [line.split('"')[1] for line in names.read_text().splitlines()[6:]] == ["sTIL", "Tumor", "Mitosis", "object"]


@pytest.mark.parametrize("name", ["nifti", "nrrd", "mha", "dicom-seg"])
def test_without_a_resolution_there_are_no_mm(tmp_path, name):
    if name == "dicom-seg":
        pytest.importorskip("highdicom")
    with pytest.raises(InputError, match=f"a resolution for {name}, in mm: give um/px by --mpp"):
        files(tmp_path, name, mpp=None)
    assert [path.name for path in tmp_path.iterdir()] == ["a.geojson"]


# ------------------------------------------------------------------------------------------------------------ OME-Zarr


def physical(group, number, place):
    """Where a px of a level is, y and x."""
    [multiscale] = group.attrs["multiscales"]
    scale, translation = multiscale["datasets"][number]["coordinateTransformations"]
    return np.array(place) * scale["scale"][-2:] + translation["translation"][-2:]


def test_ome_zarr_has_labels_with_names_and_colours(tmp_path):
    zarr = pytest.importorskip("zarr")
    [path] = files(tmp_path, "ome-zarr")
    root = zarr.open_group(path, mode="r")
    assert root.metadata.zarr_format == 2
    assert root["labels"].attrs["labels"] == ["classes", "objects"]
    classes, objects_ = root["labels/classes"], root["labels/objects"]
    np.testing.assert_array_equal(classes["0"][:], expected())
    np.testing.assert_array_equal(objects_["0"][:] > 0, expected() > 0)
    assert (objects_["0"][12, 11], objects_["0"][6, 41]) == (1, 2)
    about = classes.attrs["image-label"]
    assert about["properties"] == [{"label-value": k, "class": name} for k, name in enumerate(NAMES, 1)]
    assert about["colors"][1] == {"label-value": 2, "rgba": [200, 0, 0, 255]}
    [multiscale] = classes.attrs["multiscales"]
    assert multiscale["axes"] == [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"]
    np.testing.assert_allclose(physical(classes, 0, (10, 10)), (5.0, 2.5))


def test_ome_zarr_has_the_heat_map_where_it_was(tmp_path):
    zarr = pytest.importorskip("zarr")
    shape = (2, 600, 700)
    values = np.random.RandomState(0).rand(*shape).astype(np.float32)
    with HeatMap(tmp_path / "0.npy", shape) as heat:
        for channel in range(2):
            heat.write(channel, 0, 0, values[channel])
        with halve(heat, tmp_path / "1.npy") as half:
            write_ome_tiff(tmp_path / "heat.ome.tif", [heat, half], 2.0, "a", ["x", "y"])
    known = {"shape": (2400, 5600), "mpp": (0.5, 0.25), "heatmap": tmp_path / "heat.ome.tif", "cell": (4.0, 8.0)}
    [path] = files(tmp_path, "ome-zarr", **known)
    root = zarr.open_group(path, mode="r")
    np.testing.assert_array_equal(root["0"][:], values)
    assert root["1"].shape == (2, 300, 350)
    assert root["0"].chunks == (1, 512, 512)
    assert [axis["name"] for axis in root.attrs["multiscales"][0]["axes"]] == ["c", "y", "x"]
    channels = root.attrs["omero"]["channels"]
    assert [(each["label"], each["window"]["end"], each["active"]) for each in channels] == [
        ("x", 1, True),
        ("y", 1, False),
    ]
    # the middle of the first cell is that of 4 x 8 px
    np.testing.assert_allclose(physical(root, 0, (0, 0)), (1.5 * 0.5, 3.5 * 0.25))
    np.testing.assert_allclose(physical(root, 1, (0, 0)), (3.5 * 0.5, 7.5 * 0.25))
    labels = root["labels/classes"]
    assert labels["0"].shape == (2400, 5600)
    assert len(labels.attrs["multiscales"][0]["datasets"]) == 6
    np.testing.assert_array_equal(labels["1"][:], labels["0"][::2, ::2])


def test_a_folder_takes_the_place_of_an_earlier_one(tmp_path):
    pytest.importorskip("zarr")
    [path] = files(tmp_path, "ome-zarr")
    (path / "old").write_text("of an earlier run")
    files(tmp_path, "ome-zarr")
    assert not (path / "old").exists()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.geojson", "a_maps.ome.zarr"]


# -------------------------------------------------------------------------------------------------- DICOM segmentation


def test_dicom_segments_have_the_px_of_the_classes(tmp_path):
    highdicom = pytest.importorskip("highdicom")
    [path] = files(tmp_path, "dicom-seg")
    data = highdicom.seg.segread(path)
    assert [data.get_segment_description(k).segment_label for k in (1, 2, 3)] == NAMES
    segments = data.get_total_pixel_matrix(segment_numbers=[2, 3], combine_segments=False)
    np.testing.assert_array_equal(segments[..., 0], expected() == 2)
    np.testing.assert_array_equal(segments[..., 1], expected() == 3)
    measures = data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert [float(side) for side in measures.PixelSpacing] == [0.0005, 0.00025]
    assert data.get_segment_description(2).segmented_property_type.value == "108369006"


def test_dicom_segments_lie_on_the_glass_as_their_slide(tmp_path, monkeypatch):
    highdicom = pytest.importorskip("highdicom")
    from tests.formats.dicom_slides import MM, ORIENTATION, ORIGIN, write_slide

    source = write_slide(tmp_path / "slide", np.full((*SHAPE, 3), 200, np.uint8))
    known = {"image": tmp_path / "slide" / "level_2.dcm", "mpp": (1000 * MM, 1000 * MM)}
    data = highdicom.seg.segread(files(tmp_path, "dicom-seg", **known)[0])
    assert data.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert data.StudyInstanceUID == source.StudyInstanceUID
    assert data.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
    origin = data.TotalPixelMatrixOriginSequence[0]
    assert (origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem) == ORIGIN
    assert tuple(data.ImageOrientationSlide) == ORIENTATION
    monkeypatch.setattr(label_maps, "_MOST", 700)
    data = highdicom.seg.segread(files(tmp_path, "dicom-seg", **known)[0])
    np.testing.assert_array_equal(data.get_total_pixel_matrix(segment_numbers=[2])[..., 0], expected(2) == 2)
    origin = data.TotalPixelMatrixOriginSequence[0]
    # half a px further along a row, which goes to smaller Y, and along a column, which goes to smaller X
    assert float(origin.XOffsetInSlideCoordinateSystem) == pytest.approx(ORIGIN[0] - MM / 2, abs=1e-7)
    assert float(origin.YOffsetInSlideCoordinateSystem) == pytest.approx(ORIGIN[1] - MM / 2, abs=1e-7)


def test_what_a_slide_lacks_is_one_line(tmp_path):
    pytest.importorskip("highdicom")
    from tests.formats.dicom_slides import write_slide

    write_slide(tmp_path / "slide", np.full((*SHAPE, 3), 200, np.uint8), StudyInstanceUID=None)
    for name in ("dicom-ann", "dicom-seg"):
        with pytest.raises(
            InputError, match=r"level_1.dcm: expected what the standard asks for, found .*Study"
        ) as caught:
            files(tmp_path, name, image=tmp_path / "slide" / "level_1.dcm")
        assert "\n" not in str(caught.value)


def test_results_of_another_slide_are_refused(tmp_path):
    pytest.importorskip("highdicom")
    from tests.formats.dicom_slides import write_slide

    write_slide(tmp_path / "slide", np.full((64, 64, 3), 200, np.uint8))
    with pytest.raises(
        InputError, match=r"expected objects of .*level_1.dcm \(64 x 64 px\), found those of a slide of 60 x 40"
    ):
        files(tmp_path, "dicom-ann", image=tmp_path / "slide" / "level_1.dcm")


def test_an_empty_segmentation_is_refused(tmp_path):
    pytest.importorskip("highdicom")
    with pytest.raises(InputError, match="objects with an area"):
        written(tmp_path, Features([shapely.Point(3, 3)]), "dicom-seg")
    assert [path.name for path in tmp_path.iterdir()] == ["a.geojson"]
