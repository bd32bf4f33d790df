"""Helpers for the processes of ``torchrun``."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from monai_ext.base.errors import InputError

__all__ = [
    "barrier",
    "fills_batch",
    "gather",
    "has_joined",
    "is_first",
    "join",
    "leave",
    "local_device",
    "shard",
    "sum_over_ranks",
]

T = TypeVar("T")
_DRAIN_S = 0.5
_PATIENCE = timedelta(days=2)  # how long ranks wait for the first one, which does some phases of a training alone
_joined = 0


def local_device() -> torch.device:
    """The GPU of this process, by ``LOCAL_RANK``, or the CPU where there is none."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def has_joined() -> bool:
    """Whether this process is one of a group that was initialised."""
    return dist.is_available() and dist.is_initialized()


def is_first() -> bool:
    """Whether this is the first rank, or the only process; known to ``torchrun``'s processes before they join."""
    return (dist.get_rank() if has_joined() else int(os.environ.get("RANK", "0"))) == 0


def shard(items: Sequence[T], allow_empty: bool = False) -> list[T]:
    """This rank's items: every item belongs to exactly one rank, so none is scored twice.

    Args:
        items: the same list on every rank.
        allow_empty: a rank may be left without work, for no other waits for its share.

    Raises:
        InputError: fewer items than ranks; a rank without work would leave the others waiting for its share.
    """
    ranks, rank = (dist.get_world_size(), dist.get_rank()) if has_joined() else (1, 0)
    if len(items) < ranks and not allow_empty:
        raise InputError(
            "torchrun --nproc_per_node", f"at most one process for each of {len(items)} fields", str(ranks)
        )
    return list(items[rank::ranks])


def fills_batch(count: int, batch_size: int) -> bool:
    """Whether every rank has a whole batch, so that an incomplete one at the end of an epoch may be dropped.

    Where it has none, a loader that drops it would be empty, and a training would end at once silently.

    Args:
        count: length of the training list.
        batch_size: of one rank.
    """
    ranks = dist.get_world_size() if has_joined() else 1
    return count // ranks >= batch_size


def gather(items: Sequence[T]) -> list[T]:
    """The items of all ranks, rank after rank, on every rank; a collective call."""
    if not has_joined():
        return list(items)
    parts: list[list[T]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(parts, list(items))
    return [item for part in parts for item in part]


def sum_over_ranks(count: Tensor) -> tuple[Tensor, int]:
    """Add up a count of this rank's share of a batch; a collective call.

    A loss divided by the sum, times the number of ranks, has a gradient whose mean over the ranks, which
    ``DistributedDataParallel`` takes, is that of one large batch.

    Args:
        count: on the backend's device; changed in place.

    Returns:
        The sum, on every rank, and the number of ranks.
    """
    if not has_joined():
        return count, 1
    dist.all_reduce(count)
    return count, dist.get_world_size()


def barrier() -> None:
    """Wait for all ranks; a collective call."""
    if has_joined():
        dist.barrier()


def join(backend: str) -> None:
    """Join the process group, once for all callers: a training of several phases holds it over each of them.

    Args:
        backend: ``"nccl"`` or ``"gloo"``.
    """
    global _joined  # noqa: PLW0603  the process group is one of the process as well
    if not _joined:
        dist.init_process_group(backend, timeout=_PATIENCE)
    _joined += 1


def leave() -> None:
    """Leave the process group, as often as it was joined; the last thing a process of ``torchrun`` does.

    Gloo's threads drop the tensors of a collective a moment after its result is there, and need the interpreter for
    that: we take it that a process which ended in this moment was aborted by them ("terminate called without an active
    exception"). So they get half a second.
    """
    global _joined  # noqa: PLW0603
    _joined = max(_joined - 1, 0)
    if not _joined:
        dist.destroy_process_group()
        time.sleep(_DRAIN_S)
