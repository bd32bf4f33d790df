"""What a DICOM file is and which series it belongs to, told from its first bytes."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["SLIDE_CLASS", "DicomHead", "dicom_head", "taken_as_dicom"]

#: SOP class of VL Whole Slide Microscopy Images.
SLIDE_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"
_MAGIC, _MAGIC_AT = b"DICM", 128
_SUFFIX = ".dcm"
_NO_ENDING = re.compile(r"[^.]+|.*\.\d+")  # the digits are the last of a UID
_HEAD_BYTES = 1 << 16
_CLASS, _SYNTAX, _SERIES = (0x0002, 0x0002), (0x0002, 0x0010), (0x0020, 0x000E)
_IMPLICIT, _EXPLICIT_BIG, _DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
_LONG = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_DELIMITER, _SEQUENCE_ENDS, _UNDEFINED = 0xFFFE, 0xE0DD, 0xFFFFFFFF


class DicomHead(NamedTuple):
    """What a file states of itself; empty where it does not.

    Args:
        sop_class: SOP Class UID.
        series: Series Instance UID.

    Examples:
        >>> from monai_ext.base.dicom_heads import SLIDE_CLASS, DicomHead
        >>> DicomHead(SLIDE_CLASS, "1.2.3").is_slide
        True
    """

    sop_class: str
    series: str

    @property
    def is_slide(self) -> bool:
        """Whether it is a level, a label or an overview of a slide."""
        return self.sop_class == SLIDE_CLASS


def dicom_head(path: str | os.PathLike) -> DicomHead | None:
    """Look at the beginning of a file; no package is needed for it.

    Args:
        path: any file.

    Returns:
        What it states, or ``None`` if it is no DICOM file, or cannot be read.

    Examples:
        >>> from monai_ext.base.dicom_heads import dicom_head
        >>> _ = (folder / "a.dcm").write_text("no DICOM")
        >>> print(dicom_head(folder / "a.dcm"))
        None
    """
    try:
        with Path(path).open("rb") as file:
            if file.read(_MAGIC_AT + len(_MAGIC))[_MAGIC_AT:] != _MAGIC:
                return None
            head = file.read(_HEAD_BYTES)
    except OSError:  # whoever opens it will say so
        return None
    stated: dict[tuple[int, int], str] = {}
    for tag, value in _elements(head):
        if tag in (_CLASS, _SYNTAX, _SERIES):
            stated[tag] = value.rstrip(b"\0 ").decode("ascii", "replace")
        if tag >= _SERIES or stated.get(_SYNTAX) in (_EXPLICIT_BIG, _DEFLATED):
            break
    return DicomHead(stated.get(_CLASS, ""), stated.get(_SERIES, ""))


def taken_as_dicom(path: str | os.PathLike) -> bool:
    """Whether a file is DICOM by its ending, or by how it begins where its name has none.

    Archives of hospitals (PACS) call their files IM0001 or after a UID. Of other files nothing is read.

    Examples:
        >>> from monai_ext.base.dicom_heads import taken_as_dicom
        >>> for name in ("IM0001", "SM.1.2.840", "a.txt"):
        ...     _ = (folder / name).write_bytes(bytes(128) + b"DICM")
        >>> [taken_as_dicom(folder / name) for name in ("IM0001", "SM.1.2.840", "a.txt", "missing", "missing.dcm")]
        [True, True, False, False, True]
    """
    name = os.path.basename(path)  # noqa: PTH119 - asked of every file of a folder
    if name.lower().endswith(_SUFFIX):
        return True
    if not _NO_ENDING.fullmatch(name) or not os.path.isfile(path):  # noqa: PTH113 - a pipe would never end
        return False
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            return file.read(_MAGIC_AT + len(_MAGIC))[_MAGIC_AT:] == _MAGIC
    except OSError:  # whoever opens it will say so
        return False


def _elements(head: bytes) -> Iterator[tuple[tuple[int, int], bytes]]:
    """The elements of a data set, but not those of its sequences: these name the series of other files."""
    at, depth, implicit = 0, 0, False
    while at + 12 <= len(head):
        group, element, kind, length = struct.unpack_from("<HH2sH", head, at)
        at += 8
        if group == _DELIMITER or (implicit and group != _CLASS[0]):
            length = struct.unpack_from("<I", head, at - 4)[0]
        elif kind in _LONG:
            length = struct.unpack_from("<I", head, at)[0]
            at += 4
        if group == _DELIMITER:  # an item is walked through, and so is what it holds
            depth -= element == _SEQUENCE_ENDS
        elif length == _UNDEFINED:
            depth += 1
        else:
            value = head[at : at + length]
            implicit |= (group, element) == _SYNTAX and value.rstrip(b"\0 ").decode("ascii", "replace") == _IMPLICIT
            if not depth:
                yield (group, element), value
            at += length
