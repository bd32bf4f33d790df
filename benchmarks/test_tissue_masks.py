"""Tissue masks where slides are not as they should be: casts, ink, faded stain, fat, folds, dirt, black and white.

Pieces of phantom tissue at 4 um/px, whose outlines are known, are scanned under each circumstance; a mask's Dice with
the tissue that is truly there is printed, the mean of three slides. Where there is no tissue the share of the slide
that the mask takes for it is printed instead. Peers, as scikit-image writes them: Otsu's threshold of the saturation
after a median and with gaps closed (CLAM's way), and of the grey values (TIAToolbox's ``OtsuTissueMasker``).

``pytest benchmarks/test_tissue_masks.py -s`` prints the table. With ``MONAI_EXT_DATA`` also the real slide, whose
truth nobody knows: there each mask under a cast is compared with the same method's mask of the slide as it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt
from skimage.color import rgb2gray, rgb2hsv
from skimage.filters import median, threshold_otsu
from skimage.morphology import closing

from monai_ext.formats.tissue import tissue_mask
from monai_ext.phantom.field import phantom_field
from monai_ext.phantom.optics import Scanner, beer_lambert
from monai_ext.phantom.painting import Canvas
from monai_ext.phantom.slide import phantom_slide

MPP = 4.0
SHAPE = (768, 1152)
SEEDS = (0, 1, 2)
CASTS = {  # which of red, green and blue are dimmed
    "blue": (1, 0.85, 0),
    "cyan": (1, 0, 0),
    "green": (1, 0, 0.9),
    "yellow": (0, 0.2, 1),
    "orange": (0, 0.5, 1),
    "pink": (0, 1, 0.3),
    "violet": (0.5, 1, 0),
}
INKS = {  # optical density of red, green and blue where a marker's stroke is thick
    "blue": (1.9, 1.1, 0.3),
    "navy": (2.1, 1.6, 0.9),
    "green": (1.7, 0.6, 1.2),
    "black": (2.1, 2.15, 1.9),
    "red": (0.15, 2.4, 1.6),
}


class Scene:
    """A phantom slide before it is scanned.

    Attributes:
        density: ``(H, W, 2)`` hematoxylin and eosin.
        tissue: ``(H, W)`` bool, what lies within the pieces' ragged outlines.
    """

    def __init__(self, seed: int, glass: bool = True) -> None:
        self.slide = phantom_slide(seed, mpp=MPP, size=SHAPE if glass else None)
        self.density = phantom_field(SHAPE, slide=self.slide).density
        outline = Canvas(self.slide, range(SHAPE[0]), range(SHAPE[1]))
        outline.hematoxylin[:] = 1
        outline.glass()
        self.tissue = outline.hematoxylin > 0.5
        self.rng = np.random.default_rng(seed)
        self.y, self.x = np.mgrid[: SHAPE[0], : SHAPE[1]]

    def scan(
        self,
        white: tuple[float, float, float] | None = None,
        density: np.ndarray | None = None,
        ink: np.ndarray | float = 0.0,
    ) -> np.ndarray:
        """uint8 ``(H, W, 3)``: light of a colour through tissue and ink (optical density of each colour)."""
        density = self.density if density is None else density
        light = beer_lambert(density, self.slide.stains, white or self.slide.scanner.white) * np.exp(-np.asarray(ink))
        return Scanner(blur=1.0, noise=1.5, jpeg=80)(light.astype(np.float32), MPP, self.rng)

    def noise(self, scale: float) -> np.ndarray:
        """``(H, W)`` of unit deviation, smooth over ``scale`` px."""
        field = cv2.GaussianBlur(self.rng.standard_normal(SHAPE), (0, 0), scale)
        return field / field.std()


def cast(scene: Scene, colour: str, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Glass whose colours differ by ``strength`` grey values."""
    white = tuple(244 - strength * share for share in CASTS[colour])
    return scene.scan(white), scene.tissue


