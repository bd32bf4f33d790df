import json

import cv2
import numpy as np
import pytest
import torch
from monai.data import Dataset, MetaTensor

from monai_ext.base.errors import InputError
from monai_ext.reports.evidence_cases import MaskedPositives, PointingCanvases, evidence_judges
from monai_ext.transforms import LoadFieldd
from tests.planted import SIDE, write_planted


def dataset(folder, **options):
    """Items as the bundle's preprocessing leaves them."""
    write_planted(folder, **options)
    items = json.loads((folder / "dataset.json").read_text())["validation"]
    for item in items:
        item.update({key: str(folder / item[key]) for key in ("image", "mask") if key in item})

    def transform(item):
        source = LoadFieldd("image")(item)["image"]
        return {**item, "source": source, "image": MetaTensor((source.float() - 128) / 64)}

    return Dataset(items, transform)


def test_canvases_are_those_of_the_positives(tmp_path):
    data = dataset(tmp_path / "d")
    canvases = PointingCanvases(data, seed=1, repeats=2)
    assert len(canvases) == 6
    assert len(list(canvases)) == 6
    places = []
    for index, case in enumerate(canvases):
        assert type(case["image"]) is type(case["source"]) is torch.Tensor
        assert case["image"].shape == case["source"].shape == (3, 3 * SIDE, 3 * SIDE)
        torch.testing.assert_close(case["image"], (case["source"].float() - 128) / 64)  # the same tiles
        red = (case["source"][0] > 200) & (case["source"][1] < 60)
        assert red.any()
        assert not (red & ~case["truth"][0]).any()
        assert case["truth"].sum() == SIDE**2
        name = f"validation{index % 3}"
        assert (case["name"], case["group"]) == (f"{name}.png", name)
        places.append(case["truth"].flatten().int().argmax().item())
        again = canvases[index]
        assert torch.equal(again["image"], case["image"])
    assert len(set(places)) > 2
    assert not torch.equal(canvases[0]["image"], canvases[3]["image"])  # the second canvas of one positive
    other = PointingCanvases(data, seed=2)
    assert any(not torch.equal(other[i]["image"], canvases[i]["image"]) for i in range(3))


def test_some_of_many(tmp_path):
    data = dataset(tmp_path / "d", positives=6)
    some = PointingCanvases(data, seed=0, limit=2)
    assert len(some) == 2
    assert some.positives == sorted(set(some.positives))
    assert {tuple(PointingCanvases(data, seed=s, limit=2).positives) for s in range(8)} != {tuple(some.positives)}
    assert len(PointingCanvases(data, limit=9)) == 6
    masked = MaskedPositives(data, seed=0, limit=2)
    assert len(masked) == 2
    assert len({tuple(MaskedPositives(data, seed=s, limit=2).indices) for s in range(8)}) > 1


@pytest.mark.parametrize(
    ("counts", "found"), [({"positives": 0}, "0 and 9"), ({"negatives": 7}, "3 and 7")], ids=["positive", "negatives"]
)
def test_too_few_images(counts, found, tmp_path):
    data = dataset(tmp_path / "d", **counts)
    with pytest.raises(InputError, match=f"expected a positive and at least 8 negative images, found {found}"):
        PointingCanvases(data)


def test_images_of_different_sizes(tmp_path):
    data = dataset(tmp_path / "d", negatives=8)
    shown = data.transform
    data.transform = lambda item: {**shown(item), **({"image": torch.zeros(3, 9, 9)} if item["label"] else {})}
    with pytest.raises(InputError, match=r"expected images of one size, found validation0\.png among"):
        PointingCanvases(data)[0]


def test_masks_of_tumour_and_normal_tissue(tmp_path):
    data = dataset(tmp_path / "d", positives=4)
    cv2.imwrite(data.data[0]["mask"], np.ones((SIDE, SIDE), np.uint8))  # nothing normal
    cv2.imwrite(data.data[2]["mask"], np.zeros((SIDE, SIDE), np.uint8))  # no tumour
    del data.data[3]["mask"]
    masked = MaskedPositives(data)
    assert masked.indices == [1]
    case = masked[0]
    red = (case["source"][0] > 200) & (case["source"][1] < 60)
    assert (red & case["truth"][0]).sum() == red.sum() == case["truth"].sum()
    assert case["truth"].dtype == torch.bool


def test_mask_follows_a_resampled_image(tmp_path):
    data = dataset(tmp_path / "d")
    shown = data.transform

    def half(item):
        item = shown(item)
        return {**item, "image": item["image"][:, ::2, ::2], "source": item["source"][:, ::2, ::2]}

    data.transform = half
    case = MaskedPositives(data)[0]
    red = (case["source"][0] > 200) & (case["source"][1] < 60)
    assert case["truth"].shape == (1, SIDE // 2, SIDE // 2)
    assert (red ^ case["truth"][0]).sum() < 0.2 * red.sum()


def test_masks_come_first(tmp_path):
    assert list(evidence_judges(dataset(tmp_path / "a"))) == ["masks", "pointing game"]
    judges = evidence_judges(dataset(tmp_path / "b", masks=False), repeats=3)
    assert list(judges) == ["pointing game"]
    assert len(judges["pointing game"]) == 9


@pytest.mark.parametrize("negatives", [0, 7])
def test_masks_alone_judge_where_negatives_are_too_few(tmp_path, negatives):
    """As of HPLOC, which has none."""
    assert list(evidence_judges(dataset(tmp_path / "a", negatives=negatives))) == ["masks"]
    with pytest.raises(InputError, match="at least 8 negatives"):
        evidence_judges(dataset(tmp_path / "b", negatives=negatives, masks=False))
