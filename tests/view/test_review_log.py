"""Corrections outlive whatever happens to the process and to the last line."""

import json
import os
from threading import Thread

import numpy as np
import pytest
import shapely

from monai_ext.base.errors import InputError
from monai_ext.formats import Features, read_geojson, write_geojson
from monai_ext.formats.geojson import join_features
from monai_ext.view import ReviewLog, reviewed
from monai_ext.view.review_log import content_of

OF = "0123456789abcdef"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a_review.jsonl"


def log_at(path, result=OF):
    return ReviewLog(path, result, 10, ["Tumor", "Other"])


def said(log):
    return {number: (each.action, each.name) for number, each in log.decisions().items()}


def test_what_was_said_last_holds_and_another_process_reads_it(path):
    log = log_at(path)
    log.decide(3, "reject", reviewer="ada")
    log.decide(4, "accept", reviewer="ada")
    log.decide(3, "class", "Tumor", reviewer="bob")
    assert said(log) == said(log_at(path)) == {3: ("class", "Tumor"), 4: ("accept", None)}
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert [entry["number"] for entry in entries] == [1, 2, 3]
    assert entries[2]["reviewer"] == "bob"
    assert entries[2]["time"].endswith("Z")


def test_undo_adds_a_line_and_what_was_said_before_holds_again(path):
    log = log_at(path)
    for action in ("accept", "reject"):
        log.decide(3, action, reviewer="ada")
    before = path.read_bytes()
    log.decide(5, "reject", reviewer="bob")
    assert log.undo("ada").action == "reject"
    assert said(log) == said(log_at(path)) == {3: ("accept", None), 5: ("reject", None)}
    assert log.undo("ada").action == "accept"
    assert log.undo("ada") is None
    assert said(log_at(path)) == {5: ("reject", None)}
    assert path.read_bytes().startswith(before)


@pytest.mark.parametrize("lost", range(1, 60, 7))
def test_a_torn_last_line_costs_nothing_else(path, lost):
    log = log_at(path)
    log.decide(1, "reject", reviewer="ada")
    log.decide(2, "reject", reviewer="ada")
    os.truncate(path, path.stat().st_size - lost)
    log = log_at(path)
    whole = {1: ("reject", None)} | ({2: ("reject", None)} if lost == 1 else {})  # all but its end was written
    assert said(log) == said(log) == whole
    log.decide(3, "accept", reviewer="ada")
    again = log_at(path)
    assert said(again) == said(log) == whole | {3: ("accept", None)}
    assert again.torn == (lost > 1)


def test_lines_that_say_nothing_are_counted_and_kept(path):
    paint = {"number": 2, "result": OF, "action": "paint", "object": 1}
    path.write_bytes(b'[1]\n{"number": 1}\nnonsense\n\xff\n' + json.dumps(paint).encode() + b"\n")
    before = path.read_bytes()
    log = log_at(path)
    assert said(log) == {}
    assert log.torn == 5
    assert log.decide(1, "reject", reviewer="ada").number == 3
    assert path.read_bytes().startswith(before)


def test_corrections_of_another_result_are_not_applied(path):
    log_at(path, "f" * 16).decide(1, "reject", reviewer="ada")
    log = log_at(path)
    assert said(log) == {}
    assert log.of_others == 1
    log.decide(2, "reject", reviewer="ada")
    assert said(log_at(path, "f" * 16)) == {1: ("reject", None)}


