"""Runs that write other formats, and the command that makes them of what a run wrote: the same files."""

from __future__ import annotations

import json
import sqlite3

import nibabel
import numpy as np
import pytest
import shapely
import torch
from monai.data import MetaTensor
from PIL import Image

from monai_ext.base.errors import InputError
from monai_ext.commands import _answer as execute
from monai_ext.data import Cohort
from monai_ext.exchange import FORMATS, Exchange, convert, registry
from monai_ext.formats import Features, read_geojson, write_geojson
from monai_ext.slides import OutputSettings, SlideInferer, check_slide
from monai_ext.transforms import SaveDetectionsd
from tests.slides.conftest import DarkPredictor, write_tiff

FORMATS_HERE = ["annotation-store", "dsa", "nifti", "ome-zarr"]


class Counting(DarkPredictor):
    calls = 0

    def __call__(self, tiles):
        type(self).calls += 1
        return super().__call__(tiles)


@pytest.fixture
def slide(tmp_path):
    image = np.full((300, 400, 3), (225, 180, 205), np.uint8)
    image[100:180, 120:240] = (80, 30, 70)
    (tmp_path / "in").mkdir()
    return write_tiff(tmp_path / "in" / "a.tif", image, 0.5)


def run(slide, output, formats, mpp=None):
    cohort = Cohort(slide.parent, output, mpp, check=check_slide, resume=True, formats=formats)
    SlideInferer(Counting(), output, 0.5, mpp, outputs=OutputSettings(nms_radius_um=40), formats=formats).run(cohort)
    return cohort


def shape_of(path):
    with sqlite3.connect(path) as store:
        return sorted(shapely.from_wkb(row[0]).wkt for row in store.execute("SELECT geometry FROM annotations"))


def names(folder):
    return sorted(path.name for path in folder.glob("a*"))


def test_a_run_writes_what_is_asked_for_and_convert_the_same(slide, tmp_path):
    zarr = pytest.importorskip("zarr")
    out = tmp_path / "out"
    cohort = run(slide, out, FORMATS_HERE)
    assert cohort.state[str(slide)]["status"] == "done"
    suffixes = [suffix for name in FORMATS_HERE for suffix in FORMATS[name].suffixes]
    assert names(out) == sorted(f"a{suffix}" for suffix in (*SlideInferer.suffixes, *suffixes))
    features = read_geojson(out / "a.geojson")
    assert shape_of(out / "a_store.db") == sorted(shape.wkt for shape in features.geometry)
    assert {element["group"] for element in json.loads((out / "a_dsa.json").read_text())["elements"]} == {"Tumor"}
    image = nibabel.load(out / "a_labels.nii.gz")
    np.testing.assert_allclose(image.header.get_zooms()[:2], 0.0005)
    drawn = np.asarray(image.dataobj)[..., 0].T
    assert (drawn.shape, drawn[140, 180], drawn[20, 20]) == ((300, 400), 1, 0)
    heat = zarr.open_group(out / "a_maps.ome.zarr", mode="r")
    scale = heat.attrs["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"]
    assert (heat["0"].shape, scale) == ((1, 38, 50), [1.0, 4.0, 4.0])
    # the dark square is dark where the map of classes has it
    np.testing.assert_array_equal(heat["0"][0][13:22, 15:30] > 0.5, drawn[4::8, 4::8][13:22, 15:30] == 1)

    listed = convert(out / "a.geojson", FORMATS_HERE, slide=slide, dst=tmp_path / "again").splitlines()
    assert [path.rpartition("/")[2] for path in listed] == [f"a{suffix}" for suffix in suffixes]
    for suffix in ("_labels.nii.gz", "_dsa.json", "_labels.txt"):
        assert (tmp_path / "again" / f"a{suffix}").read_bytes() == (out / f"a{suffix}").read_bytes()
    assert shape_of(tmp_path / "again/a_store.db") == shape_of(out / "a_store.db")


def test_a_resumed_run_adds_formats_without_computing(slide, tmp_path):
    out = tmp_path / "out"
    run(slide, out, ["geojson"])
    Counting.calls, first = 0, (out / "a.geojson").read_bytes()
    assert run(slide, out, "dsa").state[str(slide)]["status"] == "done"
    assert Counting.calls == 0
    assert (out / "a_dsa.json").is_file()
    assert (out / "a.geojson").read_bytes() == first


def test_results_of_earlier_settings_do_not_stay(slide, tmp_path):
    out = tmp_path / "out"
    run(slide, out, ["dsa", "ome-zarr"])
    SlideInferer(DarkPredictor(), out, 1.0)(slide)
    assert names(out) == sorted(f"a{suffix}" for suffix in SlideInferer.suffixes)


