from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache

import cv2
import numpy as np
import openslide
import orjson
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import center_of_mass, label
from scipy.optimize import linear_sum_assignment

from monai_ext.base.errors import InputError
from monai_ext.data.nuclei import BACKGROUND
from monai_ext.data.nucleus_extraction import nucleus_labels
from monai_ext.formats.geojson import read_geojson
from monai_ext.formats.outlines import polygons_to_mask
from monai_ext.phantom import (
    IDEAL_SCANNER,
    METHODS,
    CellClass,
    Scanner,
    Tissue,
    beer_lambert,
    phantom_field,
    phantom_slide,
    write_dataset,
    write_slide,
)
from monai_ext.phantom.label_noise import SSA_NOISE, WSA_NOISE
from monai_ext.phantom.noise import grid_noise, point_noise
from monai_ext.phantom.nuclei import FORMS, sprites
from monai_ext.phantom.painting import paint
from monai_ext.phantom.structures import Blob
from monai_ext.phantom.tissue import structures_in

DENSITY_TOLERANCE = 1e-4  # optical density, floating point
QUANTISATION = 0.51  # levels: what rounding to 8 bits may add
CENTROID_TOLERANCE = 1.5  # px, between a planned centre and the centre of mass of what is drawn
PURE = 0.03  # share of the other stain in a pixel that shows one stain's colour: a degree, as vectors lie 20-40 apart
PURE_PIXELS = 0.02  # of tissue, for each stain: twice the percentile by which Macenko's method finds vectors
THRESHOLD_FLOOR = 0.6  # F1 that thresholding hematoxylin must stay below

STAINS = np.array([[0.65, 0.07], [0.70, 0.99], [0.29, 0.11]])
BUSY = METHODS["mitosis"].tissue


@pytest.fixture(scope="module")
def field():
    return phantom_field((512, 512), slide=phantom_slide(1, tissue=BUSY))


def same(a, b) -> bool:
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for name in ("image", "density", "instances", "classes", "centroids", "uids", "vessel", "tumour")
    )


# ---- physics


def test_known_stains_unmix_exactly():
    view = phantom_field((256, 256), 3, stains=STAINS, scanner=IDEAL_SCANNER)
    vectors = STAINS / np.linalg.norm(STAINS, axis=0)
    np.testing.assert_allclose(view.stains, vectors, atol=1e-6)
    light = beer_lambert(view.density, vectors, IDEAL_SCANNER.white)
    unmixed = -np.log(light / IDEAL_SCANNER.white) @ np.linalg.pinv(vectors).T
    np.testing.assert_allclose(unmixed, view.density, atol=DENSITY_TOLERANCE)
    assert np.abs(view.image - light).max() <= QUANTISATION
    assert view.density.min() >= 0
    assert view.density[..., 0].max() > 1.5


def test_hematoxylin_lies_on_nuclei_and_eosin_around_them(field):
    nuclei = (field.classes > 0) & (field.classes < CellClass.MITOSIS)
    hematoxylin, eosin = field.density[..., 0], field.density[..., 1]
    assert hematoxylin[nuclei].mean() > 3 * hematoxylin[~nuclei].mean()
    assert eosin[~nuclei].mean() > 0.3


