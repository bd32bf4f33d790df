"""Two processes on the CPU, for tests of distributed code."""

import datetime as dt
from contextlib import contextmanager

import torch


@contextmanager
def joined(rank, folder):
    """One of the two ranks, which meet in ``folder``."""
    patience = dt.timedelta(minutes=2)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", patience, world_size=2, rank=rank)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()
