"""Which files and folders are parts of a slide that another file stands for."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path, PurePath

from monai_ext.base.dicom_heads import dicom_head, taken_as_dicom

__all__ = ["companions", "is_one_file"]

_NAMING = (".vms", ".vmu")  # Hamamatsu: an index that names the slide's files
_NAMED = re.compile(r"^\s*(?:ImageFile|MapFile|MacroImage|OptimisationFile)(?:\([^)]*\))?\s*=\s*(.+?)\s*$", re.I | re.M)
_FOLDERS = {".mrxs": "{}", ".vsi": "_{}_"}  # MIRAX, Olympus: a file, and a folder called after it
_DICOM = ".dcm"
_STANDING = (*_NAMING, *_FOLDERS, _DICOM, ".mhd")  # MetaImage: a header, and a file of pixels
_INDEX_BYTES = 1 << 20


def companions(
    folder: Path, files: Collection[str], folders: Collection[str] = (), unnamed: Collection[str] = ()
) -> set[str]:
    r"""The names in a folder that are no slides of their own, because another file there stands for them.

    These are what a Hamamatsu ``.vms`` or ``.vmu`` names (its image files, map and macro image), the folder of data
    beside a ``.mrxs`` or a ``.vsi``, and all but the first file of each slide in DICOM. Annotations,
    or radiographs, are files of their own though one series may hold several.

    Args:
        folder: where they lie.
        files: names of its files.
        folders: names of its folders.
        unnamed: names among the files that are DICOM without an ending.

    Returns:
        names among ``files`` and ``folders``.

    Examples:
        >>> from monai_ext.base.companions import companions
        >>> _ = (folder / "a.vms").write_text("ImageFile=a_1.jpg\nMapFile=a_map.jpg\n")
        >>> sorted(companions(folder, ["a.vms", "a_1.jpg", "a_map.jpg", "b.jpg", "c.mrxs"], ["c", "d"]))
        ['a_1.jpg', 'a_map.jpg', 'c']
    """
    parts: set[str] = set()
    series: set[str] = set()
    by_name: dict[str, str] = {}
    for name in sorted({*unnamed, *(name for name in files if name.lower().endswith(_STANDING))}):
        path = PurePath(name)
        suffix = path.suffix.lower()
        if suffix in _NAMING:
            by_name = by_name or {name.casefold(): name for name in files}
            named = _NAMED.findall(_head(folder / name, _INDEX_BYTES).decode("latin-1"))
            others = {by_name.get(re.split(r"[\\/]", other)[-1].casefold()) for other in named}
            parts |= others - {None, name}
        elif suffix in _FOLDERS:
            parts |= {_FOLDERS[suffix].format(path.stem)} & set(folders)
        elif (suffix == _DICOM or name in unnamed) and (head := dicom_head(folder / name)) and head.is_slide:
            if head.series and head.series in series:
                parts.add(name)
            series.add(head.series)
    return parts


def is_one_file(path: Path) -> bool:
    """Whether an image is in the file alone, so that a copy of it can be read; by its ending, and no folder.

    Examples:
        >>> from monai_ext.base.companions import is_one_file
        >>> is_one_file(folder / "a.svs"), is_one_file(folder / "a.vms")
        (True, False)
    """
    return not (path.name.lower().endswith(_STANDING) or path.is_dir() or taken_as_dicom(path))


def _head(path: Path, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError:  # whoever opens the slide will say so
        return b""