ALL_TUMOUR = Tissue(tumour=0.999, vessels=0, glands=0, mitoses=0, lookalikes=0)
KINDS = {
    **{name: (method.tissue, method.mpp) for name, method in METHODS.items()},
    "tumour alone": (ALL_TUMOUR, 0.25),
    "stroma alone": (replace(ALL_TUMOUR, tumour=0.001, lymphocytes=0.01), 0.25),
    "lymphocytes": (replace(ALL_TUMOUR, tumour=0.001, lymphocytes=0.99), 0.25),
    "glands": (replace(ALL_TUMOUR, tumour=0.001, glands=0.9), 0.25),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_every_tissue_has_pixels_of_one_stain(kind):
    tissue, mpp = KINDS[kind]
    for column in (0, 4096):
        density = phantom_field((512, 512), slide=phantom_slide(12, tissue=tissue, mpp=mpp), origin=(0, column)).density
        assert density.min() >= 0
        total = density.sum(-1)
        stained = total > 0.3
        for other in (1, 0):
            assert (density[..., other][stained] < PURE * total[stained]).mean() > PURE_PIXELS


def test_packed_chromatin_holds_no_eosin_but_the_dying_cell_s_body_does():
    for form in ("lymphocyte", "tumour_dark", "metaphase", "telophase", "apoptotic", "pyknotic", "spindle"):
        hematoxylin, eosin, _, nucleus = np.moveaxis(sprites(1, 0.25, form)[0], -1, 0)
        packed = (nucleus > 0.99) & (hematoxylin > 1.3)
        assert packed.any()
        assert np.median(eosin[packed] / hematoxylin[packed]) < PURE, form
    _, eosin, cover, nucleus = np.moveaxis(sprites(1, 0.25, "apoptotic")[0], -1, 0)
    assert eosin[(cover > 0.99) & (nucleus < 0.01)].mean() > 0.7


def test_glass_has_the_scanner_s_white():
    scanner = Scanner(white=(240, 230, 220), blur=0.25, noise=0.0)
    slide = phantom_slide(5, size=(4096, 4096), scanner=scanner)
    corner = phantom_field((64, 64), slide=slide)
    assert (corner.image == np.uint8([240, 230, 220])).all()
    assert len(corner.labels) == 0


def test_noise_blur_and_jpeg_do_what_they_say():
    flat = np.full((256, 256, 3), 200, np.float32)
    rng = np.random.default_rng(0)
    noisy = Scanner(blur=0, noise=3)(flat, 0.25, rng).astype(float)
    assert noisy.std() == pytest.approx(3 * np.sqrt(200 / 255), rel=0.05)
    edge = flat.copy()
    edge[:, 128:] = 20
    soft = Scanner(blur=0.5, noise=0)(edge, 0.25, rng).astype(float)[0, :, 0]
    assert 20 < soft[128] < 200
    assert soft[128 + 10] == pytest.approx(20, abs=1)
    assert (Scanner(blur=0, noise=0, jpeg=30)(edge, 0.25, rng) != edge).any()


# ---- one field is a function of the seed and the place


def test_seed_decides_everything():
    first, again, other = (phantom_field((200, 300), seed) for seed in (7, 7, 8))
    assert same(first, again)
    assert not np.array_equal(first.image, other.image)
    assert not np.allclose(first.stains, other.stains)
    assert first.slide.scanner != other.slide.scanner


@pytest.mark.slow
def test_four_tiles_equal_the_whole():
    slide, origin = phantom_slide(2, tissue=BUSY), (400, 300)
    whole = phantom_field((300, 400), slide=slide, origin=origin)
    for row, column in ((0, 0), (0, 200), (150, 0), (150, 200)):
        tile = phantom_field((150, 200), slide=slide, origin=(origin[0] + row, origin[1] + column))
        box = (slice(row, row + 150), slice(column, column + 200))
        for name in ("image", "density", "classes", "vessel", "tumour"):
            np.testing.assert_array_equal(getattr(tile, name), getattr(whole, name)[box])
        names = (np.concatenate([[0], f.uids]) for f in (tile, whole))
        tile_names, whole_names = (n[f.instances] for n, f in zip(names, (tile, whole), strict=True))
        np.testing.assert_array_equal(tile_names, whole_names[box])
        where = {u: c + origin for u, c in zip(whole.uids, whole.centroids, strict=True)}
        for uid, centroid in zip(tile.uids, tile.centroids + np.array([row, column]), strict=True):
            np.testing.assert_allclose(centroid + origin, where[uid], atol=1e-6)


def test_blocks_leave_no_seam():
    """Blocks are rendered one by one; painting the same area in one go gives the same."""
    slide = phantom_slide(4, tissue=BUSY, scanner=replace(IDEAL_SCANNER, blur=0.3))
    view = phantom_field((160, 160), slide=slide, origin=(512 - 80, 512 - 80))
    canvas = paint(slide, range(512 - 90, 512 + 90), range(512 - 90, 512 + 90))
    whole = np.stack([canvas.hematoxylin, canvas.eosin], axis=-1)[10:-10, 10:-10]
    np.testing.assert_allclose(view.density, whole, atol=2e-3)
    assert ((view.instances > 0) == (canvas.instances[10:-10, 10:-10] > 0)).mean() > 0.9999


def test_far_tile_of_a_huge_slide_needs_only_itself():
    slide = phantom_slide(6, size=(100_000, 100_000))
    fragment = slide.fragments[-1]
    origin = (int(fragment.y / slide.mpp), int(fragment.x / slide.mpp))
    assert min(origin) > 20_000
    tile = phantom_field((256, 256), slide=slide, origin=origin)
    assert tile.image.shape == (256, 256, 3)
    assert len(tile.labels) > 0


# ---- truth


def test_class_map_instances_and_centroids_agree(field):
    count = len(field.labels)
    assert len(field.centroids) == len(field.forms) == len(field.uids) == count
    assert field.instances.dtype == np.int32
    np.testing.assert_array_equal(np.unique(field.instances), np.arange(count + 1))
    np.testing.assert_array_equal(field.classes, np.concatenate([[0], field.labels])[field.instances])
    assert [FORMS[form].label for form in field.forms] == field.labels.tolist()
    height, width = field.instances.shape
    whole = [
        k for k in range(count)
        if field.labels[k] == CellClass.MITOSIS and (field.centroids[k] > 40).all()
        and (field.centroids[k] < (height - 40, width - 40)).all()
    ]  # fmt: skip
    assert whole
    for k in whole:
        mass = center_of_mass(field.instances == k + 1)
        assert np.hypot(*(mass - field.centroids[k])) < CENTROID_TOLERANCE


def test_telophase_is_one_instance_of_two_parts():
    slide = phantom_slide(11, tissue=replace(BUSY, tumour=0.95, mitoses=900))
    seen = 0
    for column in range(0, 4 * 512, 512):
        view = phantom_field((512, 512), slide=slide, origin=(0, column))
        for k, form in enumerate(view.forms):
            if form != "telophase" or not (view.centroids[k] > 30).all() or not (view.centroids[k] < 482).all():
                continue
            mask = view.instances == k + 1
            parts, found = label(mask, np.ones((3, 3)))
            areas = np.sort(np.bincount(parts.ravel())[1:])
            assert found >= 2
            assert areas[-2] > 0.4 * areas[-1]  # two like parts, and perhaps crumbs
            row, col = np.rint(view.centroids[k]).astype(int)
            assert not mask[row, col]  # the one centroid lies between them
            seen += 1
    assert seen >= 2


def test_kinds_differ_as_the_real_ones_do():
    def measure(form):
        pictures, _ = sprites(1, 0.25, form)
        mask = pictures[..., 3] > 0.5
        area = mask.sum((1, 2)).mean()
        spread = []
        for picture in mask:
            points = np.argwhere(picture).astype(float)
            values = np.linalg.eigvalsh(np.cov(points.T))
            spread.append(np.sqrt(values[1] / values[0]))
        density = pictures[..., 0][mask].mean()
        return np.sqrt(area / np.pi) * 2, np.mean(spread), density

    size = {form: measure(form) for form in FORMS if FORMS[form].label}
    assert 20 < size["lymphocyte"][0] < 30  # px at 0.25 um
    assert 36 < size["tumour"][0] < 60
    assert size["fibroblast"][1] > 2.5 > 1.3 > size["lymphocyte"][1]
    assert size["lymphocyte"][2] > 1.3 * size["tumour"][2]
    assert size["metaphase"][2] > 1.3 * size["lymphocyte"][2]
    assert size["pyknotic"][2] == pytest.approx(size["metaphase"][2], rel=0.2)  # density does not tell them apart


def test_points_lie_in_the_image(field):
    for kind in CellClass:
        points = field.points(kind)
        assert ((points >= 0) & (points < 512)).all()
    assert len(field.points(CellClass.MITOSIS)) >= 3
    assert len(field.points(*CellClass)) <= len(field.labels)


def test_vessels_hold_cells_and_tumour_cells_lie_in_tumour():
    slide = phantom_slide(21, tissue=Tissue(tumour=0.3, vessels=0.9, invaded=1.0))
    view = phantom_field((1024, 1024), slide=slide)
    points = view.points(CellClass.TUMOUR)
    inside = view.tumour[tuple(points.T)] | view.vessel[tuple(points.T)]
    assert view.vessel.mean() > 0.03
    assert inside.mean() > 0.95
    assert view.vessel[tuple(points.T)].any()
    mitoses = view.points(CellClass.MITOSIS)
    assert view.tumour[tuple(mitoses.T)].all()


def test_empty_tissue_has_no_nuclei():
    view = phantom_field((256, 256), 3, tissue=Tissue(0.5, 0, 0, 0, 0, 0, 0, cellularity=0))
    assert view.instances.max() == 0
    assert view.points(CellClass.MITOSIS).shape == (0, 2)


# ---- difficulty


def blobs_above(hematoxylin, threshold, points):
    """Areas of all blobs, and the distance of each to each figure."""
    _, _, stats, centres = cv2.connectedComponentsWithStats(np.uint8(hematoxylin > threshold), connectivity=8)
    return stats[1:, cv2.CC_STAT_AREA], np.hypot(*(centres[1:, None, ::-1] - points[None]).transpose(2, 0, 1))


def pooled_f1(fields, smallest, largest) -> float:
    hits = found = present = 0
    for area, distance in fields:
        kept = (area >= smallest) & (area <= largest)
        close = distance[kept & (distance <= 30).any(1)]
        pairs = linear_sum_assignment(np.where(close <= 30, close, 1e4))
        hits, found, present = hits + (close[pairs] <= 30).sum(), found + kept.sum(), present + distance.shape[1]
    return 2 * hits / (found + present)


@pytest.mark.slow
def test_threshold_on_hematoxylin_is_not_enough():
    """The best of all thresholds and area limits, chosen with the answers in view, with each slide's true stains."""
    maps = []
    for seed in range(5):
        slide = phantom_slide(300 + seed, tissue=replace(BUSY, tumour=0.9))
        view = phantom_field((512, 1024), slide=slide)
        density = -np.log((view.image + np.float32(0.5)) / np.float32(slide.scanner.white))
        hematoxylin = (density @ np.linalg.pinv(view.stains).T)[..., 0] / slide.strength[0]
        maps.append((cv2.GaussianBlur(hematoxylin, (0, 0), 1.5), view.points(CellClass.MITOSIS)))
    assert sum(len(points) for _, points in maps) > 40
    best = 0.0
    for threshold in np.arange(0.8, 3.2, 0.2):
        fields = [blobs_above(hematoxylin, threshold, points) for hematoxylin, points in maps]
        for smallest in (0, 60, 120, 200, 300, 400, 600):
            best = max(best, *(pooled_f1(fields, smallest, largest) for largest in (800, 1200, 10**6)))
    assert 0.2 < best < THRESHOLD_FLOOR


# ---- slides


@pytest.mark.slow
def test_lossless_slide_is_the_field_in_both_readers(tmp_path):
    size = (700, 1100)
    path = write_slide(tmp_path / "slide.tif", size, 3, compression="deflate")
    expected = phantom_field(size, slide=phantom_slide(3, size=size)).image
    with openslide.OpenSlide(path) as slide:
        assert slide.dimensions == size[::-1]
        assert slide.level_count == 3
        assert float(slide.properties[openslide.PROPERTY_NAME_MPP_X]) == pytest.approx(0.25)
        np.testing.assert_array_equal(np.asarray(slide.read_region((0, 0), 0, size[::-1]))[..., :3], expected)
        half = np.asarray(slide.read_region((0, 0), 1, slide.level_dimensions[1]))[..., :3].astype(float)
    with tifffile.TiffFile(path) as tiff:
        assert [level.shape[:2] for level in tiff.series[0].levels] == [(700, 1100), (350, 550), (175, 275)]
        assert tiff.pages[0].is_tiled
        np.testing.assert_array_equal(tiff.series[0].levels[0].asarray(), expected)
        assert tiff.pages[0].resolution == pytest.approx((40_000, 40_000))
        assert tiff.pages[1].resolution == pytest.approx((20_000, 20_000))
    area = cv2.resize(expected, half.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(half - area).max() <= 1
    features = orjson.loads(path.with_suffix(".geojson").read_bytes())["features"]
    xy = np.array([f["geometry"]["coordinates"] for f in features])
    assert ((xy >= 0) & (xy < size[::-1])).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["slide.geojson", "slide.tif"]


@pytest.mark.slow
def test_jpeg_slide_has_its_colours(tmp_path):
    path = write_slide(tmp_path / "slide.tif", 700, 3, quality=95)
    expected = phantom_field((700, 700), slide=phantom_slide(3, size=(700, 700))).image
    with openslide.OpenSlide(path) as slide:
        seen = np.asarray(slide.read_region((0, 0), 0, (700, 700)))[..., :3]
    assert np.abs(seen.astype(float) - expected).mean() < 4


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("tiny", {"size": 20}),
        ("unknown compression", {"compression": "lzw"}),
        ("no resolution", {"mpp": 0.0}),
        ("wrong ending", {"path": "slide.png"}),
    ],
)
def test_bad_slide_is_refused(tmp_path, name, change):
    arguments = {"path": "slide.tif", "size": 128, **change}
    with pytest.raises(InputError):
        write_slide(tmp_path / arguments.pop("path"), **arguments)
    assert not list(tmp_path.iterdir())