def test_results_among_the_slides_are_no_slides(slide):
    for package in ("highdicom", "zarr"):
        pytest.importorskip(package)
    run(slide, slide.parent, [name for name in FORMATS if name not in ("nrrd", "mha", "anndata")])
    assert [item["image"] for item in Cohort(slide.parent, slide.parent, check=check_slide).items] == [str(slide)]
    assert all(registry.is_exchanged(slide.parent / name) for name in names(slide.parent) if "_labels" in name)


def test_fields_are_written_at_their_files_px(tmp_path):
    meta = {"filename_or_obj": str(tmp_path / "in" / "a.png"), "mpp": 0.5, "scale": 2.0, "file_shape": (80, 100)}
    blobs = torch.zeros(40, 50, dtype=torch.int32)
    blobs[10:14, 20:30] = 1
    item = {"image": MetaTensor(torch.zeros(3, 40, 50, dtype=torch.uint8), meta=meta), "blobs": blobs}
    item["points"] = torch.tensor([[11.5, 24.5, 40.0, 0.9]])
    save = SaveDetectionsd(output_dir=tmp_path / "out", data_root_dir=tmp_path / "in", formats=["nifti"])
    save(item)
    image = nibabel.load(tmp_path / "out/a_labels.nii.gz")
    np.testing.assert_allclose(image.header.get_zooms()[:2], 0.00025)
    expected = np.zeros((80, 100))
    expected[20:28, 40:60] = 1
    np.testing.assert_array_equal(np.asarray(image.dataobj)[..., 0].T, expected)
    # another run without the format leaves none of this one
    SaveDetectionsd(output_dir=tmp_path / "out", data_root_dir=tmp_path / "in")(item)
    assert sorted(path.name for path in (tmp_path / "out").glob("a*")) == ["a.geojson", "a_overlay.png"]


def test_where_nothing_is_found_a_run_goes_on(tmp_path, capsys):
    pytest.importorskip("highdicom")
    meta = {"filename_or_obj": str(tmp_path / "in" / "a.png"), "mpp": 0.5}
    item = {"image": MetaTensor(torch.zeros(3, 40, 50, dtype=torch.uint8), meta=meta)}
    item |= {"points": torch.zeros(0, 4), "blobs": torch.zeros(40, 50, dtype=torch.int32)}
    asked = ["dicom-ann", "dicom-seg", "nifti", "dsa"]
    SaveDetectionsd(output_dir=tmp_path / "out", data_root_dir=tmp_path / "in", formats=asked)(item)
    found = ["a.geojson", "a_dsa.json", "a_labels.nii.gz", "a_labels.txt", "a_overlay.png"]
    assert names(tmp_path / "out") == found
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(": no ")[2].partition(":")[0] for line in said] == ["dicom-ann", "dicom-seg"]

    glass = write_tiff(tmp_path / "b.tif", np.full((300, 400, 3), 244, np.uint8), 0.5)
    SlideInferer(DarkPredictor(), tmp_path / "slides", 0.5, formats=asked)(glass)
    suffixes = ("_dsa.json", "_labels.nii.gz", "_labels.txt", *SlideInferer.suffixes)
    assert sorted(path.name for path in (tmp_path / "slides").glob("b*")) == sorted(f"b{end}" for end in suffixes)


@pytest.mark.parametrize("file", ["", "level_2.dcm"])
def test_a_run_over_a_dicom_slide_refers_to_it(tmp_path, file):
    highdicom = pytest.importorskip("highdicom")
    from tests.formats.dicom_slides import write_slide

    image = np.full((300, 400, 3), (225, 180, 205), np.uint8)
    image[100:180, 120:240] = (80, 30, 70)
    source = write_slide(tmp_path / "slide", image)
    path = tmp_path / "slide" / file
    SlideInferer(DarkPredictor(), tmp_path, 0.25, formats=["dicom-ann", "dicom-seg"])(path, "a")
    objects_ = highdicom.ann.annread(tmp_path / "a_annotations.dcm")
    classes = highdicom.seg.segread(tmp_path / "a_segmentation.dcm")
    for data in (objects_, classes):
        assert data.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
        assert (data.StudyInstanceUID, data.PatientID) == (source.StudyInstanceUID, source.PatientID)
    drawn = classes.get_total_pixel_matrix(segment_numbers=[1])[..., 0]
    assert (drawn.shape, drawn[140, 180], drawn[20, 20]) == ((300, 400), 1, 0)
    areas = [each.area for each in read_geojson(tmp_path / "a.geojson").geometry if each.area]
    assert drawn.sum() == sum(areas)


