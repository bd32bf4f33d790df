import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_ext.base.errors import InputError
from monai_ext.transforms import NucleusInstances, WholeInstances, WholeInstancesd


@pytest.fixture
def instances():
    """Of 36, 16 and 4 px, the first with a speck."""
    ids = np.zeros((1, 20, 30), np.int32)
    ids[0, 2:8, 2:8] = ids[0, 10, 2] = 2
    ids[0, 2:6, 12:16] = 5
    ids[0, 2:4, 22:24] = 7
    return ids


@pytest.mark.parametrize(("least", "areas"), [(0, [36, 16, 4]), (1, [36, 16, 4]), (1.01, [36, 16]), (9.1, [])])
def test_least_area_in_um2(instances, least, areas):
    found = WholeInstances(least)(instances, mpp=0.5)
    assert np.bincount(found.ravel())[1:].tolist() == areas


def test_where_the_resolution_is_unknown_it_is_px_of_the_network_s_grid(instances):
    keep = WholeInstances(2, mpp=0.25)  # 32 px there
    for unknown in (None, 0, 0.0):
        assert keep(instances, unknown).max() == 1
    assert keep(instances, 1).max() == 3
    another = WholeInstances(2, unscaled_area_um2=0.25, mpp=0.25)
    assert another(instances).max() == 3
    assert another(instances, 0.25).max() == 1
    with pytest.raises(InputError, match="um per px"):
        WholeInstances(2)(instances)
    assert WholeInstances()(instances).max() == 3


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy, lambda ids: MetaTensor(torch.from_numpy(ids))])
def test_every_kind_of_array(instances, kind):
    found = WholeInstances(2)(kind(instances), 0.5)
    assert type(found) is type(kind(instances))
    assert found.shape == instances.shape
    assert found.dtype in (np.int32, torch.int32)
    assert WholeInstances(2)(instances[0], 0.5).shape == (20, 30)


def test_dictionary_takes_the_resolution_from_the_image(instances):
    item = {"instances": torch.from_numpy(instances)}
    for mpp, count in ((0.5, 2), (1.0, 3), (0.0, 1)):
        item["source"] = MetaTensor(torch.zeros(3, 20, 30), meta={"mpp": mpp})
        assert WholeInstancesd(min_area_um2=2, mpp=0.25)(item)["instances"].max() == count
    assert WholeInstancesd(min_area_um2=2, mpp=0.25)({"instances": item["instances"]})["instances"].max() == 1


@pytest.mark.parametrize("options", [{"min_area_um2": -1}, {"unscaled_area_um2": -1}, {"min_area_um2": float("nan")}])
def test_bad_arguments(options):
    with pytest.raises(InputError, match="at least 0"):
        WholeInstances(**options)


def test_nuclei_of_a_map_are_one_piece_each():
    """What hangs on by a corner is a piece of its own, which an outline could not hold."""
    probability = np.zeros((1, 40, 40), np.float32)
    probability[0, 10:20, 10:20] = 1
    probability[0, 20, 20] = 1
    found = NucleusInstances(mpp=0.5)(probability)
    assert np.bincount(found.ravel())[1:].tolist() == [100]


def test_least_area_of_a_map_where_the_resolution_is_unknown():
    probability = np.zeros((1, 40, 40), np.float32)
    probability[0, 10:14, 10:14] = 1  # 1 um2 at .25 um/px
    find = NucleusInstances(mpp=0.25, min_area_um2=10, unscaled_area_um2=1)
    assert find(probability).max() == 1
    assert find(probability, mpp=0.25).max() == 0
    assert find(probability, mpp=1).max() == 1