def test_slide_is_not_overwritten_unasked(tmp_path):
    path = tmp_path / "slide.tif"
    path.write_bytes(b"mine")
    with pytest.raises(InputError, match=r"slide\.tif"):
        write_slide(path, 128)
    assert path.read_bytes() == b"mine"


# ---- data sets


@pytest.fixture(scope="module")
def listing_of(tmp_path_factory):
    """A small data set of each method, written when first asked for."""

    @lru_cache
    def write(method):
        size = 96 if method == "metastasis" else 128
        return write_dataset(
            method, tmp_path_factory.mktemp(method) / "set", slides=3, fields=2, size=size, seed=5
        ), size

    return write


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.slow
def test_data_contract(listing_of, method):
    listing, size = listing_of(method)
    content = json.loads(listing.read_text())
    assert {"name", "description", "licence", "mpp"} <= content.keys()
    groups = [{item["group"] for item in content[split]} for split in ("training", "validation", "test")]
    assert all(groups)
    assert len(set.union(*groups)) == sum(map(len, groups)) == 3
    for item in [*content["training"], *content["validation"], *content["test"]]:
        assert item["mpp"] == content["mpp"]
        with Image.open(listing.parent / item["image"]) as image:
            assert image.mode == "RGB"
            assert image.size == (size, size)
            assert image.info["dpi"][0] == pytest.approx(25400 / item["mpp"], rel=1e-3)
        for key in ("label", "lookalikes", "centroids", "mask", "classes"):
            value = item.get(key)
            if isinstance(value, str) and value.endswith(".csv"):
                rows = (listing.parent / value).read_text().splitlines()
                assert rows[0] == "row,col"
                points = np.array([row.split(",") for row in rows[1:]], int).reshape(-1, 2)
                assert ((points >= 0) & (points < size)).all()
            elif isinstance(value, str):
                labels = tifffile.imread(listing.parent / value)
                assert labels.shape == (size, size)
                with Image.open(listing.parent / value) as same_labels:
                    np.testing.assert_array_equal(np.asarray(same_labels), labels)
    assert [p.name for p in listing.parent.parent.iterdir()] == ["set"]