def test_cells_keep_the_numbers_of_their_classes(tmp_path):
    from monai_ext.phantom import write_slide
    from tests.slides.test_slide_cells import NAMES, inferer

    write_slide(tmp_path / "a.tif", 384, mpp=0.5)
    inferer(tmp_path / "out", formats=["nifti", "anndata"] if not FORMATS["anndata"].missing else ["nifti"])(
        tmp_path / "a.tif"
    )
    cells = read_geojson(tmp_path / "out/a.geojson")
    assert len(cells)
    drawn = np.asarray(nibabel.load(tmp_path / "out/a_labels.nii.gz").dataobj)[..., 0].T
    names = (tmp_path / "out/a_labels.txt").read_text().splitlines()[-3:]
    assert [line.split('"')[1] for line in names] == list(NAMES)
    for shape, name in zip(cells.geometry, cells.classes, strict=True):
        x, y = shape.representative_point().coords[0]
        assert drawn[int(y), int(x)] == NAMES.index(name) + 1


def test_vessels_of_a_slide_lie_on_all_of_it(tmp_path):
    from monai_ext.transforms import SaveVesseld, VesselDiagnosis

    Image.fromarray(np.full((200, 300, 3), 128, np.uint8)).save(tmp_path / "a.png")
    cohort = Cohort(tmp_path / "a.png", tmp_path / "out", mpp=0.5)
    meta = {"filename_or_obj": str(tmp_path / "a.png"), "mpp": 1.0, "scale": 2.0, "slide_shape": (200, 300)}
    found = {"score": 0.1, "invaded": False, "heat": np.eye(3)[1].reshape(3, 1, 1), "patches": 1}
    found |= {"cells": np.array([[5.0, 5.0]]), "side": 20, "shape": (20, 20), "offset": (40, 60), "scale": 2.0}
    item = {"source": MetaTensor(torch.zeros(3, 20, 20, dtype=torch.uint8), meta=meta)}
    item |= {"diagnosis": VesselDiagnosis("a", **found), "file": cohort.items[0]["image"], "outlines": "a.geojson"}
    SaveVesseld("diagnosis", cohort, tmp_path / "out", formats="nifti")(item)
    image = nibabel.load(tmp_path / "out/a_labels.nii.gz")
    np.testing.assert_allclose(image.header.get_zooms()[:2], 0.0005)
    drawn = np.asarray(image.dataobj)[..., 0].T
    assert drawn.shape == (200, 300)
    assert np.argwhere(drawn).min(axis=0).tolist() == [40, 60]
    assert np.argwhere(drawn).max(axis=0).tolist() == [79, 99]


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("nifty", "--formats: expected nifti or .*, found 'nifty'"),
        (["dsa", "dicom_seg"], "--formats: expected dicom-seg or .*, found 'dicom_seg'"),
        (3, "--formats: expected a list of geojson, geojson-gz, csv, .*, found 3"),
        ([None], "--formats: expected a list of"),
    ],
)
def test_unknown_formats_are_named_with_the_nearest(asked, message, tmp_path):
    for make in (
        Exchange,
        lambda formats: SlideInferer(DarkPredictor(), tmp_path, formats=formats),
        lambda formats: SaveDetectionsd(output_dir=tmp_path, data_root_dir=tmp_path, formats=formats),
        lambda formats: Cohort(tmp_path, tmp_path, formats=formats),
    ):
        with pytest.raises(InputError, match=message) as caught:
            make(asked)
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "extra"), [("dicom-ann", "dicom"), ("ome-zarr", "zarr"), ("anndata", "anndata")])
def test_a_missing_package_names_its_extra(name, extra, monkeypatch):
    monkeypatch.setattr(registry, "find_spec", lambda package: None)
    with pytest.raises(InputError) as caught:
        Exchange(["geojson", name])
    assert f'pip install "monai_ext[{extra}]"' in str(caught.value)
    assert "\n" not in str(caught.value)
    Exchange(["geojson", "dsa", "asap", "annotation-store"])
    with pytest.raises(InputError, match=r"nibabel for nifti .*; anndata for anndata .*, found no nibabel, anndata"):
        Exchange(["nifti", "anndata"])


def test_an_image_without_a_resolution_is_set_aside_before_the_run(tmp_path, capsys):
    for name, dpi in (("a", 101_600), ("b", 72)):
        Image.new("RGB", (64, 64)).save(tmp_path / f"{name}.png", dpi=(dpi, dpi))
    cohort = Cohort(tmp_path, tmp_path / "out", formats=["nifti", "dsa"])
    assert [item["image"] for item in cohort.items] == [str(tmp_path / "a.png")]
    assert (
        "b.png: expected a resolution for nifti, in mm: give um/px by --mpp, found none stated"
        in capsys.readouterr().err
    )
    assert len(Cohort(tmp_path, tmp_path / "out2", mpp=0.25, formats=["nifti"]).items) == 2
    assert len(Cohort(tmp_path, tmp_path / "out3", formats=["dsa"]).items) == 2


