"""The one reader of files of annotations: what lies in DICOM is what lies in GeoJSON, wherever the slide is."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import shapely
from PIL import Image

pytest.importorskip("pydicom", reason="pydicom is not installed (the extra [dicom])")

from monai_ext.base.errors import InputError
from monai_ext.data.datalist import check_points_item
from monai_ext.exchange import Exchange, Results, convert, label_maps
from monai_ext.formats import Features, read_objects, read_points, write_geojson
from monai_ext.formats.annotation_files import find_annotations, read_features
from monai_ext.formats.roles import read_areas
from monai_ext.label.annotations import object_map, training_label
from monai_ext.transforms import LoadFieldd, LoadGeoJSONd
from tests.exchange.results import parts
from tests.formats import dicom_slides as made

SHAPE = (200, 300)
CELLS = [shapely.box(20, 30, 50, 60) - shapely.box(30, 40, 34, 44), shapely.box(100, 80, 120, 100)]
CLASSES = ["Tumor", "Stroma"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A slide in a folder, and beside the folder its annotations, as GeoJSON and in DICOM."""
    folder = tmp_path_factory.mktemp("study")
    pixels = np.random.default_rng(0).integers(0, 250, (*SHAPE, 3), np.uint8)
    first = made.write_slide(folder / "slide", pixels, levels=(1, 2))
    path = write_geojson(folder / "ann/slide.geojson", Features(CELLS, CLASSES, object_types="detection"))
    pytest.importorskip("highdicom", reason="highdicom is not installed")
    for kind, ending in (("dicom-ann", "annotations"), ("dicom-seg", "segmentation")):
        convert(path, kind, slide=folder / "slide", dst=folder / "ann")
        (folder / f"ann/slide_{ending}.dcm").rename(folder / f"ann/{kind}.dcm")
    coarse = made.pydicom.dcmread(folder / "slide/level_2.dcm")
    rings = [np.array(cell.exterior.coords)[:-1] for cell in CELLS]
    for name, kind, source, places in (
        ("half", "2D", coarse, [(ring / 2).astype(np.float32) for ring in rings]),
        ("glass", "3D", first, [made.on_glass(ring) for ring in rings]),
    ):
        groups = [made.group(n, "POLYGON", [xy], meaning=CLASSES[n - 1]) for n, xy in enumerate(places, 1)]
        made.write_annotations(folder / f"ann/{name}.dcm", source, groups, kind)
    return folder


@pytest.mark.parametrize("name", ["dicom-ann", "dicom-seg"])
def test_dicom_has_the_objects_of_geojson(study, name):
    slide, path = study / "slide", study / f"ann/{name}.dcm"
    expected = read_objects(study / "ann/slide.geojson").objects
    for found in (read_objects(path, slide=slide).objects, read_areas(path, slide=slide / "level_2.dcm")):
        assert parts(found.geometry, found.classes) == parts(expected.geometry, expected.classes)
    by_class = [expected.of_classes([each]).points() for each in found.classes]
    np.testing.assert_allclose(read_points(path, slide=slide), np.concatenate(by_class), atol=1e-4)
    np.testing.assert_array_equal(object_map(path, slide) > 0, object_map(study / "ann/slide.geojson", slide) > 0)


@pytest.mark.parametrize("name", ["half", "glass"])
def test_places_are_px_of_the_slide_that_is_given(study, name, tmp_path):
    """Of a coarser level, or mm on the glass; the slide is in another folder."""
    slide, path = study / "slide", study / f"ann/{name}.dcm"
    found = read_features(path, slide)
    assert found.classes.tolist() == CLASSES
    np.testing.assert_allclose(shapely.bounds(found.geometry), shapely.bounds(CELLS), atol=1e-2)
    item = {"image": str(slide), "label": str(path)}
    assert check_points_item(item) == []
    loaded = LoadFieldd("image", ["label"])(item)
    centres = np.array([[44.5, 34.5], [89.5, 109.5]])
    np.testing.assert_allclose(loaded["label"], centres, atol=1e-2)
    drawn = LoadGeoJSONd("label")({**loaded, "label": path})["label"]
    assert int(drawn.sum()) == 30 * 30 + 20 * 20
    label = training_label(path, slide, tmp_path, "points")
    np.testing.assert_allclose(read_points(label), centres, atol=1e-2)


@pytest.mark.parametrize("name", ["half", "glass", "dicom-ann", "dicom-seg"])
def test_of_another_slide(study, name, tmp_path):
    made.write_slide(tmp_path / "other", np.full((*SHAPE, 3), 200, np.uint8), levels=(1,))
    with pytest.raises(InputError, match=f"{name}.dcm: expected .*other"):
        read_features(study / f"ann/{name}.dcm", tmp_path / "other")


def test_of_an_image_that_is_no_dicom(study, tmp_path):
    """Its px are taken as they are, which is said; what has mm alone is refused."""
    picture = tmp_path / "slide.png"
    picture.write_bytes(b"")
    with pytest.warns(UserWarning, match="dicom-ann.dcm: its slide is not at hand: places are taken as pixels of full"):
        found = read_features(study / "ann/dicom-ann.dcm", picture)
    np.testing.assert_allclose(shapely.bounds(found.geometry), shapely.bounds([CELLS[1], CELLS[0]]))
    for name in ("glass", "dicom-seg"):
        with pytest.raises(InputError, match=r"expected the slide .*found none"):
            read_features(study / f"ann/{name}.dcm", picture)