def items_of(listing):
    content = json.loads(listing.read_text())
    return [item for split in ("training", "validation", "test") for item in content[split]]


def test_metastasis_label_speaks_of_the_centre(listing_of):
    listing, _ = listing_of("metastasis")
    items = items_of(listing)
    assert {item["label"] for item in items} == {0, 1}
    for item in items:
        mask = tifffile.imread(listing.parent / item["mask"])
        assert bool(item["label"]) == mask[32:64, 32:64].any()


def test_annotations_of_cells_know_their_outlines_and_most_of_their_classes(tmp_path):
    listing = write_dataset("cells", tmp_path / "set", slides=3, fields=2, size=512)
    names = json.loads(listing.read_text())["class_names"]
    found = {"wsa": [], "ssa": []}
    for item in items_of(listing):
        instances, classes = (tifffile.imread(listing.parent / item[key]) for key in ("label", "classes"))
        truth = nucleus_labels(instances, classes, names)
        for quality, right in found.items():
            features = read_geojson(listing.parent / item["annotations"][quality], nuclei=True)
            drawn = polygons_to_mask(features.geometry, instances.shape)
            assert np.array_equal(drawn, (instances > 0) & (classes != CellClass.LOOKALIKE))
            said = nucleus_labels(instances, features, names)
            assert set(said[truth == "lookalike"]) <= {BACKGROUND}
            right.append((said == truth)[truth != "lookalike"])
    right = {quality: np.concatenate(values) for quality, values in found.items()}
    spread = 3 * 0.5 / np.sqrt(len(right["wsa"]))
    assert right["wsa"].mean() == pytest.approx(1 - WSA_NOISE, abs=spread)
    assert right["ssa"].mean() == pytest.approx(1 - SSA_NOISE, abs=spread)
    assert right["ssa"][right["wsa"]].all()


