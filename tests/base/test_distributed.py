"""Items over ranks, and phases; trainings of two real processes are in tests/bundles."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from monai_ext.base import distributed
from monai_ext.base.distributed import barrier, fills_batch, gather, is_first, join, leave, local_device, shard
from monai_ext.base.errors import InputError
from monai_ext.engines import Phase, PhaseRunner


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
    monkeypatch.setattr("monai_ext.base.distributed.has_joined", lambda: ranks > 1)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: ranks)
    assert fills_batch(count, 64) is full


def test_without_a_group_nobody_waits(monkeypatch):
    monkeypatch.setattr(dist, "barrier", lambda: pytest.fail("waits"))
    assert barrier() is None


def test_all_ranks_wait_for_each_other(monkeypatch):
    calls = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "barrier", lambda: calls.append("barrier"))
    barrier()
    assert calls == ["barrier"]


def test_the_group_is_joined_and_left_once(monkeypatch):
    calls = []
    monkeypatch.setattr(distributed, "_joined", 0)
    monkeypatch.setattr(distributed, "_DRAIN_S", 0)
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **_: calls.append(backend))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: calls.append("left"))
    join("gloo")  # the chain
    for _ in range(2):  # its phases
        join("gloo")
        leave()
    assert calls == ["gloo"]
    leave()
    assert calls == ["gloo", "left"]
    join("nccl")  # another one
    leave()
    assert calls == ["gloo", "left", "nccl", "left"]


def _run_phases(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    distributed._joined = 1
    runner, seen = PhaseRunner(folder), []
    for _ in range(2):
        for name, parallel in (("all", True), ("one", False)):
            result = folder / name / "result.txt"
            ran = runner(Phase(name, ["run.json"], str(result), {"folder": str(result.parent)}, parallel=parallel))
            seen.append([name, ran, result.read_text()])
    (folder / f"seen_{rank}.json").write_text(json.dumps(seen))
    leave()


@pytest.mark.slow
def test_two_ranks_run_phases_together_or_wait_for_the_first(tmp_path: Path):
    run = {"imports": ["$import tests.engines.fake_phases as fake"], "folder": "", "run": ["$fake.mark(@folder)"]}
    (tmp_path / "run.json").write_text(json.dumps(run))
    mp.spawn(_run_phases, (tmp_path,), nprocs=2)
    first = [["all", True, "done"], ["one", True, "done"]]
    again = [["all", False, "done"], ["one", False, "done"]]
    for rank in range(2):
        assert json.loads((tmp_path / f"seen_{rank}.json").read_text()) == first + again
    logs = {path.relative_to(tmp_path).as_posix(): path.read_text() for path in tmp_path.glob("*/rank_*.txt")}
    assert logs == {"all/rank_0.txt": "run\n", "all/rank_1.txt": "run\n", "one/rank_0.txt": "run\n"}


@pytest.mark.parametrize(("rank", "device"), [("3", "cuda:3"), (None, "cuda:0")])
def test_each_process_has_its_gpu(rank, device, monkeypatch):
    monkeypatch.setattr(distributed.torch, "cuda", SimpleNamespace(is_available=lambda: True))
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert distributed.local_device() == torch.device(device)


def test_without_a_gpu(monkeypatch):
    monkeypatch.setattr(distributed.torch.cuda, "is_available", lambda: False)
    assert distributed.local_device() == torch.device("cpu")
