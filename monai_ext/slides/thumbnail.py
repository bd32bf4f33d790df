"""A slide in small: what tissue is sought in."""

from __future__ import annotations

import numpy as np

from monai_ext.formats.reader import SlideReader

__all__ = ["slide_thumbnail", "thumbnail_scale"]

_THUMBNAIL_UM = 8.0  # um/px; enough to tell tissue from glass
_THUMBNAIL_SIDES = (1024, 4096)  # px of its longer side, between which it is finer or coarser than that


def slide_thumbnail(reader: SlideReader) -> tuple[np.ndarray, np.ndarray | None, float]:
    """The whole slide at about 8 um/px, less of a huge one and more of a tiny one.

    Args:
        reader: of the slide.

    Returns:
        uint8 ``(3, rows, cols)`` RGB; where of it something was scanned, bool ``(rows, cols)``, ``None`` for
        everywhere; and px of level 0 per px of it.

    Raises:
        InputError: the file cannot be read.

    Examples:
        >>> from PIL import Image
        >>> from monai_ext.formats import SlideReader
        >>> from monai_ext.slides.thumbnail import slide_thumbnail
        >>> Image.new("RGB", (6400, 3200)).save(folder / "slide.png")
        >>> pixels, valid, scale = slide_thumbnail(SlideReader(folder / "slide.png", mpp=0.5))
        >>> pixels.shape, valid.any(), scale
        ((3, 200, 400), np.False_, 16.0)
    """
    mpp = _mpp(reader)
    return *reader.overview(mpp), reader.thumbnail_scale(mpp)


def thumbnail_scale(reader: SlideReader) -> float:
    """Px of level 0 per px of :func:`slide_thumbnail`."""
    return reader.thumbnail_scale(_mpp(reader))


def _mpp(reader: SlideReader) -> float:
    longer = max(reader.level0_shape) * reader.base_mpp
    most, least = (longer / side for side in _THUMBNAIL_SIDES)
    return max(min(_THUMBNAIL_UM, most), least, reader.base_mpp)
