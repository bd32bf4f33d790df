import cv2
import numpy as np
import pandas as pd
import pytest

from monai_ext.base.errors import InputError
from monai_ext.formats.image import read_field
from monai_ext.formats.reader import SlideReader
from monai_ext.formats.tissue import Tissue, tissue_mask
from tests.slides.conftest import paint

RNG = np.random.default_rng(0)
PINK = (205, 130, 180)
IOU = 0.97
FOUND = 0.97  # of patches


def canvas(colour, noise=2.0, shape=(300, 400)):
    image = np.array(colour)[:, None, None] + RNG.normal(0, noise, (3, *shape))
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("colour", "noise"),
    [
        ((255, 255, 255), 0),
        ((240, 240, 240), 3),
        ((245, 242, 231), 2),  # yellowish light
        ((236, 244, 240), 2),
        ((0, 0, 0), 0),
        ((4, 4, 4), 4),
        ((128, 128, 128), 3),
    ],
    ids=["white", "noisy glass", "yellow glass", "green glass", "black", "noisy black", "grey"],
)
@pytest.mark.parametrize("mpp", [1.0, 8.0])
def test_no_tissue(colour, noise, mpp):
    assert not tissue_mask(canvas(colour, noise), mpp).any()


@pytest.mark.parametrize("colour", [PINK, (120, 90, 160), (238, 200, 222)], ids=["eosin", "hematoxylin", "pale"])
def test_full_of_tissue(colour):
    assert tissue_mask(canvas(colour, 6), 8.0).all()


def test_pale_and_dark_tissue_are_both_tissue():
    image = canvas((240, 240, 240))
    image[:, 50:250, 50:200] = canvas((235, 195, 220), 4, (200, 150))
    image[:, 50:250, 200:350] = canvas((110, 70, 150), 4, (200, 150))
    expected = np.zeros((300, 400), bool)
    expected[50:250, 50:350] = True
    mask = tissue_mask(image, 8.0)
    assert (mask & expected).sum() / (mask | expected).sum() > IOU


@pytest.mark.parametrize("background", [(0, 0, 0), (255, 255, 255)], ids=["black", "white"])
def test_what_was_not_scanned_is_no_tissue(background):
    image = canvas((240, 238, 236))
    image[:, 100:200, 100:200] = canvas(PINK, 8, (100, 100))
    image[:, :, 300:] = np.array(background)[:, None, None]
    mask = tissue_mask(image, 8.0)
    assert not mask[:, 290:].any()
    assert mask[100:200, 100:200].mean() > IOU
    assert mask.sum() < 1.1 * 100 * 100


def test_dust_is_dropped_and_holes_are_filled():
    image = canvas((240, 240, 240))
    image[:, 50:250, 50:250] = canvas(PINK, 5, (200, 200))
    image[:, 140:155, 140:155] = 240  # a vessel, 120 um
    image[:, 20:24, 350:354] = canvas(PINK, 5, (4, 4))  # 32 um
    image[:, 100:200, 300:380] = 120  # grey: a pencil's shade
    mask = tissue_mask(image, 8.0)
    assert mask[60:240, 60:240].all()
    assert not mask[:, 260:].any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 2)])
def test_tiny(shape):
    assert tissue_mask(canvas(PINK, 0, shape), 60.0).all()
    assert not tissue_mask(canvas((250, 250, 250), 0, shape), 60.0).any()


def test_same_tissue_at_any_resolution():
    image = np.moveaxis(paint(1200, 1000), -1, 0)
    areas = [tissue_mask(image[:, ::k, ::k], float(k)).sum() * k**2 for k in (1, 2, 4, 8)]
    assert max(areas) / min(areas) < 1.05


