"""Parallel work in threads."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, wraps
from threading import Lock
from typing import Any, TypeVar

from tqdm import tqdm

__all__ = ["cache_in_threads", "in_threads"]

F = TypeVar("F", bound=Callable[..., Any])
S, T = TypeVar("S"), TypeVar("T")
_BATCH = 256


def in_threads(work: Callable[[S], T], samples: Sequence[S], what: str) -> Iterator[T]:
    """Results in the samples' order, with a bar named ``what``; only a few samples are under way at any time."""
    with tqdm(total=len(samples), desc=what, unit="image", file=sys.stderr) as bar, ThreadPoolExecutor() as pool:
        for start in range(0, len(samples), _BATCH):
            for result in pool.map(work, samples[start : start + _BATCH]):
                bar.update()
                yield result


def cache_in_threads(size: int) -> Callable[[F], F]:
    """Decorator: keep the last ``size`` results; of several threads that want the same one, only one computes it."""

    def decorate(function: F) -> F:
        cached, lock = lru_cache(size)(function), Lock()

        @wraps(function)
        def call(*args: Any) -> Any:
            with lock:
                return cached(*args)

        return call

    return decorate
