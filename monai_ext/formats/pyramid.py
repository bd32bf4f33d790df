"""How much smaller the levels of a pyramid are, whatever their sizes were padded to."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["level_factors"]

Size = tuple[int, int]


def level_factors(sizes: Sequence[Size], tiles: Sequence[Size | None]) -> list[float | None]:
    """Px of level 0 per px of each level.

    The quotient of two sizes is not it: sizes are rounded, and some writers pad each level to whole tiles, so that a
    level half as large seems 1.995 times smaller, and what lies far from the corner is sought at the wrong place. A
    whole number that explains the sizes is taken: by rounding, else by padding. Where padding leaves several (levels of
    few tiles), it is the next power of the levels before; where that is none of them either, the level is of no use.

    Args:
        sizes: rows and columns of each level, the largest first.
        tiles: rows and columns of each level's tiles; ``None`` where it has none.

    Returns:
        The factors; ``None`` for a level that must not be used; the mean quotient where sizes were rounded only, but by
        no whole number.

    Examples:
        >>> from monai_ext.formats.pyramid import level_factors
        >>> level_factors([(2967, 2220), (741, 555)], [(240, 240)] * 2)
        [1.0, 4.0]
        >>> level_factors([(2500, 3400), (1280, 1792), (768, 1024)], [(256, 256)] * 3)
        [1.0, 2.0, 4.0]
    """
    factors: list[float | None] = [1.0]
    for number in range(1, len(sizes)):
        factor = _factor(sizes[0], sizes[number], tiles[number], tiles[0], factors)
        before = max(known for known in factors if known is not None)
        # as large as the one before: padded, or the same once more
        factors.append(factor if factor is not None and factor > before else None)
    return factors


def _factor(full: Size, size: Size, tile: Size | None, base_tile: Size | None, before: list) -> float | None:
    quotients = [whole / part for whole, part in zip(full, size, strict=True)]
    in_tiles = tile is not None and not any(side % length for side, length in zip(size, tile, strict=True))

    def padded(factor: int) -> bool:
        sides = zip(full, size, tile, base_tile or (1, 1), strict=True)
        return in_tiles and all(_padded(*side, factor) for side in sides)

    ratio = before[1] if len(before) > 1 else None
    regular = ratio and all(factor == ratio**power for power, factor in enumerate(before))
    expected = round(ratio ** len(before)) if regular else 0
    nearest = round(sum(quotients) / 2)
    for factor in (expected, nearest):
        if factor and (_rounded(full, size, factor) or (factor == expected and padded(factor))):
            return float(factor)
    # of a level of one tile nothing can be said
    most = [
        whole // (part - length) for whole, part, length in zip(full, size, tile or size, strict=True) if part > length
    ]
    candidates = [factor for factor in range(max(1, int(min(quotients))), min(most, default=0) + 1) if padded(factor)]
    if len(candidates) == 1:
        return float(candidates[0])
    quotient = sum(quotients) / 2
    return quotient if not in_tiles or (most and not candidates and _rounded(full, size, quotient)) else None


def _rounded(full: Size, size: Size, factor: float) -> bool:
    """Whether a level is so many times smaller but for less than a pixel."""
    return factor >= 1 and all(abs(whole / factor - part) < 1 for whole, part in zip(full, size, strict=True))


def _padded(full: int, size: int, tile: int, base_tile: int, factor: int) -> bool:
    """Whether a side, or what it was before it was padded itself, becomes ``size`` in whole tiles."""
    least = full - base_tile + 1 if full % base_tile == 0 else full
    return _in_tiles(least // factor, tile) <= size <= _in_tiles(-(-full // factor), tile)


def _in_tiles(side: int, tile: int) -> int:
    return -(-side // tile) * tile