def test_a_slide_without_a_resolution_fails_before_it_is_computed(tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "b.png")
    Counting.calls = 0
    with pytest.raises(InputError, match="give um/px by --mpp"):
        SlideInferer(Counting(), tmp_path / "out", 0.5, formats="nrrd")(tmp_path / "b.png")
    assert Counting.calls == 0


@pytest.mark.slow  # each format's library is imported
def test_nothing_is_left_half_written(tmp_path, monkeypatch):
    path = write_geojson(tmp_path / "a.geojson", Features([shapely.box(0, 0, 4, 4)], classes="x"))
    from monai_ext.exchange import nifti

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nifti, "write_label_names", full)
    with pytest.raises(OSError, match="No space"):
        convert(path, "nifti", mpp=0.25)
    torn = tmp_path / "torn.geojson"
    torn.write_bytes(path.read_bytes()[:-9])
    for name in FORMATS:
        if not FORMATS[name].missing:
            with pytest.raises(InputError, match=r"complete GeoJSON|after 1 features"):
                convert(torn, name, mpp=0.25)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.geojson", "torn.geojson"]


def test_convert_refuses_what_cannot_be(tmp_path, slide):
    path = write_geojson(tmp_path / "a.geojson", Features([shapely.box(0, 0, 450, 4)], classes="x"))
    for arguments, message in [
        (["--to", "nifty"], "--to: expected nifti or"),
        (["--to", "geojson"], "a format other than GeoJSON"),
        (["--to", "nifti"], "give um/px by --mpp"),
        (["--to", "nifti", "--mpp", "0"], "um/px, a positive number"),
        (
            ["--to", "dsa", "--slide", str(slide)],
            r"expected objects of .*a.tif \(400 x 300 px\), found some that reach to x 450",
        ),
        (["--to", "dsa", "--slide", str(tmp_path / "no.svs")], "no such file"),
        (["--too", "dsa"], "--to"),
    ]:
        with pytest.raises(InputError, match=message):
            execute(["convert", str(path), *arguments])
    with pytest.raises(InputError, match="a GeoJSON file, found no such file"):
        execute(["convert", str(tmp_path / "no.geojson"), "--to", "dsa"])
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.geojson", "in"]


def test_convert_from_the_command_line(tmp_path):
    path = write_geojson(tmp_path / "a.geojson", Features([shapely.box(0, 0, 4, 4)], classes="b"))
    told = execute(["convert", str(path), "--to", "['dsa','nifti']", "--mpp", "0.25", "--classes", "['a','b']"])
    assert told.splitlines() == [str(tmp_path / f"a{end}") for end in ("_dsa.json", "_labels.nii.gz", "_labels.txt")]
    assert np.asarray(nibabel.load(tmp_path / "a_labels.nii.gz").dataobj).max() == 2


def test_convert_refers_to_a_dicom_slide(tmp_path):
    highdicom = pytest.importorskip("highdicom")
    from monai_ext.formats import read_dicom_annotations
    from monai_ext.formats.dicom import read_dicom, slide_frame
    from tests.formats.dicom_slides import MM, write_slide

    source = write_slide(tmp_path / "slide", np.full((80, 90, 3), 200, np.uint8))
    path = write_geojson(tmp_path / "a.geojson", Features([shapely.box(1, 2, 30, 40)], classes="Nucleus"))
    told = convert(path, ["dicom-ann", "dicom-seg"], slide=tmp_path / "slide").splitlines()
    data = highdicom.ann.annread(told[0])
    assert data.PatientID == source.PatientID
    assert data.StudyInstanceUID == source.StudyInstanceUID
    assert data.ReferencedImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    files = {each: read_dicom(each) for each in sorted((tmp_path / "slide").glob("*.dcm"))}
    [nucleus] = read_dicom_annotations(told[0], slide_frame(files)).geometry
    assert nucleus.equals(shapely.box(1, 2, 30, 40))
    measures = highdicom.seg.segread(told[1]).SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert [float(side) for side in measures.PixelSpacing] == [MM, MM]
    # two slides in one folder
    write_slide(tmp_path / "other", np.full((80, 90, 3), 200, np.uint8))
    (tmp_path / "other/level_1.dcm").rename(tmp_path / "slide/b.dcm")
    with pytest.raises(InputError, match=r"one slide .*, found 2:"):
        convert(path, "dicom-ann", slide=tmp_path / "slide")
    convert(path, "dicom-ann", slide=tmp_path / "slide/level_1.dcm")
