"""How far the two forms of dense inference differ: every window as its own patch, and maps shared by a tile.

Run from the repository's root::

    python benchmarks/agreement.py --dataset_dir DATA --slide SLIDE

``DATA`` is a data set of patches (``prepare pcam``), whose test list is laid out as one mosaic: each patch's score in
the shared form then depends on strangers beside it, which is harder than on a slide. ``SLIDE`` is any slide.
"""

from __future__ import annotations

from pathlib import Path

import fire
import numpy as np
import torch

from monai_ext.data.datalist import load_datalist
from monai_ext.formats.image import read_field
from monai_ext.inferers import ExactWindows, SharedWindows
from monai_ext.metrics.bootstrap import bootstrap_scores, weighted_auc
from monai_ext.networks import load_weights, read_convention
from monai_ext.networks.nets import CELNet
from monai_ext.slides import SlideReader

BUNDLE = Path(__file__).parents[1] / "bundles/pathology_metastasis_evidence_localization"
WINDOW = 96


def predictors(weights: str, step: int, context: int) -> dict[str, ExactWindows | SharedWindows]:
    """Both forms with the weights' own input."""
    convention = read_convention(weights)
    network = load_weights(CELNet(), weights)
    return {
        "exact": ExactWindows(network, WINDOW, step, convention),
        "shared": SharedWindows(network, step, context, convention),
    }


def padded(image: np.ndarray, margin: int) -> torch.Tensor:
    """A batch of one, with white around it."""
    return torch.from_numpy(np.pad(image, ((0, 0), (margin, margin), (margin, margin)), constant_values=255))[None]


def compare(exact: np.ndarray, shared: np.ndarray) -> str:
    """Correlation and differences in words."""
    gap = np.abs(exact - shared)
    same = np.mean((exact > 0.5) == (shared > 0.5))
    correlation = np.corrcoef(exact.ravel(), shared.ravel())[0, 1]
    differences = f"mean difference {gap.mean():.4f}, largest {gap.max():.3f}"
    return f"correlation {correlation:.4f}, {differences}, on the same side of .5 {same:.3f}"


def mosaic(dataset_dir: str, weights: str, context: int) -> None:
    """Patches of the test list side by side, as many as fill a rectangle."""
    items = load_datalist(dataset_dir, ["test"], check=None, path_keys=["image"])["test"]
    columns = int(len(items) ** 0.5)
    items = items[: len(items) // columns * columns]
    patches = np.stack([read_field(item["image"]).image for item in items])
    rows = len(items) // columns
    image = patches.reshape(rows, columns, *patches.shape[1:]).transpose(2, 0, 3, 1, 4)
    image = image.reshape(3, rows * WINDOW, columns * WINDOW)
    scores = {
        name: predict(padded(image, predict.margin))[0, 0].numpy()
        for name, predict in predictors(weights, WINDOW, context).items()
    }
    print(f"{len(items)} test patches in one mosaic: {compare(scores['exact'], scores['shared'])}")
    label, group = [item["label"] for item in items], [item["group"] for item in items]
    for name, score in scores.items():
        auc = bootstrap_scores([{"score": score.ravel(), "label": label, "group": group}], weighted_auc)
        print(f"  {name}: AUC {auc.value:.4f} [{auc.low:.4f}, {auc.high:.4f}]")


def slide_map(slide: str, weights: str, context: int, step: int) -> None:
    """The whole slide as one tile, and the shared form in tiles, for the seams."""
    reader = SlideReader(slide, 1.0)
    cells = [side // step // 2 * 2 for side in reader.shape]
    image = reader.read(0, 0, cells[0] * step, cells[1] * step)
    forms = predictors(weights, step, context)
    maps = {name: predict(padded(image, predict.margin))[0, 0].numpy() for name, predict in forms.items()}
    print(f"{Path(slide).name}, {maps['exact'].size} windows {step} px apart: {compare(maps['exact'], maps['shared'])}")
    shared, whole = forms["shared"], padded(image, forms["shared"].margin)
    half = [side // 2 for side in cells]
    reach = [side * step + 2 * shared.margin for side in half]
    tiles = [
        [shared(whole[..., r : r + reach[0], c : c + reach[1]])[0, 0].numpy() for c in (0, half[1] * step)]
        for r in (0, half[0] * step)
    ]
    gap = np.abs(np.block(tiles) - maps["shared"]).max()
    print(f"  shared form in four tiles against one pass: largest difference {gap:.1e}")


def main(
    dataset_dir: str, slide: str, weights: str = str(BUNDLE / "models/model.pt"), context: int = 96, step: int = 24
) -> None:
    """Print both comparisons.

    Args:
        dataset_dir: folder with ``dataset.json``.
        slide: a slide.
        weights: of CELNet.
        context: of the shared form, px.
        step: on the slide, px.
    """
    mosaic(dataset_dir, weights, context)
    slide_map(slide, weights, context, step)


if __name__ == "__main__":
    fire.Fire(main)
