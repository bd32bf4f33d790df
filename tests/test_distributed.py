"""Items over ranks; two real processes are in tests/bundles."""

import pytest
import torch.distributed as dist

from monai_ext.distributed import fills_batch, gather, is_first, local_device, shard
from monai_ext.errors import InputError


def test_one_process_has_everything():
    assert shard([1, 2, 3]) == [1, 2, 3]
    assert gather([1, 2]) == [1, 2]
    assert local_device().type in ("cpu", "cuda")


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_every_item_has_one_rank(monkeypatch, ranks):
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: ranks)
    parts = []
    for rank in range(ranks):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        parts += shard(range(7))
    assert sorted(parts) == list(range(7))


def test_more_ranks_than_items_are_refused(monkeypatch):
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 4)
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    with pytest.raises(InputError, match="at most one process for each of 3 fields, found 4"):
        shard([1, 2, 3])
    assert shard([1, 2, 3], allow_empty=True) == [1]
    monkeypatch.setattr(dist, "get_rank", lambda: 3)
    assert shard([1, 2, 3], allow_empty=True) == []


@pytest.mark.parametrize(("rank", "first"), [(None, True), ("0", True), ("3", False)])
def test_first_process_before_they_join(monkeypatch, rank, first):
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    assert is_first() == first


@pytest.mark.parametrize(("count", "ranks", "full"), [(64, 1, True), (63, 1, False), (127, 2, False), (128, 2, True)])
def test_an_incomplete_batch_is_dropped_where_a_whole_one_is_left(count, ranks, full, monkeypatch):
    monkeypatch.setattr("monai_ext.distributed._distributed", lambda: ranks > 1)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: ranks)
    assert fills_batch(count, 64) is full
