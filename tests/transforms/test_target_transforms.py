import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from monai_ext.base.errors import InputError
from monai_ext.transforms import InstancesToTargetd, KeepSured, MergeInstancesd, PickInstancesd
from tests.discs import grid_ids

MAPS = arrays(np.int32, (1, 6, 7), elements=st.integers(0, 4))


def line(*ids):
    """A map of one row."""
    return torch.tensor(ids, dtype=torch.int32)[None, None]


# -- targets -----------------------------------------------------------------------------------------------------------


def test_maps_become_targets():
    known = line(1, 1, 0, 0)
    data = {"image": 1, "label": line(0, 5, 5, 2), "found": line(0, 0, 0, 0), "known": known}
    found = InstancesToTargetd(["label", "found"])(data)
    assert found["label"]["masks"].int().tolist() == [[[0, 0, 0, 1]], [[0, 1, 1, 0]]]
    assert found["label"]["known"].tolist() == [[True, True, False, False]]
    assert found["found"]["masks"].shape == (0, 1, 4)
    assert found["image"] == 1
    assert torch.equal(found["known"], known)
    assert torch.equal(data["label"], line(0, 5, 5, 2))  # as it came


def test_without_a_map_of_what_is_known_all_is_known():
    data = {"label": line(0, 5)}
    assert InstancesToTargetd("label")(data)["label"]["known"] is None
    assert InstancesToTargetd("label", None)({**data, "known": line(1, 0)})["label"]["known"] is None


def test_missing_maps_are_passed_over_on_demand():
    assert "found" not in InstancesToTargetd(["label", "found"], allow_missing_keys=True)({"label": line(1)})
    with pytest.raises(KeyError):
        InstancesToTargetd(["label", "found"])({"label": line(1)})


def test_seeds_that_were_missed_have_no_weight():
    """Eq. 2, L(M'): a seed that the teacher did not find is neither nucleus nor background there."""
    data = {"label": line(1, 1, 1, 0, 2, 2, 2, 0, 3, 3), "found": line(0, 0, 5, 5, 4, 4, 0, 0, 0, 9)}
    data["known"] = line(*[1] * 10)
    target = InstancesToTargetd(["label", "found"], missed="ignore")(data)
    assert target["label"]["weights"].tolist() == [1, 1, 1]  # M is as it was
    found = target["found"]
    assert found["weights"].tolist() == [1, 1, 1, 0]
    # a third of the first seed is there; of the second two thirds, and of the third one half: not missed
    assert found["masks"][3, 0].int().tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]
    assert found["known"].all()
    assert InstancesToTargetd(["label", "found"])(data)["found"]["weights"].tolist() == [1, 1, 1]
    with pytest.raises(InputError, match="'background' or 'ignore', found 'void'"):
        InstancesToTargetd("label", missed="void")


# -- scores ------------------------------------------------------------------------------------------------------------


def test_instances_that_are_not_sure_are_left_out():
    data = {"instances": line(3, 3, 0, 1, 7), "scores": torch.tensor([[[0.5, 0.5, 0, 0.4, 0.9]]])}
    assert torch.equal(KeepSured()(data)["instances"], line(3, 3, 0, 0, 7))
    assert torch.equal(KeepSured(least=0.6)(data)["instances"], line(0, 0, 0, 0, 7))
    assert torch.equal(KeepSured(least=0)(data)["instances"], data["instances"])
    assert KeepSured()(data)["instances"].dtype == torch.int32


# -- a few -------------------------------------------------------------------------------------------------------------


def kept(ids, **options):
    return PickInstancesd(**options)({"label": ids})["label"]


def test_some_instances_stay_whole():
    ids = grid_ids(6) * 3  # with gaps
    found = kept(ids, most=5)
    assert found.dtype == torch.int32
    assert found.shape == ids.shape
    assert found.unique().tolist() == [0, 1, 2, 3, 4, 5]
    for number in range(1, 6):
        (old,) = ids[found == number].unique()
        assert torch.equal(found == number, ids == old)


