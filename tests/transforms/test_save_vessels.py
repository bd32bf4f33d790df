"""From an inference over vessels to files: of images that are vessels, and of the vessels of a slide."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest
import shapely
import tifffile
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.handlers import PostProcessing
from monai.transforms import Compose, FlattenSubKeysd
from torch import nn

from monai_ext.base.errors import DataListError, InputError
from monai_ext.data import (
    Cohort,
    Features,
    check_vessel_image,
    check_vessel_item,
    read_geojson,
    vessel_items,
    write_geojson,
)
from monai_ext.handlers import VesselSummary
from monai_ext.inferers import ChunkInferer
from monai_ext.transforms import CellGridMosaicd, CutCellPatchesd, DiagnoseVesseld, LoadVesseld, SaveVesseld
from monai_ext.transforms.diagnose_vessel import VesselDiagnosis
from monai_ext.transforms.save_vessels import _picture

PATCH, GRID = 10, 3
RED, GREY = (230, 20, 20), (120, 120, 120)
ABS = 1e-6


class ByColour(nn.Module):
    """A patch whose pixels are red is cancerous; a vessel with one is invaded."""

    def forward(self, mosaics):
        red = mosaics[:, :1] - mosaics[:, 1:2] > 50
        share = nn.functional.avg_pool2d(red.float(), 4)
        return {
            "p_loc": torch.cat([torch.zeros_like(share), 1 - share, share], 1),
            "score": share.amax((1, 2, 3))[:, None],
        }


def find(data):
    """A cell in the middle of every patch that is not white."""
    image = np.asarray(data["image"])
    rows, cols = (np.arange(PATCH // 2, side, PATCH) for side in image.shape[1:])
    points = np.array([[r, c, 1, 0] for r in rows for c in cols if (image[:, r, c] < 255).any()], np.float32)
    points = points.reshape(-1, 4)
    mask = np.zeros((1, *image.shape[1:]), bool)
    mask[0, points[:, 0].astype(int), points[:, 1].astype(int)] = True
    return {**data, "cell_mask": mask, "cell_points": torch.from_numpy(points)}


def infer(source, output, outlines=None, mpp=None, least=1, slide_threshold=0.5, **options):
    check = lambda *given: check_vessel_image(*given, outlines, least)  # noqa: E731
    cohort = Cohort(source, output, mpp, check=check, **options)
    cut = CutCellPatchesd("image", PATCH / 3, patch=4)
    steps = [
        LoadVesseld("image", mpp=mpp, source_key="source"),
        find,
        cut,
        CellGridMosaicd("image", GRID, False, stack=True),
    ]
    post = Compose([FlattenSubKeysd("pred"), DiagnoseVesseld()])
    write = SaveVesseld("diagnosis", cohort, output)

    items = vessel_items(cohort.items, outlines, mpp, least=least)
    loader = DataLoader(Dataset(items, Compose(steps)), batch_size=1)
    prepare = lambda batch, *_, **__: (batch["image"].float(), None)  # noqa: E731
    SupervisedEvaluator(
        "cpu",
        loader,
        ByColour(),
        prepare_batch=prepare,
        inferer=ChunkInferer(2),
        postprocessing=post,
        val_handlers=[PostProcessing(write), VesselSummary(output, slide_threshold=slide_threshold)],
    ).run()
    cohort.close()
    return pd.read_csv(output / "summary.csv"), pd.read_csv(output / "slides.csv")


def picture(rows, cols, red):
    """Patches of grey, some red; no two pixels of a patch alike, as those of one colour count as blank."""
    image = np.empty((rows * PATCH, cols * PATCH, 3), np.uint8)
    image[:] = GREY
    for row, col in red:
        image[row * PATCH : (row + 1) * PATCH, col * PATCH : (col + 1) * PATCH] = RED
    image[::2] -= 1
    return image


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image[..., ::-1])


def test_images_of_vessels(tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    save(source / "s1/a.png", picture(4, 5, [(0, 1), (3, 4)]))  # 20 patches: three mosaics
    save(source / "s1/b.png", picture(2, 2, []))
    save(source / "s2/c.png", np.full((PATCH, PATCH, 3), 255, np.uint8))  # no cell at all
    vessels, slides = infer(source, output)
    assert vessels[["slide", "vessel", "invaded"]].to_numpy().tolist() == [
        ["s1", "a", True],
        ["s1", "b", False],
        ["s2", "c", False],
    ]
    assert vessels[["cells", "suspicious_cells", "patches", "cancerous_patches"]].to_numpy().tolist() == [
        [20, 2, 20, 2],
        [4, 0, 4, 0],
        [0, 0, 0, 0],
    ]
    assert slides[["slide", "vessels", "invaded", "suspicious_cells", "verdict"]].to_numpy().tolist() == [
        ["s1", 2, 1, 2, "MVI"],
        ["s2", 1, 0, 0, "no MVI found"],
    ]
    _, slides = infer(source, tmp_path / "strict", slide_threshold=1.0)
    assert slides[["invaded", "verdict"]].to_numpy().tolist() == [[1, "no MVI found"], [0, "no MVI found"]]
    classes = cv2.imread(str(output / "s1/a_classes.png"), cv2.IMREAD_UNCHANGED)
    expected = np.ones((40, 50), np.uint8)
    expected[:10, 10:20] = expected[30:, 40:] = 2
    np.testing.assert_array_equal(classes, expected)
    assert not cv2.imread(str(output / "s2/c_classes.png"), cv2.IMREAD_UNCHANGED).any()
    features = read_geojson(output / "s1/a.geojson")
    patches = features.geometry[features.classes == "Cancerous patch"]
    assert sorted(patch.bounds for patch in patches) == [(10, 0, 20, 10), (40, 30, 50, 40)]
    tumour = shapely.get_coordinates(features.geometry[features.classes == "Tumor"]).tolist()
    assert sorted(tumour) == [[15.5, 5.5], [45.5, 35.5]]
    assert (features.classes == "Healthy cell").sum() == 18
    assert features.geometry[features.classes == "Invaded vessel"][0].bounds == (0, 0, 50, 40)
    assert {entry["status"] for entry in json.loads((output / "state.json").read_text()).values()} == {"done"}
    assert "<html" in (output / "report.html").read_text()
    assert cv2.imread(str(output / "s1/a_overlay.png")) is not None


@pytest.fixture
def slide(tmp_path):
    """Tissue with two vessels: one of 3 x 4 patches with a cancerous one, one of 2 x 2 patches without."""
    pixels = np.full((200, 300, 3), 180, np.uint8)
    pixels[50:80, 100:140] = picture(3, 4, [(1, 2)])
    pixels[150:170, 200:220] = picture(2, 2, [])
    path = tmp_path / "in/slide.tif"
    path.parent.mkdir()
    options = {"photometric": "rgb", "tile": (64, 64), "resolutionunit": "CENTIMETER", "metadata": None}
    tifffile.imwrite(path, pixels, resolution=(20000, 20000), **options)
    outlines = [shapely.box(200, 150, 220, 170), shapely.box(100, 50, 140, 80)]
    return path, Features(outlines, "Vessel", names=["small", None])


@pytest.mark.parametrize("given", [True, False], ids=["--outlines", "beside"])
def test_vessels_of_a_slide(slide, tmp_path, given):
    path, outlines = slide
    file = write_geojson(tmp_path / "v.geojson" if given else path.with_name("slide_vessels.geojson"), outlines)
    vessels, slides = infer(path, tmp_path / "out", file if given else None)
    assert vessels[["slide", "vessel", "invaded"]].to_numpy().tolist() == [
        ["slide", "vessel_0002", True],
        ["slide", "small", False],
    ]
    assert slides["verdict"].tolist() == ["MVI"]
    features = read_geojson(tmp_path / "out/slide.geojson")
    (patch,) = features.geometry[features.classes == "Cancerous patch"]
    assert patch.bounds == (120, 60, 130, 70)
    (cell,) = features.geometry[features.classes == "Tumor"]
    assert shapely.get_coordinates(cell).tolist() == [[125.5, 65.5]]
    (invaded,) = features.geometry[features.classes == "Invaded vessel"]
    assert invaded.bounds == (100, 50, 140, 80)
    assert list(features.names[features.classes == "Healthy vessel"]) == ["small"]
    assert (tmp_path / "out/slide/vessel_0002_overlay.png").is_file()
    assert cv2.imread(str(tmp_path / "out/slide/small_classes.png"), cv2.IMREAD_UNCHANGED).shape == (20, 20)


@pytest.mark.parametrize("target", [None, 1.0])
def test_a_lumen_may_be_drawn_in_qupath(tmp_path, target):
    """As the same lumen in a mask; the checks of a data list take either."""
    pixels = np.random.default_rng(0).integers(0, 200, (40, 60, 3), dtype=np.uint8)
    lumen = np.zeros((40, 60), np.uint8)
    lumen[10:30, 20:48] = 255
    for name, picture_ in (("a.png", pixels), ("m.png", lumen)):
        cv2.imwrite(str(tmp_path / name), picture_)
    write_geojson(tmp_path / "m.geojson", Features([shapely.box(20, 10, 48, 30)]))
    load = LoadVesseld("image", mpp=0.5, target_mpp=target)
    items = [
        {"image": str(tmp_path / "a.png"), "mask": str(tmp_path / f"m.{kind}"), "label": 0}
        for kind in ("png", "geojson")
    ]
    masked, drawn = map(load, items)
    assert sorted(masked) == sorted(drawn) == ["image", "label"]
    np.testing.assert_array_equal(masked["image"].numpy(), drawn["image"].numpy())
    assert (masked["image"] == 255).any()
    assert (masked["image"] != 255).any()
    assert [check_vessel_item(item) for item in items] == [[], []]
    write_geojson(tmp_path / "m.geojson", Features([shapely.box(200, 100, 210, 120)]))
    assert "empty mask" in check_vessel_item(items[1])[0]
    (tmp_path / "m.geojson").write_text("[")
    assert len(check_vessel_item(items[1])) == 1


@pytest.mark.parametrize("target", [None, 1.0])
def test_a_vessel_of_a_slide_lies_in_mm_where_it_is_there(slide, tmp_path, target):
    path, outlines = slide
    file = write_geojson(tmp_path / "v.geojson", outlines)
    load = LoadVesseld("image", mpp=0.5, target_mpp=target)
    image = load({"image": str(path), "outlines": str(file), "number": 1})["image"]
    scale = image.meta["scale"]
    assert scale == (target or 0.5) / 0.5
    np.testing.assert_allclose(image.pixdim[:2], 0.0005 * scale)
    row, col = image.meta["offset"]
    first = np.array([col + (scale - 1) / 2, row + (scale - 1) / 2]) * 0.0005
    np.testing.assert_allclose(image.affine.numpy() @ [0, 0, 0, 1], [*-first, 0, 1])


def test_names_of_outlines_stay_in_their_folder_and_apart(slide, tmp_path):
    path, outlines = slide
    shapes = [*outlines.geometry, *outlines.geometry, outlines.geometry[0]]
    names = ["../../../evil", "v", "v", "V", "a/b: c"]
    file = write_geojson(tmp_path / "v.geojson", Features(shapes, "Vessel", names=names))
    vessels, _ = infer(path, tmp_path / "out", file)
    assert set(vessels["vessel"]) == {"evil", "v", "v_2", "V_3", "a_b_c"}
    written = {p.name for p in tmp_path.rglob("*_overlay.png")}
    assert written == {p.name for p in (tmp_path / "out/slide").glob("*_overlay.png")}
    assert len(written) == len(names)


def test_a_slide_without_resolution_takes_the_one_given(slide, tmp_path):
    path, outlines = slide
    plain = path.with_name("plain.png")
    cv2.imwrite(str(plain), tifffile.imread(path)[..., ::-1])
    file = write_geojson(tmp_path / "v.geojson", outlines)
    vessels, _ = infer(plain, tmp_path / "out", file, mpp=0.5)
    assert sorted(vessels["invaded"]) == [False, True]


def test_outlines_that_hold_nothing_do_not_stop_the_others(slide, tmp_path, capsys):
    path, outlines = slide
    between = shapely.box(30.6, 20.1, 30.8, 55.3)  # as narrow as that it holds no pixel's centre
    speck = shapely.box(10, 10, 13, 13)
    features = Features([*outlines.geometry, speck, between], "Vessel", names=["a", "b", "speck", "thin"])
    file = write_geojson(tmp_path / "v.geojson", features)
    vessels, _ = infer(path, tmp_path / "all", file)
    assert vessels.set_index("vessel").loc["thin", ["invaded", "probability", "patches"]].tolist() == [False, 0, 0]
    vessels, _ = infer(path, tmp_path / "out", file, least=PATCH)
    assert set(vessels["vessel"]) == {"a", "b"}
    assert "v.geojson: 2 outlines narrower than 10 px left out" in capsys.readouterr().err


def test_images_smaller_than_a_template_are_left_out(tmp_path):
    save(tmp_path / "in/a.png", picture(2, 2, []))
    save(tmp_path / "in/b.png", picture(1, 1, []))
    with pytest.raises(SystemExit):
        infer(tmp_path / "in", tmp_path / "out", least=PATCH + 1)
    state = json.loads((tmp_path / "out/state.json").read_text())
    (reason,) = (entry["reason"] for entry in state.values() if entry["status"] == "failed")
    assert "b.png: expected a vessel of at least 11 px a side, as the largest template, found 10 x 10 px" in reason


def test_masks_that_do_not_fit_are_named_together(tmp_path):
    for name in "ab":
        save(tmp_path / f"{name}.png", picture(2, 2, []))
        save(tmp_path / f"{name}_mask.png", np.full((20, 21), 255, np.uint8))
    items = [{"image": str(tmp_path / f"{n}.png"), "mask": str(tmp_path / f"{n}_mask.png")} for n in "ab"]
    with pytest.raises(DataListError, match=r"a_mask.png: expected a mask of its image's size(.|\n)*b_mask.png"):
        vessel_items(items)


def test_a_large_vessel_s_picture_is_small(tmp_path):
    diagnosis = VesselDiagnosis("v", 1.0, True, np.ones((3, 40, 60)) / 3, 1, np.zeros((0, 2)), 50, (2000, 3000))
    found = _picture(np.zeros((3, 2000, 3000), np.uint8), diagnosis, 400)
    assert max(found.shape) <= 404  # the gap included


def test_outlines_of_one_file_serve_one_image(slide, tmp_path):
    path, outlines = slide
    file = write_geojson(tmp_path / "v.geojson", outlines)
    with pytest.raises(InputError, match=r"--outlines: expected one image; for several, .* found 2 images"):
        vessel_items([{"image": str(path)}] * 2, file)


def test_a_slide_whose_outlines_do_not_fit_fails_and_the_rest_goes_on(slide, tmp_path):
    path, _ = slide
    write_geojson(path.with_name("slide_vessels.geojson"), Features([shapely.box(900, 900, 990, 990)]))
    save(path.with_name("v.png"), picture(2, 2, []))
    with pytest.raises(SystemExit):
        infer(path.parent, tmp_path / "out")
    state = json.loads((tmp_path / "out/state.json").read_text())
    assert {entry["status"] for entry in state.values()} == {"failed", "done"}
    reason = next(entry["reason"] for entry in state.values() if entry["status"] == "failed")
    assert "expected vessels inside" in reason


def test_oblong_pixels_and_two_resolutions(tmp_path):
    """Vessels are outlined in px of the file and lie there again; each of their rows names the second resolution."""
    pixels = picture(6, 12, [(1, 1), (4, 8)])[:, ::2]
    options = {"photometric": "rgb", "ome": True, "tile": (64, 64), "resolution": (1e4, 1e4)}
    size = {"axes": "YXS", "PhysicalSizeX": 1.0, "PhysicalSizeY": 0.5}
    tifffile.imwrite(tmp_path / "a.ome.tif", pixels, metadata=size, resolutionunit="CENTIMETER", **options)
    vessels = [shapely.box(0, 0, 30, 60), shapely.box(30, 0, 60, 60)]
    write_geojson(tmp_path / "a.ome_vessels.geojson", Features(vessels, names=["left", "right"]))
    table, _ = infer(tmp_path / "a.ome.tif", tmp_path / "out")
    conflict = "OME-XML states 1 x 0.5 (X, Y) um/px, TIFF tags 1 um/px; OME-XML is taken"
    assert table["warnings"].tolist() == [conflict] * 2
    assert conflict in (tmp_path / "out" / "report.html").read_text()
    assert table["cells"].tolist() == [36, 36]
    assert table["cancerous_patches"].tolist() == [1, 1]
    features = read_geojson(tmp_path / "out" / "a.ome.geojson")
    outlines = features[np.isin(features.classes.astype(str), ["Invaded vessel", "Healthy vessel"])]
    assert [outline.bounds for outline in outlines.geometry] == [vessel.bounds for vessel in vessels]
    patches = features[features.classes == "Cancerous patch"].geometry
    assert [patch.bounds for patch in patches] == [(5, 10, 10, 20), (40, 40, 45, 50)]
