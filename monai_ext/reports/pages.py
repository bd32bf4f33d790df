"""What an evaluation writes: ``metrics.json`` for machines, one self-contained ``report.html`` for people."""

from __future__ import annotations

import base64
import io
import math
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime
from importlib import metadata
from itertools import cycle
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import cv2
import jinja2
import matplotlib as mpl
import numpy as np
import orjson
import pandas as pd
import torch
from markupsafe import Markup
from matplotlib.figure import Figure

from monai_ext.base.colours import to_rgb
from monai_ext.base.files import atomic_path
from monai_ext.base.version import __version__

__all__ = ["write_metrics", "write_report"]

Curve = Sequence[tuple[float, float]]

_INK = "#010203"  # stands for the page's own text colour, so that plots are legible on a light and a dark page
_LINES = ("#2f7fc1", "#d9742b", "#3a9a5b", "#b5519c", "#8a7a2e", "#7a6bd1")
_MAX_SIDE = 1200  # px of an inlined image: enough to see chromatin, small enough to mail the report
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 88, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]


def write_metrics(path: str | PathLike[str], metrics: Mapping[str, Any]) -> None:
    """Write metrics as JSON, atomically.

    Args:
        path: the file to write; its folder is made.
        metrics: numbers, intervals (a dataclass with all its fields, anything else with ``value``, ``low`` and
            ``high`` with these three), numpy and torch values, nested at will. What JSON cannot hold (NaN,
            infinity) becomes null.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(orjson.dumps(_plain(metrics), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def write_report(
    path: str | PathLike[str],
    *,
    title: str,
    metrics: Mapping[str, Any],
    curves: Mapping[str, Curve | Mapping[str, Curve]] | None = None,
    confusion: Mapping[str, Any] | pd.DataFrame | None = None,
    tables: Mapping[str, pd.DataFrame | Sequence[Mapping[str, Any]]] | None = None,
    cases: Mapping[str, Iterable[tuple[np.ndarray, str]]] | None = None,
    legend: Mapping[str, tuple[int, int, int]] | None = None,
    notes: Mapping[str, Any] | None = None,
    curves_title: str = "Training",
    warning: str = "",
) -> None:
    """Write one HTML file that needs nothing else: no server, no network, no script. It prints.

    Args:
        path: the file to write, atomically; its folder is made.
        title: heading of the report.
        metrics: values or intervals (anything with ``value``, ``low`` and ``high``) by name; one level of nesting is
            shown as groups. NaN is shown as a dash.
        curves: panels by name, each one line, a sequence of (epoch, value), or several by name.
        confusion: counts as true class -> predicted class -> count (or such a frame, a row for each true class); a pair
            that is left out, as the true negatives of a detection, is shown as a dash. Or plain counts by name.
        tables: tables by heading, as frames or lists of rows; cells may be intervals.
        cases: by heading (say, best and worst), pictures with their captions: whatever ``to_rgb`` takes, as ``overlay``
            returns it.
        legend: what each colour in the pictures means, RGB in 0 ... 255.
        notes: what was evaluated: data, weights, command ... The versions in use and the date are added.
        curves_title: heading over the curves.
        warning: what a reader is to know before anything else.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _number, "interval": _is_interval, "range_svg": _range_svg}
    page = environment.get_template("report.html").render(
        title=title,
        warning=warning,
        metrics=_grouped(metrics),
        curves_title=curves_title,
        curves={name: _plot(name, curve) for name, curve in (curves or {}).items()},
        confusion=None if confusion is None else _confusion(confusion),
        tables={name: _table(rows) for name, rows in (tables or {}).items()},
        cases={name: [(_inline(image), text) for image, text in pairs] for name, pairs in (cases or {}).items()},
        legend={name: "#{:02x}{:02x}{:02x}".format(*colour) for name, colour in (legend or {}).items()},
        notes={**(notes or {}), "Versions": _versions(), "Written": f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}"},
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _is_interval(value: Any) -> bool:
    return all(hasattr(value, name) for name in ("value", "low", "high"))


def _plain(value: Any) -> Any:
    """What orjson can write, with NaN and infinity as None."""
    if is_dataclass(value):
        value = asdict(value)
    elif _is_interval(value):
        value = {name: getattr(value, name) for name in ("value", "low", "high")}
    elif isinstance(value, torch.Tensor | np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return fspath(value) if isinstance(value, PathLike) else value


def _number(value: Any) -> str:
    """A number for readers: counts in full, others to about three digits, a dash for none."""
    value = _plain(value)
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    size = abs(value)
    if isinstance(value, int) or 1e3 <= size < 1e12:
        return f"{value:,.0f}".replace(",", "\u202f")
    if size and not 1e-3 <= size < 1e3:
        return f"{value:.3g}"
    return f"{value:.{3 if size <= 1 else 2 if size < 10 else 1}f}"


def _grouped(metrics: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Metrics by group; those outside any group come first, under an empty heading."""
    groups: dict[str, dict[str, Any]] = {"": {k: v for k, v in metrics.items() if not isinstance(v, Mapping)}}
    groups |= {k: dict(v) for k, v in metrics.items() if isinstance(v, Mapping)}
    return {name: rows for name, rows in groups.items() if rows}


def _range_svg(interval: Any) -> Markup:
    """An interval inside [0, 1] drawn to scale; nothing for other quantities, whose scale is unknown."""
    value, low, high = (_plain(getattr(interval, name)) for name in ("value", "low", "high"))
    if None in (value, low, high) or not 0 <= low <= high <= 1 or not 0 <= value <= 1:
        return Markup("")
    return Markup(
        '<svg class="range" viewBox="-4 0 208 16" role="img" aria-label="{} to {} on a scale from 0 to 1">'
        '<line x1="0" x2="200" y1="8" y2="8" class="track"/><line x1="{}" x2="{}" y1="8" y2="8" class="bar"/>'
        '<circle cx="{}" cy="8" r="4.5"/></svg>'
    ).format(f"{low:.3f}", f"{high:.3f}", *(f"{200 * x:.1f}" for x in (low, high, value)))


def _plot(name: str, curve: Curve | Mapping[str, Curve]) -> Markup:
    """A panel of curves as inline SVG, its ink the page's own."""
    lines = curve if isinstance(curve, Mapping) else {name: curve}
    ink = {
        "text.color": _INK,
        "axes.edgecolor": _INK,
        "axes.labelcolor": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
    }
    style = {"svg.fonttype": "none", "svg.hashsalt": "report", "font.size": 9, "font.family": "sans-serif"}
    with mpl.rc_context({**style, **ink, "text.parse_math": False}):
        figure = Figure(figsize=(4.6, 2.7), layout="constrained")
        axes = figure.subplots()
        for (label, points), colour in zip(lines.items(), cycle(_LINES), strict=False):
            epochs, values = np.asarray(points, dtype=float).reshape(-1, 2).T
            marker = "o" if len(epochs) < 30 else None
            axes.plot(epochs, values, color=colour, linewidth=1.6, marker=marker, markersize=3, label=label)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.18, color=_INK, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        if len(lines) > 1:
            axes.legend(frameon=False)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor").replace("*{", ".curve *{")
    return Markup(re.sub(r'(<g) id="[^"]*"', r"\1", svg))  # noqa: S704 - text in it was escaped by matplotlib


def _confusion(counts: Mapping[str, Any] | pd.DataFrame) -> dict[str, Any]:
    """Columns, and rows of (name, cells of (count, share of the row)); plain counts are a single row."""
    if not isinstance(counts, pd.DataFrame):
        if not any(isinstance(row, Mapping) for row in counts.values()):
            return {"columns": list(counts), "rows": [("", [(count, 0) for count in counts.values()])]}
        columns = list(dict.fromkeys([*counts, *(column for row in counts.values() for column in row)]))
        columns = [c for c in columns if any(c in row for row in counts.values())]
        counts = pd.DataFrame.from_dict(counts, orient="index").reindex(columns=columns)
    rows = []
    for name, row in counts.iterrows():
        cells = [None if pd.isna(count) else int(count) for count in row]
        total = 0 if None in cells else sum(cells)  # the shares of a row with a gap are unknown
        rows.append((name, [(count, count / total if total else 0) for count in cells]))
    return {"columns": list(counts.columns), "rows": rows}


def _table(rows: pd.DataFrame | Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    if not isinstance(frame.index, pd.RangeIndex):
        frame = frame.reset_index()
    return {"columns": list(frame.columns), "rows": frame.astype(object).to_numpy().tolist()}


def _inline(image: np.ndarray) -> str:
    """A picture as a data URI, no side above ``_MAX_SIDE``."""
    pixels = to_rgb(image)
    shrink = min(1.0, _MAX_SIDE / max(pixels.shape))
    if shrink < 1:
        pixels = cv2.resize(pixels, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    encoded = cv2.imencode(".jpg", pixels[..., ::-1], _JPEG)[1]
    return f"data:image/jpeg;base64,{base64.b64encode(encoded).decode()}"


def _versions() -> str:
    return (
        f"monai_ext {__version__}, MONAI {metadata.version('monai')}, PyTorch {metadata.version('torch')}, "
        f"Python {platform.python_version()}"
    )