def test_two_viewers_lose_nothing_of_each_other(path):
    logs = [log_at(path), log_at(path)]

    def work(log, name):
        for number in range(10):
            log.decide(number, "class", name, reviewer=name)

    threads = [Thread(target=work, args=each) for each in zip(logs, ("Tumor", "Other"), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    numbers = [json.loads(line)["number"] for line in path.read_text().splitlines()]
    assert numbers == list(range(1, 21))
    assert said(logs[0]) == said(logs[1]) == said(log_at(path))


def test_a_full_disk_leaves_whole_lines(path, monkeypatch):
    log = log_at(path)
    log.decide(1, "reject", reviewer="ada")
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        log.decide(2, "reject", reviewer="ada")
    assert path.read_bytes() == before
    assert said(log) == {1: ("reject", None)}


def test_a_line_is_on_the_disk_when_the_call_ends(path, monkeypatch):
    synced = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: (synced.append(path.read_bytes()), real(number)))
    log_at(path).decide(1, "reject", reviewer="ada")
    assert synced == [path.read_bytes()]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((10, "reject", None), "object: expected a whole number 0 to 9, found 10"),
        ((-1, "reject", None), "found -1"),
        (("1", "reject", None), "found '1'"),
        ((True, "reject", None), "found True"),
        ((1, "paint", None), "action: expected accept or reject or class or draw or undo, found 'paint'"),
        ((1, "class", "Cat"), "class: expected Tumor or Other, found 'Cat'"),
        ((1, "class", None), "found None"),
    ],
)
def test_wrong_words_are_one_line_and_are_not_written(path, words, expected):
    with pytest.raises(InputError) as caught:
        log_at(path).decide(*words, reviewer="ada")
    assert expected in str(caught.value)
    assert not path.exists()


