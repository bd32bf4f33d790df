"""A map that may be larger than memory: on disk, written tile by tile, read in strips."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np

from monai_ext.base.errors import InputError

__all__ = ["HeatMap", "halve"]

_STRIP_BYTES = 16 << 20  # of one channel that a pass over the map holds in memory


class HeatMap:
    """A float32 array ``(C, H, W)`` in a ``.npy`` file, 0 where nothing was written.

    It is read and written as a file, not mapped into memory: a disk that is full must raise an error, not kill the
    process with a bus error, and what was read must not stay resident. Use it as a context manager.

    Args:
        path: the file.
        shape: to make a new one; ``None`` to open one that is there.

    Raises:
        InputError: the file is there and holds something else.
        OSError: the disk is full.

    Examples:
        >>> from monai_ext.formats import HeatMap
        >>> with HeatMap(folder / "tumour.npy", shape=(1, 4, 6)) as heat:
        ...     heat.write(channel=0, row=1, col=2, values=np.ones((2, 3)))
        ...     heat.rows(1, 2).tolist()
        [[0.0, 0.0, 1.0, 1.0, 1.0, 0.0]]
        >>> np.load(folder / "tumour.npy").shape
        (1, 4, 6)
    """

    def __init__(self, path: str | os.PathLike, shape: tuple[int, int, int] | None = None) -> None:
        self.path = Path(path)
        self._file = self.path.open("w+b" if shape else "r+b")
        if shape:
            header = {"descr": "<f4", "fortran_order": False, "shape": tuple(map(int, shape))}
            np.lib.format.write_array_header_1_0(self._file, header)
            self.shape, self._begin = header["shape"], self._file.tell()
            self._file.truncate(self._begin + 4 * int(np.prod(shape, dtype=np.int64)))
        else:
            try:
                np.lib.format.read_magic(self._file)
                self.shape, _, dtype = np.lib.format.read_array_header_1_0(self._file)
            except ValueError as error:
                raise InputError(path, "a map (.npy)", str(error)) from error
            self._begin = self._file.tell()
            size = self._begin + 4 * int(np.prod(self.shape, dtype=np.int64))
            if dtype != np.float32 or len(self.shape) != 3 or os.fstat(self._file.fileno()).st_size != size:
                raise InputError(path, "a whole map of float32 (C, H, W)", f"{dtype} {self.shape}")

    def __enter__(self) -> HeatMap:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _seek(self, channel: int, row: int, col: int) -> None:
        _, rows, cols = self.shape
        self._file.seek(self._begin + 4 * ((channel * rows + row) * cols + col))

    def write(self, channel: int, row: int, col: int, values: np.ndarray) -> None:
        """Put ``values`` ``(h, w)`` at ``row, col`` of a channel."""
        values = np.ascontiguousarray(values, dtype="<f4")
        if values.shape[1] == self.shape[2]:
            self._seek(channel, row, col)
            self._file.write(values)
            return
        for line_row, line in enumerate(values, start=row):
            self._seek(channel, line_row, col)
            self._file.write(line)

    def sync(self) -> None:
        """See that what was written is on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def rows(self, start: int, stop: int, channel: int = 0) -> np.ndarray:
        """Some rows of a channel: ``(stop - start, W)``."""
        lines = np.empty((stop - start, self.shape[2]), "<f4")
        self._seek(channel, start, 0)
        self._file.readinto(lines)
        return lines

    def strips(self, channel: int = 0, multiple: int = 1) -> Iterator[tuple[int, np.ndarray]]:
        """A channel from top to bottom, as ``first row, (h, W)``; ``h`` is a multiple but at the end."""
        rows = self.shape[1]
        height = max(1, _STRIP_BYTES // (4 * self.shape[2] * multiple)) * multiple
        for start in range(0, rows, height):
            yield start, self.rows(start, min(start + height, rows), channel)


def halve(source: HeatMap, path: str | os.PathLike) -> HeatMap:
    """A map of half the size, each value the largest of four, so that what is hot stays hot from afar.

    Args:
        source: ``(C, H, W)``.
        path: the file to make.

    Returns:
        ``(C, ceil(H / 2), ceil(W / 2))``.

    Examples:
        >>> from monai_ext.formats import HeatMap
        >>> from monai_ext.formats.heatmap import halve
        >>> with HeatMap(folder / "fine.npy", shape=(1, 4, 6)) as fine:
        ...     fine.write(channel=0, row=1, col=2, values=np.ones((1, 1)))
        ...     with halve(fine, folder / "half.npy") as half:
        ...         half.rows(0, 2).tolist()
        [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    channels, rows, cols = source.shape
    half = HeatMap(path, (channels, -(-rows // 2), -(-cols // 2)))
    for channel in range(channels):
        for start, values in source.strips(channel, multiple=2):
            strip = values
            if len(strip) % 2 or cols % 2:  # the last row or column stands for two
                strip = np.pad(strip, ((0, len(strip) % 2), (0, cols % 2)), mode="edge")
            upper = np.maximum(strip[0::2], strip[1::2])
            half.write(channel, start // 2, 0, np.maximum(upper[:, 0::2], upper[:, 1::2]))
    return half