@pytest.mark.parametrize("name", ["dicom-ann", "dicom-seg"])
def test_what_was_made_for_an_image_that_is_no_dicom(tmp_path, monkeypatch, name):
    """It names the image: that is accepted without a word, as well as a map of coarser px, and another is refused."""
    pytest.importorskip("highdicom", reason="highdicom is not installed")
    image, other = tmp_path / "a.png", tmp_path / "b.png"
    for picture, side in ((image, 200), (other, 201)):
        Image.fromarray(np.full((side, 300, 3), 200, np.uint8)).save(picture)
    path = write_geojson(tmp_path / "a.geojson", Features(CELLS, CLASSES))
    monkeypatch.setattr(label_maps, "_MOST", 20_000)
    known = Results(path, "a", image=image, shape=SHAPE, mpp=(0.25, 0.25))
    [written] = Exchange([name]).write(known, tmp_path / "a")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_features(written, image)
    order = [found.classes.tolist().index(each) for each in CLASSES]
    np.testing.assert_allclose(shapely.area(found.geometry)[order], shapely.area(CELLS))
    np.testing.assert_allclose(shapely.bounds(found.geometry)[order], shapely.bounds(CELLS))
    with pytest.raises(
        InputError, match=r"a_.*\.dcm: expected an annotation of .*b.png, found one of another image, a"
    ):
        read_features(written, other)


def test_what_nobody_can_tell_is_said_once(tmp_path):
    """Of an image that was not at hand, or has changed since."""
    pytest.importorskip("highdicom", reason="highdicom is not installed")
    image = tmp_path / "a.png"
    Image.fromarray(np.full((*SHAPE, 3), 200, np.uint8)).save(image)
    path = write_geojson(tmp_path / "a.geojson", Features(CELLS, CLASSES))
    for number, slide in enumerate((None, image)):
        convert(path, "dicom-ann", slide=slide)
        Image.fromarray(np.full((300 + number, 400, 3), 200, np.uint8)).save(image)
        written = (tmp_path / "a_annotations.dcm").rename(tmp_path / f"{number}.dcm")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(3):
                read_features(written, image)
        assert [str(each.message).split(": ")[1] for each in caught] == ["its slide is not at hand"]


def test_which_files_of_a_folder_are_annotations(study, tmp_path):
    """No slides; not the copy that a run wrote of its GeoJSON in DICOM; DICOM without an ending."""
    source = study / "ann/dicom-ann.dcm"
    names = ("a.geojson", "a_annotations.dcm", "b_annotations.dcm", "b_segmentation.dcm", "c.dcm", "IM0001", "LICENSE")
    for name in names:
        (tmp_path / name).write_bytes(b"" if name in ("a.geojson", "LICENSE") else source.read_bytes())
    (tmp_path / "level_1.dcm").symlink_to(study / "slide/level_1.dcm")
    (tmp_path / "torn.dcm").write_bytes(b"torn")
    found = [path.name for path in find_annotations(tmp_path)]
    assert found == ["IM0001", "a.geojson", "b_annotations.dcm", "b_segmentation.dcm", "c.dcm", "torn.dcm"]


# -- slides of which files are missing ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missing", "parts", "found"),
    [
        ("level_1.dcm", 1, "with its full resolution, found reduced ones alone (RESAMPLED)"),
        ("level_1_1.dcm", 3, "expected 3 files of this level, a concatenation, found 2"),
    ],
)
def test_a_slide_with_files_missing_has_no_scale(tmp_path, missing, parts, found):
    """As the reader of its pixels says: what is left is no full resolution."""
    pytest.importorskip("highdicom", reason="highdicom is not installed")
    slide, drawn = tmp_path / "slide", Features([shapely.box(10, 20, 50, 60)], "Tumor")
    made.write_slide(slide, np.full((*SHAPE, 3), 200, np.uint8), parts=parts)
    path = write_geojson(tmp_path / "a.geojson", drawn)
    convert(path, ["dicom-ann", "dicom-seg"], slide=slide)
    (slide / missing).unlink()
    results = [tmp_path / f"a_{name}.dcm" for name in ("annotations", "segmentation")]
    beside = results[1].rename(slide / "seg.dcm")
    for run in (
        lambda: read_features(results[0], slide),
        lambda: read_features(beside, slide),
        lambda: read_features(beside),
        lambda: convert(path, "dicom-seg", slide=slide, dst=tmp_path / "again"),
    ):
        with pytest.raises(InputError) as caught:
            run()
        assert found in str(caught.value)
    assert not (tmp_path / "again").exists()


def test_a_damaged_slide_beside_an_annotation_of_another(study, tmp_path):
    made.write_slide(tmp_path, np.full((*SHAPE, 3), 200, np.uint8), levels=(2,))
    for path in (*(study / "slide").iterdir(), study / "ann/half.dcm"):
        (tmp_path / f"x{path.name}").symlink_to(path)
    np.testing.assert_allclose(
        shapely.bounds(read_features(tmp_path / "xhalf.dcm").geometry), shapely.bounds(CELLS), atol=1e-2
    )