def test_the_export_has_corrected_classes_and_no_rejected_object(tmp_path, path):
    cells = Features.from_points(
        np.arange(20).reshape(10, 2), classes="Other", measurements={"score": np.arange(10) / 10}
    )
    result = write_geojson(tmp_path / "a.geojson", cells)
    log = ReviewLog(path, content_of(result), 10, ["Tumor", "Other"])
    log.decide(2, "class", "Tumor", reviewer="ada")
    log.decide(5, "reject", reviewer="ada")
    log.decide(6, "accept", reviewer="ada")
    colours = {"Tumor": (200, 0, 0), "Other": (0, 0, 200)}
    written = write_geojson(tmp_path / "b.geojson", reviewed(read_geojson(result), log.decisions(), colours))
    read, kept = read_geojson(written), [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert read.points().tolist() == cells.points()[kept].tolist()
    assert read.classes.tolist() == ["Tumor" if number == 2 else "Other" for number in kept]
    assert read.measurements["score"].tolist() == [number / 10 for number in kept]
    assert read.colors == colours


# -- objects that were drawn -------------------------------------------------------------------------------------------


def wkt(log):
    return [None if shape is None else shape.wkt for shape in log.drawn().geometry]


def test_what_was_drawn_comes_after_the_result_and_is_corrected_as_the_others(path):
    log, square = log_at(path), shapely.box(1, 2, 5, 8.25)
    assert not len(log.drawn())
    assert log.draw(square, "Tumor", reviewer="ada").object == 10
    assert log.draw(shapely.Point(3.5, 4), "Other", reviewer="bob").object == 11
    log.decide(10, "class", "Other", reviewer="bob")
    again = log_at(path)
    for each in (log, again):
        assert wkt(each) == [square.wkt, "POINT (3.5 4)"]
        assert each.drawn().classes.tolist() == ["Tumor", "Other"]
        assert said(each) == {10: ("class", "Other"), 11: ("draw", "Other")}
    assert log.drawn() is log.drawn()
    entry = json.loads(path.read_text().splitlines()[1])
    assert entry["geometry"] == {"type": "Point", "coordinates": [3.5, 4.0]}
    assert (entry["action"], entry["object"], entry["name"], entry["reviewer"]) == ("draw", 11, "Other", "bob")


def test_an_undone_drawing_is_gone_and_the_others_keep_their_places(path):
    log, other = log_at(path), log_at(path)
    log.draw(shapely.Point(1, 1), "Tumor", reviewer="ada")
    other.draw(shapely.Point(2, 2), "Tumor", reviewer="bob")
    other.decide(10, "reject", reviewer="bob")
    assert log.undo("ada").object == 10
    assert log.draw(shapely.Point(3, 3), "Tumor", reviewer="ada").object == 12
    for each in (log, other, log_at(path)):
        assert wkt(each) == [None, "POINT (2 2)", "POINT (3 3)"]
        assert said(each) == {11: ("draw", "Tumor"), 12: ("draw", "Tumor")}  # nothing of what is not there
        assert list(each.by_reviewer()["bob"]) == [11]
    with pytest.raises(InputError, match="0 to 9, or that of a drawn object that is there, found 10"):
        log.decide(10, "accept", reviewer="ada")


def test_two_viewers_that_draw_at_the_same_time_lose_nothing(path):
    logs = [log_at(path), log_at(path)]

    def work(log, x):
        for y in range(10):
            log.draw(shapely.Point(x, y), "Tumor", reviewer=str(x))

    threads = [Thread(target=work, args=each) for each in zip(logs, (0, 1), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = sorted([x, y] for x in (0.0, 1.0) for y in map(float, range(10)))
    for log in (*logs, log_at(path)):
        assert sorted(shapely.get_coordinates(log.drawn().geometry).tolist()) == expected
        assert sorted(log.decisions()) == list(range(10, 30))


@pytest.mark.parametrize("lost", [1, 2, 40, 150])
def test_a_torn_drawing_costs_nothing_else(path, lost):
    log = log_at(path)
    log.draw(shapely.Point(1, 1), "Tumor", reviewer="ada")
    log.draw(shapely.box(0, 0, 9, 9), "Tumor", reviewer="ada")
    os.truncate(path, path.stat().st_size - lost)
    number = log_at(path).draw(shapely.Point(2, 2), "Other", reviewer="ada").object
    assert number == (12 if lost == 1 else 11)  # all but the line's end was written
    read = log_at(path)
    assert wkt(read)[0] == "POINT (1 1)"
    assert wkt(read)[-1] == "POINT (2 2)"
    assert read.torn == (lost > 1)


@pytest.mark.parametrize(
    "change",
    [
        {"geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1]]]}},
        {"geometry": {"type": "Polygon", "coordinates": []}},
        {"geometry": {"type": "Point", "coordinates": [float("nan"), 1]}},
        {"geometry": {"type": "Polygon", "coordinates": [[[0, 0], [2, 2], [2, 0], [0, 2], [0, 0]]]}},
        {"geometry": None},
        {"geometry": {"type": "Cat"}},
        {"geometry": [1]},
        {"object": 3},
        {"object": 10**9},  # room for so many would be made
        {"object": "x"},
    ],
)
def test_a_damaged_drawing_is_counted_and_not_shown(path, change):
    log_at(path).draw(shapely.Point(1, 1), "Tumor", reviewer="ada")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}) + "\n")
    log = log_at(path)
    assert (len(log.drawn()), log.torn, said(log)) == (0, 1, {})


def test_a_full_disk_draws_nothing(path, monkeypatch):
    log = log_at(path)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        log.draw(shapely.Point(1, 1), "Tumor", reviewer="ada")
    assert (path.read_bytes(), len(log.drawn())) == (b"", 0)


def test_classes_of_drawings_are_those_that_there_are(path):
    for name in ("Cat", None):
        with pytest.raises(InputError, match="class: expected Tumor or Other, found"):
            log_at(path).draw(shapely.Point(1, 1), name, reviewer="ada")
    without = ReviewLog(path, OF, 10)
    assert without.draw(shapely.Point(1, 1), reviewer="ada").name is None
    with pytest.raises(InputError, match="expected a name given by --classes, found 'Cat'"):
        without.draw(shapely.Point(1, 1), "Cat", reviewer="ada")


def test_the_corrected_objects_have_what_was_drawn_last(path):
    cells = Features.from_points(np.zeros((10, 2)), classes="Other", measurements={"score": 0.5})
    log = log_at(path)
    for x in range(3):
        log.draw(shapely.Point(x, 7), "Tumor", reviewer="ada")
    log.undo("ada")
    log.decide(0, "reject", reviewer="ada")
    log.decide(10, "class", "Other", reviewer="ada")
    corrected = reviewed(join_features(cells, log.drawn()), log.decisions(), {})
    assert corrected.classes.tolist() == ["Other"] * 10 + ["Tumor"]
    assert [shape.wkt for shape in corrected.geometry[-2:]] == ["POINT (0 7)", "POINT (1 7)"]
    np.testing.assert_array_equal(corrected.measurements["score"], [0.5] * 9 + [np.nan] * 2)
