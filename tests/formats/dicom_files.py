"""DICOM files as a radiograph's scanner writes them, byte by byte: what is read must not depend on what wrote it."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

_LONG = ("OB", "OW")
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"


def _element(tag: int, kind: str, value: str | bytes | int) -> bytes:
    if isinstance(value, int):
        value = struct.pack("<H", value)
    if isinstance(value, str):
        value = value.encode()
    value += (b"\0" if kind in ("UI", *_LONG) else b" ") * (len(value) % 2)
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, kind.encode())
    return head + (struct.pack("<HI", 0, len(value)) if kind in _LONG else struct.pack("<H", len(value))) + value


def write_dicom(
    path: Path,
    pixels: np.ndarray,
    patient: str = "P",
    spacing: str | None = None,
    bits: int | None = None,
    kind="MONOCHROME2",
    series: str | None = None,
) -> Path:
    """One grey frame ``(H, W)``, uint8 or uint16, of which ``bits`` are in use."""
    allocated = 8 * pixels.dtype.itemsize
    meta = (
        _element(0x00020002, "UI", SECONDARY_CAPTURE)
        + _element(0x00020003, "UI", "1.2.3")
        + _element(0x00020010, "UI", EXPLICIT_LITTLE_ENDIAN)
    )
    body = [
        (0x00080016, "UI", SECONDARY_CAPTURE),
        (0x00080018, "UI", "1.2.3"),
        (0x00080060, "CS", "MG"),
        (0x00100020, "LO", patient),
        *([(0x0020000E, "UI", series)] if series else []),
        (0x00280002, "US", 1),
        (0x00280004, "CS", kind),
        (0x00280010, "US", pixels.shape[0]),
        (0x00280011, "US", pixels.shape[1]),
        *([(0x00280030, "DS", spacing)] if spacing else []),
        (0x00280100, "US", allocated),
        (0x00280101, "US", bits or allocated),
        (0x00280102, "US", (bits or allocated) - 1),
        (0x00280103, "US", 0),
        (0x7FE00010, "OW" if allocated == 16 else "OB", pixels.tobytes()),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    length = _element(0x00020000, "UL", struct.pack("<I", len(meta)))
    path.write_bytes(bytes(128) + b"DICM" + length + meta + b"".join(_element(*entry) for entry in body))
    return path
