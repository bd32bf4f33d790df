"""Tables of releases: CSV files with a header, whatever separates their cells."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_ext.base.errors import InputError

__all__ = ["Row", "has_columns", "one_file", "read_table"]

Row = dict[str, str]
_SEPARATORS = ",;\t"
_NAMES = {",": "commas", ";": "semicolons", "\t": "tabulators"}
_SHOWN = 5  # lines that are named one by one


def read_table(path: Path, columns: Sequence[str], problems: list[str]) -> list[Row]:
    """The lines of a CSV file by the names in its header.

    Commas, semicolons or tabulators separate the cells, whichever part the header into all columns that are wanted.
    A line of another number of cells, as one with another separator, is a problem. Space around cells is cut, also the
    line breaks with which CBIS-DDSM ends its paths.

    Args:
        path: the file.
        columns: names that the header must have; it may have more.
        problems: takes what is wrong, a line each.

    Returns:
        The lines that are sound, without empty ones.
    """
    readers, headers = _open(path)
    fitting = [number for number, header in enumerate(headers) if set(columns) <= set(header)]
    if not fitting:
        header = max(headers, key=len)
        missing = ", ".join(name for name in columns if name not in header)
        problems.append(f"{path}: expected a column {missing}, found {header}")
        return []
    separator, header, lines = _SEPARATORS[fitting[0]], headers[fitting[0]], readers[fitting[0]]
    rows, broken = [], []
    for line in lines:
        if not any(cell.strip() for cell in line):
            continue
        if len(line) == len(header):
            rows.append({name: cell.strip() for name, cell in zip(header, line, strict=True)})
        else:
            broken.append((lines.line_num, separator.join(line)))
    expected = f"{len(header)} cells between {_NAMES[separator]}, as in its header"
    problems += [f"{path}, line {number}: expected {expected}, found {line!r:.60}" for number, line in broken[:_SHOWN]]
    if len(broken) > _SHOWN:
        problems.append(f"{path}: expected {expected}, found others in {len(broken) - _SHOWN} further lines")
    return rows


def has_columns(path: Path, columns: Sequence[str]) -> bool:
    """Whether a file's first line names all of some columns."""
    return path.is_file() and any(set(columns) <= set(header) for header in _open(path)[1])


def _open(path: Path) -> tuple[list[Any], list[list[str]]]:
    """A reader of the file, behind its header, and the header: of each separator."""
    try:
        text = path.read_bytes().decode("utf-8-sig", errors="replace")
    except OSError as error:
        raise InputError(path, "a readable table", error.strerror or type(error).__name__) from error
    readers = [csv.reader(io.StringIO(text, newline=""), delimiter=separator) for separator in _SEPARATORS]
    headers = [[cell.strip() for cell in next(reader, [])] for reader in readers]
    return readers, headers


def one_file(folder: Path, files: Sequence[Path], name: str, problems: list[str], required: bool = True) -> Path | None:
    """The only file of its kind; none, where one is required, or several (a release unpacked twice) are a problem."""
    if len(files) == 1:
        return files[0]
    if files or required:
        problems.append(f"{folder}: expected one {name}, found {', '.join(map(str, files)) or 'none'}")
    return None
