"""The table of a run, written row by row; the pictures that runs leave among the images."""

import csv
import json
import multiprocessing
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from monai_ext.base.errors import InputError
from monai_ext.data.cohort import Cohort
from monai_ext.data.result_files import CLASSES, CYCLES, HEATMAP, OVERLAY, ResultFiles, SummaryTable, is_result
from monai_ext.formats.image import SUFFIXES
from monai_ext.slides import SlideCells, SlideInferer
from tests.bundles.conftest import BUNDLES

FORK = multiprocessing.get_context("fork")


def rewritten(path, rows):
    """The table as it was written before: as a whole, with each row."""
    for row in rows:
        table = pd.DataFrame([row], dtype=object)
        if path.exists():
            earlier = pd.read_csv(path, dtype=str, keep_default_na=False)
            table = pd.concat([earlier[earlier["image"] != row["image"]], table]).sort_values("image")
        table.to_csv(path, index=False)
    return path.read_text()


def rows_of(count, seed=0):
    """Rows in any order, some of them twice, with every kind of value that a summary has."""
    rng = np.random.default_rng(seed)
    values = (
        *(1, 0.1, 1 / 3, 1e-9, 1e22, -0.0, float("nan"), None, True, np.bool_(False), np.int64(3)),
        *(np.float64(0.1), np.float32(0.1), 'a "b", c', "ü", "None", "NA", ""),
    )
    for number in rng.integers(count, size=count + count // 5):
        odd = {"x": values[number % len(values)], "y": values[rng.integers(len(values))]}
        yield {"image": f"{number:03d} {'ü,' * (number % 3)}.png", **odd}


@pytest.mark.parametrize("count", [1, 30, 400])
def test_the_table_is_that_of_writing_it_as_a_whole(tmp_path, count):
    rows = list(rows_of(count))
    table = SummaryTable(tmp_path / "out/summary.csv")
    for row in rows:
        table.add(row)
    table.close()
    assert table.path.read_text() == rewritten(tmp_path / "whole.csv", rows)


def test_other_columns_are_added(tmp_path):
    rows = [{"image": f"{k:03d}", **({"late": k} if k == 250 else {"x": k})} for k in range(300)]
    table = SummaryTable(tmp_path / "summary.csv")
    for row in rows:
        table.add(row)
    table.close()
    assert table.path.read_text() == rewritten(tmp_path / "whole.csv", rows)


def test_small_tables_are_in_order_at_any_time_and_all_have_every_row(tmp_path):
    table = SummaryTable(tmp_path / "summary.csv")
    for number in range(500):
        table.add({"image": f"{(7 * number) % 500:03d}"})
        if number in (0, 1, 10, 19, 50, 300, 499):
            images = pd.read_csv(table.path, dtype=str)["image"].tolist()
            assert sorted(images) == sorted(f"{(7 * k) % 500:03d}" for k in range(number + 1))
            assert number >= 20 or images == sorted(images)


def add(folder, numbers):
    files = ResultFiles(folder, folder)
    for number in numbers:
        files.write_row({"image": f"{number:03d}.png", "x": number})


def test_processes_that_write_rows_at_the_same_time_lose_none(tmp_path):
    processes = [FORK.Process(target=add, args=(tmp_path, range(rank, 600, 3))) for rank in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    SummaryTable(tmp_path / "summary.csv").order()
    table = pd.read_csv(tmp_path / "summary.csv")
    assert table["x"].tolist() == list(range(600))
    assert table["image"].tolist() == [f"{number:03d}.png" for number in range(600)]


def test_rows_are_in_order_when_their_writer_is_gone(tmp_path):
    files = ResultFiles(tmp_path, tmp_path)
    for number in reversed(range(300)):
        files.write_row({"image": f"{number:03d}"})
    assert not pd.read_csv(tmp_path / "summary.csv", dtype=str)["image"].is_monotonic_increasing
    del files
    assert pd.read_csv(tmp_path / "summary.csv", dtype=str)["image"].is_monotonic_increasing


def test_a_torn_last_row_is_dropped_and_another_table_refused(tmp_path):
    path = tmp_path / "summary.csv"
    path.write_text("image,x\na.png,1\nb.png,2\nc.pn")
    SummaryTable(path).add({"image": "d.png", "x": 4})
    assert path.read_text() == "image,x\na.png,1\nb.png,2\nd.png,4\n"
    path.write_text("name,dose\nA,3\n")
    with pytest.raises(InputError, match=r"summary\.csv: expected a table of images, or no such file, found columns"):
        SummaryTable(path).add({"image": "d.png", "x": 4})
    assert path.read_text() == "name,dose\nA,3\n"


def test_rows_are_appended_once_a_table_is_long(tmp_path, monkeypatch):
    table, written = SummaryTable(tmp_path / "summary.csv"), []
    write = table._write

    def counted(*rows):
        write(*rows)
        written.append(rows)
        table._schedule.written(table._schedule._size, -1e9)  # no clock

    monkeypatch.setattr(table, "_write", counted)
    for number in range(3000):
        table.add({"image": f"{number:04d}"})
    assert 20 < len(written) < 60
    with table.path.open() as file:
        assert [row["image"] for row in csv.DictReader(file)] == [f"{number:04d}" for number in range(3000)]


WRITERS = {  # what writes among the images, and the pictures it writes
    "SaveCellsd": {OVERLAY},
    "SaveDetectionsd": {OVERLAY},
    "SaveEvidenced": {OVERLAY},
    "SaveVesseld": {OVERLAY, CLASSES},
    "SlideInferer": {OVERLAY, HEATMAP},
    "SlideCells": {OVERLAY},
    "SaveMasksd": set(),  # into a data set, whose list names its maps
    "SaveNucleid": set(),
}


def test_every_writer_of_the_bundles_is_known():
    """A writer that is added to a configuration has to be looked at here, and its pictures added to the known ones."""
    used = set()
    for bundle in BUNDLES:
        for path in bundle.rglob("configs/**/*.json"):
            used |= set(re.findall(r"monai_ext\.[\w.]*\b(Save\w+|Slide(?:Inferer|Cells))\b", path.read_text()))
    assert used == set(WRITERS)


def test_a_picture_of_another_name_cannot_be_written(tmp_path):
    files = ResultFiles(tmp_path, tmp_path)
    for ending in ("_masks.png", ".png", "_map.ome.tif", "_map.tiff"):
        with pytest.raises(ValueError, match="not among the endings of result pictures"):
            files.path(Path("a.png"), ending)
    assert files.path(Path("a.png"), CLASSES) == tmp_path / "a_classes.png"


def endings(name):
    return {ending for ending in WRITERS[name] if Path(ending).suffix in SUFFIXES}


@pytest.mark.parametrize("kind", [SlideInferer, SlideCells])
def test_pictures_of_slides_are_known(kind):
    pictures = {suffix for suffix in kind.suffixes if Path(suffix).suffix in SUFFIXES}
    assert pictures == endings(kind.__name__)
    assert all(is_result(Path(f"a{suffix}")) for suffix in pictures)


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_pictures_that_a_run_left_among_the_images_are_none(tmp_path, name):
    for file in ("a.png", "b/c.tif", "classes.png", "overlay.png"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    images = Cohort(tmp_path, tmp_path, check=lambda *_: None).items
    for ending in endings(name):
        for stem in ("a", "b/c", "b/c.tif", "b/c/vessel 1"):
            path = tmp_path / f"{stem if stem != 'b/c/vessel 1' else 'b/d/vessel 1'}{ending}"
            path.parent.mkdir(exist_ok=True)
            path.touch()
    assert Cohort(tmp_path, tmp_path, check=lambda *_: None).items == images
    assert len(images) == 4


def test_maps_and_pictures_of_a_training_by_cycles_are_no_images(tmp_path):
    """It writes data sets of masks and a picture; an inference may later look through a folder above them."""
    for file in ("slides/a.png", "slides/cycle/cycles.png", "slides/cycle/masks/label/a.tif"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    items = [{"image": "../../a.png", "label": "label/a.tif", "group": "g"}]
    (tmp_path / "slides/cycle/masks/dataset.json").write_text(json.dumps({"name": "masks", "training": items}))
    (tmp_path / "slides/cycle/dataset.json").write_text("another program's")
    assert is_result(Path(CYCLES))
    run = Cohort(tmp_path / "slides", tmp_path / "out", check=lambda *_: None)
    assert [item["image"] for item in run.items] == [str(tmp_path / "slides/a.png")]
