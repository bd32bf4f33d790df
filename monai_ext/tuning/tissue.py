"""What tissue a bundle's weights know: the distribution of their features over the training list."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import Dataset
from torch import Tensor
from tqdm import tqdm

from monai_ext.base.errors import InputError
from monai_ext.data.datalist import load_datalist
from monai_ext.networks.tissue_check import TissueCheck, TissueDistribution
from monai_ext.tuning.common import errors_unwrapped, read_bundle

__all__ = ["tune_tissue"]


def tune_tissue(
    dataset_dir: str | Sequence[str],
    bundle: str = ".",
    ckpt_dir: str | None = None,
    output: str | None = None,
    outside: float = 0.05,
    limit: float = 0.5,
    configs: Sequence[str] = (),
    **overrides: Any,
) -> str:
    """Keep with a bundle's weights what tissue they know, for inference to compare other images with.

    The images of both lists go through the inference as they are. The features of the training list's tiles are the
    distribution; the radius around it is chosen on the validation list. Needs no labels.

    Args:
        dataset_dir: folder with ``dataset.json``, or several: the lists that the weights were trained with.
        bundle: the bundle's folder.
        ckpt_dir: folder of ``model.pt``; the bundle's ``models`` by default.
        output: file to write; ``<ckpt_dir>/tissue.npz`` by default, where inference looks.
        outside: share of the validation list's tiles that are outside.
        limit: share of an image's tissue that may be outside before it is warned of.
        configs: overlays of ``configs/inference.json`` that the weights need.
        **overrides: entries of the configuration, such as ``device``.

    Returns:
        the path of the file.

    Raises:
        InputError: no such bundle or weights, a network without the layers that its configuration names, or lists
            without tissue.
    """
    for name, value in (("outside", outside), ("limit", limit)):
        if not 0 < value < 1:
            raise InputError(f"tune tissue --{name}", "a share between 0 and 1", repr(value))
    changes = {"dataset_dir": dataset_dir, "ckpt_dir": str(ckpt_dir or Path(bundle) / "models"), "tissue#quiet": True}
    parser = read_bundle("tune tissue", bundle, ("configs/inference.json", *configs), changes, **overrides)
    with errors_unwrapped():
        check: TissueCheck = parser.get_parsed_content("tissue")
        lists = load_datalist(dataset_dir, ("training", "validation"), check=None, path_keys=["image"])
        tiles = {name: list(_tiles(parser, check, items, name)) for name, items in lists.items()}
    training, validation = (torch.cat([features for features, _ in each]) for each in tiles.values())
    for name, features in (("training", training), ("validation", validation)):
        if len(features) < 2:
            raise InputError(str(dataset_dir), f"tissue in the {name} list", f"{len(features)} tiles of it")
    seen = TissueDistribution.fit(training, validation, outside)
    path = Path(output or check.path)
    check.limit = limit
    facts = [
        check.facts((weights.sum(), (weights * (seen.distance(features) > seen.radius)).sum()))
        for features, weights in tiles["validation"]
    ]
    about = {
        "outside": outside,
        "training": {"images": len(lists["training"]), "tiles": len(training)},
        "validation": {"images": len(lists["validation"]), "tiles": len(validation)},
    }
    check.save(path, seen, limit, about)
    foreign = sum(bool(each["foreign"]) for each in facts)
    print(
        f"{path}: {len(seen.mean)} features of {len(training)} training tiles; {outside:.0%} of {len(validation)} "
        f"validation tiles are outside, {foreign} of {len(facts)} images would be warned of"
    )
    return str(path)


def _tiles(
    parser: ConfigParser, check: TissueCheck, items: Sequence[dict[str, Any]], name: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """The features of each image's tiles, and how much of each is tissue; those with too little are left out."""
    network = parser.get_parsed_content("loaded_network").eval()
    device, inferer = parser.get_parsed_content("device"), parser.get_parsed_content("inferer")
    passes: list[tuple[Tensor, Tensor]] = []
    features = check.listen(network, lambda *tiles: passes.append(tiles))
    try:
        for item in tqdm(Dataset(items, parser.get_parsed_content("preprocessing")), f"{name} images", unit="image"):
            with torch.no_grad():
                inferer(torch.as_tensor(item["image"])[None].to(device), network)
            each, weights = (torch.cat(part).cpu() for part in zip(*passes, strict=True))
            passes.clear()
            yield each[weights > 0], weights[weights > 0]
    finally:
        features.remove()