@pytest.mark.real_data
def test_real_slide(real_data):
    reader = SlideReader(real_data / "slides" / "CMU-1-Small-Region.svs")
    masks = {}
    for mpp in (2.0, 8.0):
        scale = reader.thumbnail_scale(mpp)
        masks[mpp] = tissue_mask(reader.thumbnail(mpp), scale * 0.499)
        assert 0.35 < masks[mpp].mean() < 0.42
        row, col = (int(at / scale) for at in (1500, 1300))
        assert masks[mpp][row, col]
        row, col = (int(at / scale) for at in (2500, 200))
        assert not masks[mpp][row, col]


@pytest.mark.real_data
def test_real_metastases_are_tissue(real_data):
    """Patches cut out of their slide, of which the centre holds tumour; what is missed are fat cells' walls."""
    table = pd.read_csv(real_data / "pcam" / "train_labels.csv")
    paths = [real_data / "pcam" / "train" / f"{name}.tif" for name in table[table["label"] == 1]["id"][:300]]
    found = [tissue_mask(read_field(path).image, 1.0)[32:64, 32:64].any() for path in paths]
    assert np.mean(found) >= FOUND


@pytest.mark.real_data
def test_real_scanner_black_is_no_tissue(real_data):
    path = real_data / "pcam" / "train" / "00d0d08345178614ba03d28e0e4253458fb0e690.tif"
    assert not tissue_mask(read_field(path).image, 1.0).any()


@pytest.mark.parametrize(
    ("scale", "size"), [(1.0, 1.0), (3.7, 1.0), (3.7, 8.0), (16.03, 8.0), (16.03, 40.0), (7, 96.0)]
)
def test_cells_touch_tissue(scale, size):
    """Against every px of the mask looked at on its own."""
    mask = RNG.random((13, 17)) < 0.1
    rows, cols = (np.arange(int(side * scale / size) + 2) * size for side in mask.shape)
    touched = Tissue(mask, scale).touched(rows, cols)
    expected = np.zeros_like(touched)
    for row, col in np.argwhere(mask):
        for i in range(expected.shape[0]):
            for j in range(expected.shape[1]):
                down = min((row + 1) * scale, rows[i + 1]) - max(row * scale, rows[i])
                right = min((col + 1) * scale, cols[j + 1]) - max(col * scale, cols[j])
                expected[i, j] |= min(down, right) > 1e-6 * scale
    inside = np.s_[: int(13 * scale / size), : int(17 * scale / size)]
    np.testing.assert_array_equal(touched[inside], expected[inside])
    assert (touched >= expected).all()  # a cell beyond the mask goes by the mask's edge
    assert Tissue(mask, scale).count(rows, cols) == touched.sum()


def test_area():
    assert Tissue(np.ones((10, 20), bool), 16.0).area_mm2(0.25) == pytest.approx(200 * (16 * 0.25) ** 2 * 1e-6)


CASTS = {"blue": (210, 215, 244), "green": (210, 244, 215), "yellow": (244, 238, 200), "pink": (244, 210, 230)}


def on_glass(glass, colour=PINK):
    image = canvas(glass)
    image[:, 100:200, 150:250] = canvas(np.multiply(colour, glass) / 240, 8, (100, 100))
    return image


@pytest.mark.parametrize("glass", CASTS.values(), ids=CASTS)
@pytest.mark.parametrize("mpp", [2.0, 8.0])
def test_tinted_glass_is_no_tissue(glass, mpp):
    assert not tissue_mask(canvas(glass), mpp).any()
    mask, plain = (tissue_mask(on_glass(white), mpp) for white in (glass, (240, 240, 240)))
    assert (mask != plain).mean() < 0.005


@pytest.mark.parametrize("colour", [(205, 130, 180), (150, 110, 180), (225, 175, 205)])
def test_tissue_without_glass_is_no_tinted_glass(colour):
    """A texture has no colour that is sharply the most frequent one."""
    texture = cv2.GaussianBlur(RNG.normal(0, 40, (300, 400)), (0, 0), 2)
    image = np.clip(np.array(colour)[:, None, None] + texture, 0, 255).astype(np.uint8)
    assert tissue_mask(image, 8.0).all()