def test_nuclei_set_has_images_with_and_without(listing_of):
    listing, _ = listing_of("nuclei")
    items = items_of(listing)
    assert [item["has_nuclei"] for item in items] == [1, 0] * 6
    for item in items:
        assert bool(tifffile.imread(listing.parent / item["label"]).any()) == bool(item["has_nuclei"])


@pytest.mark.slow
def test_data_set_is_reproducible_and_replaces_only_its_own(tmp_path):
    small = {"slides": 3, "fields": 1, "size": 64}
    first = write_dataset("mitosis", tmp_path / "a", **small)
    second = write_dataset("mitosis", tmp_path / "b", **small)
    files = sorted(p.relative_to(first.parent) for p in first.parent.rglob("*") if p.is_file())
    assert len(files) == 3 * 4 + 1
    assert all((first.parent / f).read_bytes() == (second.parent / f).read_bytes() for f in files)
    with pytest.raises(InputError, match="overwrite"):
        write_dataset("mitosis", tmp_path / "a", **small)
    third = write_dataset("mitosis", tmp_path / "a", **{**small, "fields": 2}, overwrite=True)
    assert third.read_bytes() != second.read_bytes()
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter.txt").write_text("years of work")
    with pytest.raises(InputError, match="thesis"):
        write_dataset("mitosis", foreign, **small, overwrite=True)
    assert (foreign / "chapter.txt").exists()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("unknown method", {"method": "mitoses"}),
        ("small size", {"size": 63}),
        ("too few slides to split", {"slides": 2}),
        ("no field", {"fields": 0}),
    ],
)
def test_bad_request_is_refused(tmp_path, name, change):
    with pytest.raises(InputError):
        write_dataset(**{"method": "mitosis", "dst": tmp_path / "set", **change})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "stains",
    [np.ones((2, 3)), np.zeros((3, 2)), np.ones((3, 2)), -STAINS],
    ids=["shape", "zero", "parallel", "negative"],
)
def test_bad_stains_are_refused(stains):
    with pytest.raises(InputError, match="stain"):
        phantom_slide(1, stains=stains)


