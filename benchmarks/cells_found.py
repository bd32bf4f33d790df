"""Cells that the correlation filter finds when stains are stronger or weaker than in its templates.

``python benchmarks/cells_found.py`` draws vessels of the phantom, changes the concentrations of hematoxylin and eosin
by 40 and 50 %, and prints for absolute and for mean-subtracted windows, each as it is and after Macenko's
normalisation, the share of cancerous cells that are found: those with a found cell within half a cell's diameter.
Every filter's least response is chosen on other slides, with stains unchanged, so that all have the same number of
false alarms: cells found where no nucleus is, per mm2 of the vessels' lumen. What they are with changed stains is
beside the share.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import cKDTree

from monai_ext.base.stain import HE_STAINS, SOURCE_INTENSITY, unmix
from monai_ext.phantom import Blood, CellClass, Tissue, phantom_field, phantom_slide
from monai_ext.transforms import KCFPseudoMask, MacenkoNormalize

TEMPLATES = Path(__file__).parents[1] / "bundles/pathology_mvi_vessel_classification/models/templates"
CHANGES = [(1, 1), (0.5, 0.5), (0.6, 0.6), (1.4, 1.4), (1.5, 1.5)]
SIDE, MPP, NEAR = 400, 0.5, 4
LEAST = 0.02  # of the responses that are looked at


def scene(seed):
    """Image, lumen, middles of cancerous cells, and how far each pixel is from a nucleus."""
    size = {"pitch": 190, "radius": (65, 70)}
    tissue = Tissue(tumour=0.3, glands=0, vessels=1, invaded=0.5, mitoses=0, blood=Blood(), **size)
    slide = phantom_slide(seed, mpp=MPP, tissue=tissue)
    view = phantom_field((SIDE, SIDE), slide=slide)
    lumen = ndimage.binary_erosion(view.vessel, iterations=int(6 / MPP))
    points = view.points(CellClass.TUMOUR)
    image = np.moveaxis(view.image, -1, 0)
    return image, lumen, points[lumen[tuple(points.T)]], ndimage.distance_transform_edt(view.instances == 0)


def stained(image, hematoxylin, eosin):
    """The image with other concentrations."""
    vectors = torch.tensor(HE_STAINS, dtype=torch.float64)
    vectors = vectors / vectors.norm(dim=0)
    amounts = unmix(vectors).numpy()
    matrix = np.eye(3) + vectors.numpy() @ np.diag([hematoxylin - 1, eosin - 1]) @ amounts
    white = 255 * SOURCE_INTENSITY
    density = -np.log(np.maximum(image, 1) / white).reshape(3, -1)
    return (white * np.exp(-matrix @ density)).clip(0, 255).round().astype(np.uint8).reshape(image.shape)


def found(find, scenes, change, normalise):
    """Of all scenes the responses of cells in lumens, whether each is a false alarm; and each true cell's response."""
    alarms, hits, area = [], [], 0
    for image, lumen, points, distance in scenes:
        pixels = stained(image, *change)
        pixels = MacenkoNormalize()(np.where(lumen, pixels, 255)) if normalise else pixels
        cells = find.points(np.where(lumen, pixels, 255).astype(np.uint8)).numpy()
        cells = cells[lumen[tuple(cells[:, :2].astype(int).T)]]
        alarms += cells[distance[tuple(cells[:, :2].astype(int).T)] > NEAR, 2].tolist()
        near = cKDTree(cells[:, :2]).query_ball_point(points, find.cell_size / 2)
        hits += [cells[which, 2].max() if which else 0 for which in near]
        area += lumen.sum() * (MPP / 1000) ** 2
    return np.array(alarms), np.array(hits), area


def main(templates, count=4):
    """Print the table."""
    chosen, judged = ([scene(first + n) for n in range(count)] for first in (100, 200))
    bar = None
    print("found, % (false alarms per mm2)   least " + " ".join(f"   {h:g}H {e:g}E" for h, e in CHANGES))
    for means in (False, True):
        find = KCFPseudoMask(templates, least=LEAST, threshold=LEAST, subtract_mean=means)
        for normalise in (False, True):
            alarms, _, area = found(find, chosen, (1, 1), normalise)
            bar = (alarms >= 0.3).sum() if bar is None else bar
            least = np.sort(alarms)[::-1][bar] if bar < len(alarms) else LEAST
            cells = []
            for change in CHANGES:
                alarms, hits, area = found(find, judged, change, normalise)
                cells.append(f"{100 * (hits > least).mean():5.0f} ({(alarms > least).sum() / area:3.0f})")
            name = f"{'mean subtracted' if means else 'absolute'}{', Macenko' if normalise else ''}"
            print(f"{name:32} {least:6.2f}  " + " ".join(cells), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:] or [TEMPLATES])
