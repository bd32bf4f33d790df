from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from monai_ext.reports.pages import write_metrics, write_report

NAN = float("nan")
HOSTILE = '<script>alert("1")</script> & "quoted" $x_$'


class Interval(NamedTuple):
    value: float
    low: float
    high: float


@dataclass
class DataInterval:
    value: float
    low: float
    high: float


class Page(HTMLParser):
    """Checks that what is opened is closed, and keeps tags, attributes and text."""

    VOID = ("meta", "img", "input", "br", "link")

    def __init__(self, text):
        super().__init__()
        self.stack, self.tags, self.text = [], [], []
        self.feed(text)
        self.close()
        assert not self.stack

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def report(tmp_path, **arguments):
    path = tmp_path / "deep" / "report.html"
    write_report(path, **{"title": "T", "metrics": {}, **arguments})
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


@pytest.fixture
def everything():
    picture = np.random.default_rng(0).integers(0, 255, (1500, 700, 3), dtype=np.uint8)
    return {
        "title": HOSTILE,
        "metrics": {HOSTILE: Interval(0.9, 0.85, 0.95), "nan": NAN, "group": {"n": 3}, "x": Interval(NAN, NAN, NAN)},
        "curves": {HOSTILE: {HOSTILE: [(1, 0.5), (2, NAN)], "b": [(1, 2.0)]}, "empty": [], "one": [(1, None), (2, 3)]},
        "confusion": {HOSTILE: {"a": 5, HOSTILE: 1}, "a": {"a": 7}},
        "tables": {HOSTILE: [{HOSTILE: HOSTILE, "ci": Interval(0.1, 0, NAN)}], "frame": pd.DataFrame({"q": [1, NAN]})},
        "cases": {HOSTILE: [(picture, HOSTILE), (picture[:9, :9], "small")], "none": []},
        "legend": {HOSTILE: (255, 0, 16)},
        "notes": {HOSTILE: HOSTILE},
    }


def test_page_is_whole_and_needs_nothing_from_outside(tmp_path, everything):
    text, page = report(tmp_path, **everything)
    assert text.startswith("<!DOCTYPE html>")
    for tag, attrs in page.tags:
        for name in ("src", "href", "xlink:href", "action", "data", "srcset"):
            assert re.match(r"data:image/jpeg;base64,|#", attrs.get(name) or "#"), (tag, attrs)
    assert not re.search(r"@import|url\((?!#)", text)
    assert not page.all("script")
    assert not page.all("link")


def test_hostile_text_is_shown_not_run(tmp_path, everything):
    text, page = report(tmp_path, **everything)
    assert "<script" not in text
    assert "".join(page.text).count(HOSTILE) >= 10
    assert page.all("img")[0]["alt"] == HOSTILE


def test_pictures_are_inlined_and_bounded(tmp_path, everything):
    _, page = report(tmp_path, **everything)
    sizes = []
    for attrs in page.all("img"):
        encoded = base64.b64decode(attrs["src"].removeprefix("data:image/jpeg;base64,"), validate=True)
        sizes.append(cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR).shape)
    assert sizes == [(1200, 560, 3), (9, 9, 3)]


def test_pictures_keep_their_colours(tmp_path):
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 250
    _, page = report(tmp_path, cases={"c": [(red, "red")]})
    encoded = base64.b64decode(page.all("img")[0]["src"].split(",")[1])
    blue, green, got = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)[16, 16]
    assert (got > 240, green < 12, blue < 12) == (True, True, True)


def test_numbers_and_intervals_are_shown(tmp_path):
    metrics = {"F1": Interval(0.91234, 0.85, 0.95), "count": 12345, "density": 12.44, "none": NAN, "loss": 1.5e-7}
    text, page = report(tmp_path, metrics=metrics)
    for shown in ("0.912", "0.850 to 0.950", "12\u202f345", "12.4", "1.5e-07"):
        assert shown in text
    assert "nan" not in "".join(page.text).lower()
    assert len([a for a in page.all("svg") if a.get("class") == "range"]) == 1


def test_curves_are_svg_with_readable_text(tmp_path):
    text, page = report(
        tmp_path, curves={"Loss": {"training": [(1, 3.0), (2, 2.0)], "validation": [(1, 3.5)]}, "F1": []}
    )
    assert len(page.all("svg")) == 2
    assert {"training", "validation", "epoch", "Loss", "F1"} <= set(map(str.strip, page.text))
    assert "currentColor" in text
    assert "#010203" not in text


@pytest.mark.parametrize(
    ("confusion", "cells"),
    [
        pytest.param({"m": {"m": 201, "none": 18}, "none": {"m": 13}}, ["201", "18", "13", "–"], id="detection"),
        pytest.param(pd.DataFrame([[4, 0], [1, 5]], list("ab"), list("ab")), ["4", "0", "1", "5"], id="frame"),
        pytest.param({"TP": 5, "FP": np.int64(1), "FN": torch.tensor(2)}, ["5", "1", "2"], id="plain counts"),
    ],
)
def test_confusion(tmp_path, confusion, cells):
    text, _ = report(tmp_path, confusion=confusion)
    assert re.findall(r'--share: \d+%">([^<]*)<', text) == cells


def test_tables_keep_the_index_of_a_frame(tmp_path):
    text, _ = report(tmp_path, tables={"t": pd.DataFrame({"F1": [0.5]}, index=pd.Index(["case 7"], name="case"))})
    assert "case 7" in text
    assert "0.500" in text


def test_a_failed_write_leaves_the_old_report(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(ValueError, match="image"):
        write_report(path, title="T", metrics={}, cases={"c": [(np.zeros((2, 2, 2, 2)), "")]})
    assert path.read_text() == "old"


def test_metrics_are_json_whatever_they_hold(tmp_path):
    path = tmp_path / "new" / "metrics.json"
    metrics = {
        "F1": Interval(0.5, NAN, float("inf")),
        "data": DataInterval(1, 0, 2),
        "numpy": [np.float32(0.5), np.int64(3), np.array([1.0, NAN]), np.bool_(True)],
        "torch": torch.tensor(2.5),
        3: {"deep": (1, None, "text")},
    }
    write_metrics(path, metrics)

    def refuse(constant):
        raise AssertionError(constant)

    assert json.loads(path.read_text(), parse_constant=refuse) == {
        "F1": {"value": 0.5, "low": None, "high": None},
        "data": {"value": 1, "low": 0, "high": 2},
        "numpy": [0.5, 3, [1.0, None], True],
        "torch": 2.5,
        "3": {"deep": [1, None, "text"]},
    }
    assert [p.name for p in path.parent.iterdir()] == ["metrics.json"]