# ---- geometry


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**40), wavelength=st.floats(3, 300), y=st.integers(-(10**5), 10**5), x=st.integers(0, 10**6)
)
def test_noise_at_points_equals_noise_on_the_grid(seed, wavelength, y, x):
    rows, columns = y + np.arange(7) * 1.7, x + np.arange(5) * 2.3
    grid = grid_noise(seed, "a", wavelength, rows, columns)
    points = point_noise(seed, "a", wavelength, *(a.astype(float) for a in np.meshgrid(rows, columns, indexing="ij")))
    np.testing.assert_allclose(grid, points, atol=1e-4)


def test_noise_has_unit_variance():
    axis = np.arange(0, 4000, 2.0)
    noise = grid_noise(1, "a", 10, axis, axis)
    assert noise.mean() == pytest.approx(0, abs=0.02)
    assert noise.std() == pytest.approx(1, abs=0.03)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), radius=st.floats(5, 500), inset=st.floats(0, 2))
def test_ring_follows_the_outline(seed, radius, inset):
    blob = Blob.draw(np.random.default_rng(seed), 30.0, -20.0, radius)
    y, x, _ = blob.ring(7.0, inset)
    depth = blob.depth(y, x)
    assert np.abs(depth - inset).max() < 0.35 * inset + 0.02 * radius
    assert (np.hypot(y - blob.y, x - blob.x) <= blob.reach * 1.001).all()
    far = blob.reach * 1.01
    assert blob.depth(np.array([blob.y + far]), np.array([blob.x]))[0] < 0


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), y=st.floats(0, 1e5), x=st.floats(0, 1e5))
def test_structures_do_not_depend_on_the_window(seed, y, x):
    tissue = Tissue(vessels=0.5, glands=0.4)
    wide = {s.label: s for s in structures_in(seed, tissue, (y, x, y + 600, x + 600))}
    for shape in structures_in(seed, tissue, (y + 200, x + 200, y + 400, x + 400)):
        assert wide[shape.label].outline.radius == shape.outline.radius
    centres = np.array([(s.outline.y, s.outline.x) for s in wide.values()]).reshape(-1, 2)
    reach = np.array([s.outline.reach for s in wide.values()])
    distance = np.hypot(*(centres[:, None] - centres[None]).transpose(2, 0, 1)) + 1e9 * np.eye(len(centres))
    assert (distance > 0.9 * (reach[:, None] + reach[None])).all()
