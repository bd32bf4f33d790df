"""OME-Zarr as it is read, compared with the pixels that were written."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import shapely

zarr = pytest.importorskip("zarr", reason="zarr is not installed (the extra [zarr])")

from monai_ext.base.errors import InputError  # noqa: E402
from monai_ext.data import Cohort  # noqa: E402
from monai_ext.data.datalist import check_mask_item  # noqa: E402
from monai_ext.formats import SlideReader, check_slide, open_levels, read_field, read_mask, read_points  # noqa: E402
from monai_ext.formats import zarr_levels as module  # noqa: E402
from monai_ext.formats.find import find_images  # noqa: E402
from monai_ext.formats.image import is_mask  # noqa: E402
from monai_ext.transforms import LoadFieldd  # noqa: E402
from tests.formats import refused  # noqa: E402
from tests.formats.torture import base, reduced  # noqa: E402
from tests.formats.zarr_slides import write_zarr, zipped  # noqa: E402

SHAPE = (300, 420)


def picture():
    return base()[: SHAPE[0], : SHAPE[1]]


def shrink(image, factor):
    return reduced(image, factor) if factor > 1 else image


def whole(levels, level=0):
    return levels.read(level, 0, 0, *levels.shapes[level])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["tczyx", "czyx", "cyx", "yxc", "zyxc"])
def test_every_order_of_axes(tmp_path, version, axes):
    path = write_zarr(tmp_path / "a.ome.zarr", picture(), version=version, axes=axes, levels=(1, 2, 4), shrink=shrink)
    levels, is_slide = open_levels(path)
    assert is_slide
    assert levels.backend == "zarr"
    assert levels.shapes == [SHAPE, (150, 210), (75, 105)]
    assert levels.downsamples == [1, 2, 4]
    assert (levels.resolution.mpp, levels.resolution.source) == (0.25, "OME-Zarr")
    for level, factor in enumerate((1, 2, 4)):
        pixels, valid = whole(levels, level)
        assert valid is None
        np.testing.assert_array_equal(pixels, shrink(picture(), factor))


def test_grey(tmp_path):
    path = write_zarr(tmp_path / "a.zarr", picture()[..., 0], axes="yx")
    np.testing.assert_array_equal(whole(open_levels(path)[0])[0], np.repeat(picture()[..., :1], 3, axis=2))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("ending", [".ome.zarr.zip", ".ozx"])
def test_in_an_archive(tmp_path, version, ending):
    folder = write_zarr(tmp_path / "a.zarr", picture(), version=version)
    levels, _ = open_levels(zipped(folder, tmp_path / f"b{ending}"))
    np.testing.assert_array_equal(whole(levels)[0], picture())


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_the_first_image_of_bioformats2raw(tmp_path, version):
    levels, _ = open_levels(write_zarr(tmp_path / "a.zarr", picture(), version=version, inside="0"))
    assert levels.resolution.mpp == 0.25
    np.testing.assert_array_equal(whole(levels)[0], picture())


@pytest.mark.parametrize(
    ("unit", "whole"), [("micrometer", False), ("micrometer", True), ("nanometer", False), ("millimeter", False)]
)
def test_the_scale_in_its_unit(tmp_path, unit, whole):
    reader = SlideReader(
        write_zarr(tmp_path / "a.zarr", picture(), mpp=(0.5, 0.25), unit=unit, axes="cyx", whole=whole)
    )
    assert reader.base_mpp == pytest.approx(0.25)
    assert reader.stretch == (2.0, 1.0)


@pytest.mark.parametrize(("unit", "mpp"), [(None, 0.25), ("micrometer", 1000.0), ("second", 0.25)])
def test_no_resolution(tmp_path, unit, mpp):
    path = write_zarr(tmp_path / "a.zarr", picture(), unit=unit, mpp=(mpp, mpp))
    assert open_levels(path)[0].resolution is None
    with pytest.raises(InputError, match="no resolution"):
        check_slide(path)
    assert SlideReader(path, mpp=0.5).base_mpp == 0.5


def test_any_region_on_any_grid(tmp_path):
    path = write_zarr(tmp_path / "a.zarr", picture(), shrink=shrink)
    reader, rng = SlideReader(path, target_mpp=0.5), np.random.default_rng(0)
    assert (reader.level, reader.shape) == (1, (150, 210))
    expected = np.pad(reduced(picture(), 2), ((9, 9), (9, 9), (0, 0)), constant_values=255)
    for row, col in [(-9, -9), (119, 179), *rng.integers(0, 110, (5, 2)).tolist()]:
        part = expected[row + 9 : row + 49, col + 9 : col + 49]
        np.testing.assert_array_equal(np.moveaxis(reader.read(row, col, *part.shape[:2]), 0, -1), part)
    np.testing.assert_array_equal(np.moveaxis(read_field(path).image, 0, -1), picture())


def test_chunks_that_were_never_written_were_not_scanned(tmp_path):
    path = write_zarr(tmp_path / "a.zarr", picture(), axes="cyx", levels=(1,), chunk=64)
    for channel in range(3):
        for row in range(5):
            (path / f"0/c/{channel}/{row}/6").unlink()  # from column 384 on
    field = read_field(path)
    expected = np.ones(SHAPE, bool)
    expected[:, 384:] = False
    np.testing.assert_array_equal(field.valid, expected)
    assert (field.image[:, ~expected] == 255).all()


def test_a_folder_of_images_is_not_looked_into(tmp_path):
    write_zarr(tmp_path / "in/b/a.ome.zarr", picture())
    assert [path.name for path in find_images(tmp_path / "in")] == ["a.ome.zarr"]
    cohort = Cohort(tmp_path / "in", tmp_path / "out", check=check_slide)
    assert [item["image"] for item in cohort.items] == [str(tmp_path / "in/b/a.ome.zarr")]
    one = Cohort(tmp_path / "in/b/a.ome.zarr", tmp_path / "other", check=check_slide)
    assert (len(one.items), one.root) == (1, tmp_path / "in/b")


# -- bad input ---------------------------------------------------------------------------------------------------------


def refusal(path):
    return refused.refusal(path, check_slide, read_field)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"sizes": {"z": 5}}, "a stack of 5 focal planes"),
        ({"sizes": {"t": 3}}, "a time series of 3 frames"),
        ({"sizes": {"c": 5}}, "5 channels of uint8"),
        ({"sizes": {"c": 2}, "axes": "cyx"}, "2 channels of uint8"),
    ],
)
def test_what_is_not_one_image(tmp_path, options, found):
    assert found in refusal(write_zarr(tmp_path / "a.zarr", picture()[:80, :90], **options))


def test_16_bit_channels(tmp_path):
    path = write_zarr(tmp_path / "a.zarr", picture().astype(np.uint16))
    assert "3 channels of uint16" in refusal(path)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_level_is_missing(tmp_path, version):
    path = write_zarr(tmp_path / "a.zarr", picture(), version=version)
    shutil.rmtree(path / "1")
    assert "expected the level '1' that its metadata name, found none" in refusal(path)


def test_no_metadata(tmp_path):
    path = write_zarr(tmp_path / "a.zarr", picture())
    zarr.open_group(path, mode="r+").attrs.put({})
    assert "expected an OME-Zarr image (multiscales), found none" in refusal(path)


def test_a_plate(tmp_path):
    path = write_zarr(tmp_path / "a.zarr", picture())
    zarr.open_group(path, mode="r+").attrs.put({"ome": {"plate": {"wells": []}}})
    assert "a plate of wells" in refusal(path)


@pytest.mark.parametrize("content", [None, "{", "[]", json.dumps({"zarr_format": 3})])
def test_no_zarr(tmp_path, content):
    (tmp_path / "a.zarr").mkdir()
    if content is not None:
        (tmp_path / "a.zarr/zarr.json").write_text(content)
    assert "expected an OME-Zarr" in refusal(tmp_path / "a.zarr")


def test_a_damaged_archive(tmp_path):
    (tmp_path / "a.ozx").write_bytes(b"PK no archive")
    assert "expected an OME-Zarr" in refusal(tmp_path / "a.ozx")


def test_a_chunk_that_cannot_be_decoded(tmp_path):
    """Is named with its place; the others are read."""
    path = write_zarr(tmp_path / "a.zarr", picture(), levels=(1,), chunk=64)
    (path / "0/c/0/0/0/1/1").write_bytes(b"no chunk")
    reader = SlideReader(path)
    with pytest.raises(InputError, match=r"level 0, row \d+ to \d+, column \d+ to \d+: expected readable pixels"):
        reader.read(0, 0, 200, 200)
    np.testing.assert_array_equal(np.moveaxis(reader.read(200, 200, 60, 60), 0, -1), picture()[200:260, 200:260])


def test_without_zarr_the_extra_is_named(tmp_path, monkeypatch):
    def missing(name):
        raise ImportError(name)

    path = write_zarr(tmp_path / "a.zarr", picture())
    monkeypatch.setattr(module, "import_module", missing)
    assert "zarr to read it (pip install 'monai_ext[zarr]')" in refusal(path)


# -- label images ------------------------------------------------------------------------------------------------------

LABELS = np.zeros((300, 420), np.uint32)
LABELS[20:40, 30:80], LABELS[100:130, 200:220] = 7, 70_000


def write_labels(path: Path, names=("nuclei",), version="0.5", axes="yx", labels=LABELS) -> Path:
    """Label images below the group ``labels`` of an image, as the standard and the package ome-zarr lay them out."""
    root = zarr.open_group(path, mode="a", zarr_format=3 if version == "0.5" else 2)
    group = root.create_group("labels")
    listed = {"labels": list(names)}
    group.attrs.update({"ome": {"version": version, **listed}} if version == "0.5" else listed)
    for number, name in enumerate(names):
        shown = np.where(labels > 0, labels + number, 0).astype(labels.dtype)
        write_zarr(path / "labels" / name, shown, version=version, axes=axes)
        inner = zarr.open_group(path / "labels" / name, mode="a")
        about = {"version": version, "source": {"image": "../../"}}
        if version == "0.5":
            inner.attrs["ome"] = {**inner.attrs["ome"], "image-label": about}
        else:
            inner.attrs["image-label"] = about
    return path


@pytest.mark.parametrize("axes", ["yx", "tczyx", "xy"])
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_the_labels_of_an_image_are_its_mask(tmp_path, version, axes):
    path = write_zarr(tmp_path / "a.ome.zarr", np.full((300, 420, 3), 200, np.uint8), version=version)
    labels = LABELS.T if axes == "xy" else LABELS
    write_labels(path, version=version, axes=axes, labels=labels)
    for named in (path, path / "labels", path / "labels/nuclei"):
        np.testing.assert_array_equal(read_mask(named), LABELS)
        assert is_mask(named)
    assert check_mask_item({"image": str(path), "label": str(path / "labels/nuclei")}) == []
    item = LoadFieldd("image", mask_keys=["label"])({"image": str(path), "label": str(path)})
    np.testing.assert_array_equal(item["label"][0], LABELS)
    np.testing.assert_allclose(read_points(path / "labels/nuclei"), [[29.5, 54.5], [114.5, 209.5]])


def test_a_label_image_alone_and_in_an_archive(tmp_path):
    path = write_zarr(tmp_path / "a.zarr", LABELS, axes="yx")
    np.testing.assert_array_equal(read_mask(path), LABELS)
    shutil.make_archive(str(tmp_path / "b.zarr"), "zip", path)
    np.testing.assert_array_equal(read_mask(tmp_path / "b.zarr.zip"), LABELS)
    inside = write_zarr(tmp_path / "c.zarr", np.full((300, 420, 3), 200, np.uint8), inside="0")
    write_labels(inside / "0")
    for named in (inside, inside / "0/labels/nuclei"):
        np.testing.assert_array_equal(read_mask(named), LABELS)


def test_a_mask_in_a_data_list_and_what_a_run_wrote(tmp_path):
    """Evaluation's truth: the label image that ``--formats ome-zarr`` writes."""
    from monai_ext.exchange import Exchange, Results
    from monai_ext.formats import Features, write_geojson

    cells = [shapely.box(30, 20, 80, 40), shapely.box(200, 100, 220, 130)]
    path = write_geojson(tmp_path / "a.geojson", Features(cells, ["Tumor", "Stroma"]))
    (written,) = Exchange(["ome-zarr"]).write(Results(path, "a", shape=(300, 420), mpp=(0.25, 0.25)), tmp_path / "a")
    objects = read_mask(written / "labels/objects")
    assert (objects > 0).sum() == (LABELS > 0).sum()
    np.testing.assert_array_equal(objects > 0, LABELS > 0)
    assert sorted(np.unique(objects)) == [0, 1, 2]
    with pytest.raises(InputError, match=r"one label image.*found labels/classes, labels/objects"):
        read_mask(written)