def uneven(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Bluish light that falls off towards the corners."""
    image = scene.scan((216, 221, 244))
    fall = 1 - 0.08 * np.hypot(scene.y / SHAPE[0] - 0.5, scene.x / SHAPE[1] - 0.5)
    return (image * fall[..., None]).astype(np.uint8), scene.tissue


def pen(scene: Scene, colour: str, over_tissue: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """A marker's strokes of about .25 mm: a ring around the slide's middle, or a cross over tissue."""
    middle, reach = (SHAPE[0] / 2, SHAPE[1] / 2), min(SHAPE) * 0.47
    wave = 6 * scene.noise(40)
    if over_tissue:
        across = np.minimum(np.abs(scene.y - middle[0] + wave), np.abs(scene.x - SHAPE[1] * 0.25 + wave))
    else:
        across = np.abs(np.hypot(scene.y - middle[0], (scene.x - middle[1]) * 0.68) - reach + wave)
    stroke = 1 / (1 + np.exp(np.clip((across - 30) / 1.5, -30, 30))) * np.clip(1 + 0.2 * scene.noise(6), 0.4, None)
    image = scene.scan(ink=stroke[..., None] * np.array(INKS[colour]))
    return image, scene.tissue & (stroke < 0.3)


def faded(scene: Scene, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Tissue that has lost most of its stain."""
    return scene.scan(density=scene.density * share), scene.tissue


def fat(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Half of each piece is fat: cells of 80 um, empty but for walls of 4 um of stroma."""
    spots = scene.rng.random(SHAPE) < 1 / 20**2
    nearest = distance_transform_edt(~spots, return_distances=False, return_indices=True)
    cells = (nearest[0] * SHAPE[1] + nearest[1]).astype(np.float64)
    edge = (np.diff(cells, axis=0, append=0) != 0) | (np.diff(cells, axis=1, append=0) != 0)
    adipose = scene.noise(80) > 0
    density = np.where(adipose[..., None], edge[..., None] * np.array([0.15, 0.7]), scene.density)
    return scene.scan(density=density * scene.tissue[..., None]), scene.tissue


def folds(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Bands in which tissue lies threefold."""
    fold = np.exp(-((scene.noise(50) / 0.12) ** 2))
    return scene.scan(density=scene.density * (1 + 2 * fold[..., None])), scene.tissue


def dark(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Tissue full of nuclei, overstained."""
    extra = scene.tissue[..., None] * np.array([1.0, 0.1]) * (1 + 0.3 * scene.noise(3))[..., None]
    return scene.scan(density=scene.density * 1.3 + np.clip(extra, 0, None)), scene.tissue


def margins(scene: Scene, value: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames and a corner that were never scanned."""
    image, outside = scene.scan((214, 219, 244) if value else None), np.ones(SHAPE, bool)
    outside[60:-60, 100:-100] = False
    outside[:300, :300] = True
    image[outside] = value
    return image, scene.tissue & ~outside


def dust(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Specks and fibres, grey and brownish, on the glass."""
    specks = cv2.GaussianBlur((scene.rng.random(SHAPE) < 3e-4).astype(np.float32), (0, 0), 1.6) * 20
    fibres = np.exp(-((scene.noise(30) / 0.01) ** 2)) * (scene.noise(60) > 1.2) * 1.2
    grain = np.minimum(specks + fibres, 2)[..., None] * np.array([0.85, 0.95, 1.05])
    return scene.scan(ink=grain), scene.tissue


def coverslip(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Edges of the coverslip as dark lines, greenish glass beyond them, and an air bubble's rim."""
    edge = np.minimum(np.abs(scene.x - 60), np.abs(scene.y - 40))
    bubble = np.abs(np.hypot(scene.y - SHAPE[0] * 0.9, scene.x - SHAPE[1] * 0.93) - 60)
    line = 0.9 * np.exp(-((edge / 3) ** 2)) + 1.2 * np.exp(-((bubble / 4) ** 2))
    beyond = ((scene.x < 60) | (scene.y < 40))[..., None] * np.array([0.08, 0.04, 0.06])
    return scene.scan(ink=line[..., None] * np.array([1.0, 0.97, 0.95]) + beyond), scene.tissue


def blank(scene: Scene, white: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """No tissue at all."""
    return scene.scan(white, density=np.zeros_like(scene.density)), np.zeros(SHAPE, bool)


CIRCUMSTANCES: dict[str, Callable[[Scene], tuple[np.ndarray, np.ndarray]]] = {
    "as it should be": lambda scene: (scene.scan(), scene.tissue),
    **{
        f"{colour} cast, {strength}": lambda scene, colour=colour, strength=strength: cast(scene, colour, strength)
        for colour in CASTS
        for strength in (15, 34, 50)
    },
    "blue cast, uneven": uneven,
    **{f"{colour} pen": lambda scene, colour=colour: pen(scene, colour) for colour in INKS},
    **{
        f"{colour} pen over tissue": lambda scene, colour=colour: pen(scene, colour, True)
        for colour in ("blue", "green")
    },
    "faded to a third": lambda scene: faded(scene, 0.33),
    "faded to a sixth": lambda scene: faded(scene, 0.16),
    "half of it fat": fat,
    "folds": folds,
    "full of nuclei": dark,
    "black margins": lambda scene: margins(scene, 0),
    "white margins, blue cast": lambda scene: margins(scene, 255),
    "dust": dust,
    "coverslip's edges": coverslip,
}
FULL = {
    "no glass": lambda scene: (scene.scan(), scene.tissue),
    "no glass, faded to a third": lambda scene: faded(scene, 0.33),
}
EMPTY = {
    "white slide": lambda scene: blank(scene, (243, 242, 244)),
    "white slide, blue cast, 34": lambda scene: blank(scene, (210, 215, 244)),
    "white slide, pink cast, 34": lambda scene: blank(scene, (244, 210, 234)),
}


def ours(image: np.ndarray) -> np.ndarray:
    """The mask that slides are computed by."""
    return tissue_mask(np.moveaxis(image, -1, 0), MPP)


def saturation_otsu(image: np.ndarray) -> np.ndarray:
    """CLAM's way."""
    saturation = median(np.round(rgb2hsv(image)[..., 1] * 255).astype(np.uint8), np.ones((7, 7)))
    return closing(saturation > threshold_otsu(saturation), np.ones((4, 4))) if np.ptp(saturation) else saturation > 255


def grey_otsu(image: np.ndarray) -> np.ndarray:
    """TIAToolbox's way."""
    grey = rgb2gray(image)
    return grey < threshold_otsu(grey) if np.ptp(grey) else grey < 0


METHODS = {"ours": ours, "saturation": saturation_otsu, "grey": grey_otsu}


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    """Dice of two masks; of no tissue the share that is not taken for it."""
    return float(2 * (mask & truth).sum() / (mask.sum() + truth.sum())) if truth.any() else float(1 - mask.mean())


@pytest.fixture(scope="module")
def scenes() -> dict[str, list[Scene]]:
    return {"glass": [Scene(seed) for seed in SEEDS], "full": [Scene(seed, glass=False) for seed in SEEDS[:1]]}


@pytest.mark.benchmark(group="tissue masks")
@pytest.mark.parametrize("name", METHODS)
def test_speed(benchmark, scenes, name):
    benchmark(METHODS[name], scenes["glass"][0].scan())


def test_dice(scenes):
    kinds = {"glass": CIRCUMSTANCES, "full": FULL, "empty": EMPTY}
    print(f"\n{'':30}" + "".join(f"{name:>12}" for name in METHODS))
    means = {}
    for kind, circumstances in kinds.items():
        for name, make in circumstances.items():
            pairs = [make(scene) for scene in scenes["glass" if kind == "empty" else kind]]
            means[name] = [np.mean([dice(method(*pair[:1]), pair[1]) for pair in pairs]) for method in METHODS.values()]
            print(f"{name:30}" + "".join(f"{value:12.3f}" for value in means[name]))
            if folder := os.environ.get("MONAI_EXT_PICTURES"):
                picture = pairs[0][0].copy()
                picture[ours(pairs[0][0]) != pairs[0][1]] = (255, 255, 0)
                cv2.imwrite(str(Path(folder, f"{name}.png")), np.hstack([pairs[0][0], picture])[..., ::-1])
    print(f"{'least':30}" + "".join(f"{least:12.3f}" for least in np.min(list(means.values()), axis=0)))


@pytest.mark.skipif("MONAI_EXT_DATA" not in os.environ, reason="needs the real slide")
def test_real_slide_under_casts():
    from monai_ext.formats.reader import SlideReader

    path = Path(os.environ["MONAI_EXT_DATA"], "slides", "CMU-1-Small-Region.svs")
    image = np.moveaxis(SlideReader(path).thumbnail(MPP), 0, -1)
    plain = {name: method(image) for name, method in METHODS.items()}
    print(f"\n{'':30}" + "".join(f"{name:>12}" for name in METHODS))
    for colour, shares in CASTS.items():
        for strength in (15, 34, 50):
            tinted = np.rint(image * (1 - strength * np.array(shares) / 244)).astype(np.uint8)
            values = [dice(method(tinted), plain[name]) for name, method in METHODS.items()]
            print(f"{f'{colour} cast, {strength}':30}" + "".join(f"{value:12.3f}" for value in values))
