"""Decode, compute, yield: a slide's tiles as a stream of bounded size."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby, islice

import numpy as np
import torch
from torch import Tensor

from monai_ext.base.errors import InputError
from monai_ext.formats.reader import SlideReader
from monai_ext.formats.tissue import Tissue
from monai_ext.slides.plan import SlidePlan, Tile
from monai_ext.slides.predictor import TilePredictor

__all__ = ["decode_tiles", "stream_tiles"]


def stream_tiles(
    reader: SlideReader,
    plan: SlidePlan,
    predictor: TilePredictor,
    *,
    first: int = 0,
    batch_size: int = 1,
    workers: int = 1,
    prefetch: int = 2,
    normalize: Callable[[np.ndarray], np.ndarray] | None = None,
    tissue: Tissue | None = None,
    computed: Callable[[list[Tile]], None] | None = None,
) -> Iterator[tuple[Tile, Tensor]]:
    """Compute tiles in order, decoding ahead in other threads.

    OpenSlide and the decoders of tifffile leave Python's lock, so threads decode while the network computes, and need
    neither a copy of the slide's handle nor pixels passed between processes. At most ``prefetch`` batches wait. What
    the network computed for a batch is yielded once the next one has been queued, so that a GPU does not wait.

    Args:
        reader: the slide.
        plan: its geometry.
        predictor: what computes a tile; called in this thread.
        first: the stripe to begin with.
        batch_size: tiles of one shape that are computed at once. No batch reaches into the next stripe: what a network
            gives can depend, in the last bit, on the rest of the batch, and a resumed run must have the same batches.
        workers: threads that decode.
        prefetch: batches decoded ahead.
        normalize: applied to the pixels of each tile, uint8 ``(3, H, W)``, in the threads that decode.
        tissue: tells predictors that are ``selective`` which cells count.
        computed: called with each batch's tiles as soon as the predictor has been called for them.

    Yields:
        Each tile with its prediction ``(channels, h, w)``, h and w those of ``plan.cells``: a tile at the map's end
        has values beyond it.

    Raises:
        InputError: a tile cannot be read, or the predictor gives another shape than it promises.
    """
    selective = tissue is not None and getattr(predictor, "selective", False)
    before: tuple[list[Tile], Tensor] | None = None
    for batch, pixels, _ in decode_tiles(
        reader, plan, first=first, batch_size=batch_size, workers=workers, prefetch=prefetch, normalize=normalize
    ):
        output = predictor(pixels, wanted=_wanted(tissue, plan, batch)) if selective else predictor(pixels)
        shape = (len(batch), predictor.channels, *plan.cells(batch[0]))
        if tuple(output.shape) != shape:
            raise InputError(type(predictor).__name__, f"a map of shape {shape}", str(tuple(output.shape)))
        if computed is not None:
            computed(batch)
        if before:
            yield from zip(*before, strict=True)
        before = batch, output
    if before:
        yield from zip(*before, strict=True)


def _wanted(tissue: Tissue, plan: SlidePlan, tiles: list[Tile]) -> Tensor:
    """The cells of a batch that touch tissue, bool ``(B, h, w)``; none beyond the map's end."""
    wanted = torch.zeros(len(tiles), *plan.cells(tiles[0]), dtype=torch.bool)
    for cells, tile in zip(wanted, tiles, strict=True):
        cells[: tile.height, : tile.width] = torch.from_numpy(tissue.touched(*plan.edges(tile)))
    return wanted


def decode_tiles(
    reader: SlideReader,
    plan: SlidePlan,
    *,
    first: int = 0,
    batch_size: int = 1,
    workers: int = 1,
    prefetch: int = 2,
    normalize: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Iterator[tuple[list[Tile], Tensor, Tensor | None]]:
    """Read tiles in order, ahead in other threads; arguments and errors as for :func:`stream_tiles`.

    Yields:
        Each batch of tiles with its pixels, uint8 ``(B, 3, H, W)`` with the channels last in memory, and where they
        are data, bool ``(B, 1, H, W)``, ``None`` for everywhere.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        batches = (batch for stripe in plan.stripes[first:] for batch in _batches(plan, stripe, batch_size))
        ahead: deque[tuple[list[Tile], Future[tuple[Tensor, Tensor | None]]]] = deque()
        try:
            while True:
                for batch in islice(batches, prefetch + 1 - len(ahead)):
                    ahead.append((batch, pool.submit(_decode, reader, plan, batch, normalize)))
                if not ahead:
                    break
                batch, pixels = ahead.popleft()
                yield batch, *pixels.result()
        finally:
            for _, waiting in ahead:
                waiting.cancel()


def _batches(plan: SlidePlan, stripe: Sequence[Tile], size: int) -> Iterator[list[Tile]]:
    """Neighbours of one shape, at most ``size`` of them."""
    for _, alike in groupby(stripe, plan.cells):
        while batch := list(islice(alike, size)):
            yield batch


def _decode(
    reader: SlideReader, plan: SlidePlan, tiles: list[Tile], normalize: Callable[[np.ndarray], np.ndarray] | None
) -> tuple[Tensor, Tensor | None]:
    """The pixels of a batch, uint8 ``(B, 3, H, W)`` with the channels last in memory, and where they are data."""
    _, _, height, width = plan.region(tiles[0])
    pixels, valid = np.empty((len(tiles), height, width, 3), np.uint8), None
    for number, tile in enumerate(tiles):
        region, scanned = reader.read_valid(*plan.region(tile))
        pixels[number] = np.moveaxis(normalize(region) if normalize else region, 0, -1)
        if scanned is not None:
            valid = np.ones((len(tiles), 1, height, width), bool) if valid is None else valid
            valid[number] = scanned
    return torch.from_numpy(pixels).permute(0, 3, 1, 2), None if valid is None else torch.from_numpy(valid)