def test_white_margins_are_not_the_white_point():
    image = on_glass(CASTS["blue"])
    image[:, :40] = 255
    image[:, :, 350:] = 255
    mask = tissue_mask(image, 8.0)
    assert mask[105:195, 155:245].all()
    assert mask.sum() < 1.1 * 100 * 100


INKS = {
    "blue": (40, 80, 180),
    "navy": (30, 50, 100),
    "green": (45, 135, 75),
    "black": (60, 55, 66),
    "red": (210, 22, 50),
}


@pytest.mark.parametrize("ink", INKS.values(), ids=INKS)
def test_strokes_of_a_marker_are_no_tissue(ink):
    image = canvas((240, 240, 240))
    image[:, 100:200, 150:250] = canvas(PINK, 8, (100, 100))
    image[:, :, 40:70] = canvas(ink, 4, (300, 30))  # apart from it
    image[:, 140:160] = canvas(ink, 4, (20, 400))  # and across
    mask = tissue_mask(image, 8.0)
    assert not mask[:, :100].any()
    assert not mask[140:160].any()
    assert mask[105:130, 155:245].all()
    assert mask[170:195, 155:245].all()


@pytest.mark.parametrize(
    "colour", [(95, 70, 140), (60, 45, 120), (190, 70, 85), (90, 25, 60)], ids=["nuclei", "dense", "blood", "fold"]
)
def test_dark_and_red_tissue_is_no_ink(colour):
    image = on_glass((240, 240, 240), colour)
    assert tissue_mask(image, 8.0)[105:195, 155:245].all()


def test_spots_of_the_colour_of_ink_stay_tissue():
    image = on_glass((240, 240, 240))
    image[:, 140:150, 190:200] = np.array(INKS["blue"])[:, None, None]  # 80 um
    assert tissue_mask(image, 8.0)[105:195, 155:245].all()


@pytest.mark.parametrize("value", [0, 255, 90])
def test_nothing_depends_on_what_is_not_valid(value):
    image = on_glass((214, 218, 244))
    valid = np.ones(image.shape[1:], bool)
    valid[:, 200:] = valid[:80] = False
    valid[150:160, 160:170] = False
    expected = tissue_mask(image, 8.0, valid=valid)
    assert not expected[~valid].any()
    assert expected[105:145, 155:195].all()
    assert expected.sum() < 1.1 * 50 * 100
    other = image.copy()
    other[:, ~valid] = np.array([value, value // 3, value])[:, None]
    np.testing.assert_array_equal(tissue_mask(other, 8.0, valid=valid), expected)


def test_all_valid_is_as_none():
    image = on_glass((240, 240, 240))
    np.testing.assert_array_equal(
        tissue_mask(image, 8.0, valid=np.ones(image.shape[1:], bool)), tissue_mask(image, 8.0)
    )
    assert not tissue_mask(image, 8.0, valid=np.zeros(image.shape[1:], bool)).any()


def test_a_gap_that_reaches_what_was_not_scanned_is_no_hole():
    image = canvas(PINK, 6)
    image[:, 100:110, 100:130] = 240
    valid = np.ones(image.shape[1:], bool)
    assert tissue_mask(image, 8.0, valid=valid)[105, 115]
    valid[100:110, 128:140] = False
    mask = tissue_mask(image, 8.0, valid=valid)
    assert not mask[105, 115]
    assert mask[50, 50]


@pytest.mark.parametrize("valid", [np.ones((300, 400)), np.ones((400, 300), bool)], ids=["numbers", "another shape"])
def test_valid_is_a_mask_of_the_thumbnails_size(valid):
    with pytest.raises(InputError, match=r"valid: expected bool \(300, 400\)"):
        tissue_mask(canvas(PINK), 8.0, valid=valid)