def test_where_there_are_few_all_stay():
    ids = grid_ids(3)
    assert torch.equal(kept(ids, most=9).long(), ids)
    assert torch.equal(kept(ids).long(), ids)
    assert not kept(ids, most=0).any()
    assert not kept(torch.zeros(1, 5, 5, dtype=torch.int64)).any()


def test_the_draw_depends_on_seed_and_map_alone():
    ids = grid_ids(6)
    wanted = kept(ids, most=5, seed=1)
    pick = PickInstancesd(most=5, seed=1)
    pick({"label": grid_ids(7)})
    assert torch.equal(pick({"label": ids})["label"], wanted)
    assert torch.equal(pick({"label": ids.numpy().astype(np.int32)})["label"], wanted)  # of any type
    draws = {tuple((kept(ids, most=5, seed=seed) > 0).flatten().tolist()) for seed in range(8)}
    assert len(draws) == 8
    other = ids.clone()
    other[0, 4:6, 4:6] = 1  # a nucleus that is a little larger
    numbers = [set(ids[(kept(each, most=5) > 0) & (ids > 0)].unique().tolist()) for each in (ids, other)]
    assert numbers[0] != numbers[1]


# -- two made one ------------------------------------------------------------------------------------------------------


def merged(*maps, **options):
    keys = [f"map{number}" for number in range(len(maps))]
    return MergeInstancesd(keys, **options)(dict(zip(keys, maps, strict=True)))["label"]


def test_what_is_there_already_is_not_added():
    old, new = line(1, 1, 1, 0, 0, 0), line(0, 7, 7, 0, 9, 9)  # the first of the new ones has IoU 2/3
    found = merged(old, new)
    assert torch.equal(found, line(1, 1, 1, 0, 2, 2))
    assert found.dtype == torch.int32


def test_an_iou_of_half_is_not_enough():
    old, new = line(4, 4, 0, 0), line(0, 5, 0, 0)
    assert torch.equal(merged(old, new), line(1, 1, 0, 0))  # wholly covered, so nothing is left of it
    old, new = line(4, 4, 4, 0), line(0, 5, 5, 5)
    assert torch.equal(merged(old, new), line(1, 1, 1, 2))  # IoU 1/2
    assert torch.equal(merged(old, new, iou=0.49), line(1, 1, 1, 0))


def test_earlier_maps_win_whatever_their_number():
    one, two, three = line(1, 1, 0, 0, 0), line(0, 3, 3, 3, 0), line(0, 0, 0, 2, 2)
    assert torch.equal(merged(one, two, three), line(1, 1, 2, 2, 3))
    assert torch.equal(merged(three, two, one), line(3, 2, 2, 1, 1))


@given(MAPS, MAPS)
@settings(max_examples=80, deadline=None)
def test_merging_adds_and_takes_nothing_away(first, second):
    found = merged(torch.from_numpy(first), torch.from_numpy(second)).numpy()
    counts = [len(np.unique(ids[ids > 0])) for ids in (first, second)]
    assert counts[0] <= found.max() <= sum(counts)
    assert sorted(np.unique(found[found > 0])) == list(range(1, found.max() + 1))
    pairs = set(zip(first[first > 0].tolist(), found[first > 0].tolist(), strict=True))
    assert len(pairs) == counts[0] == len({number for _, number in pairs})  # the first map, renumbered
    assert not found[(first == 0) & (second == 0)].any()
    added = found[(first == 0) & (found > 0)]
    assert (added > counts[0]).all()


def test_one_map_alone_is_renumbered():
    merge = MergeInstancesd(["label", "found"], allow_missing_keys=True)
    assert torch.equal(merge({"label": line(0, 8, 3)})["label"], line(0, 2, 1))
    with pytest.raises(InputError, match="MergeInstancesd: expected instance maps under label, found, found none"):
        merge({"image": 1})


@pytest.mark.parametrize("iou", [0, -0.1, 1.1])
def test_no_iou(iou):
    with pytest.raises(InputError, match="MergeInstancesd iou: expected a number above 0, up to 1"):
        MergeInstancesd("label", iou=iou)