def test_an_image_that_holds_its_label_stays_an_image(tmp_path):
    path = write_zarr(tmp_path / "in/a.ome.zarr", np.full((300, 420, 3), 200, np.uint8))
    item = {"image": "a.ome.zarr", "label": "a.ome.zarr"}
    (tmp_path / "in/more").mkdir()
    (tmp_path / "in/more/dataset.json").write_text(json.dumps({"test": [{k: f"../{v}" for k, v in item.items()}]}))
    assert [entry["image"] for entry in Cohort(tmp_path / "in", tmp_path / "out", mpp=0.25).items] == [str(path)]


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda path: path / "labels/cells", "expected a label image of that name, found none"),
        (lambda path: path / "labels/nuclei/0", "expected the group of a label image, found an array"),
        (lambda path: write_zarr(path.with_name("rgb.zarr"), np.zeros((9, 9, 3), np.uint8)), "labels of one plane"),
        (lambda path: write_zarr(path.with_name("half.zarr"), np.full((9, 9), 0.5), axes="yx"), "whole numbers"),
        (lambda path: write_zarr(path.with_name("big.zarr"), LABELS + 2**31, axes="yx"), "up to 2147483647, found"),
        (lambda path: path.with_name("none.zarr"), "expected an OME-Zarr"),
    ],
)
def test_masks_that_are_none(tmp_path, spoil, expected):
    path = write_labels(write_zarr(tmp_path / "a.zarr", np.full((300, 420, 3), 200, np.uint8)))
    with pytest.raises(InputError, match=expected):
        read_mask(spoil(path))
