"""Corrections outlive whatever happens to the process and to the last line."""

import json
import os
from threading import Thread

import numpy as np
import pytest

from monai_ext.base.errors import InputError
from monai_ext.formats import Features, read_geojson, write_geojson
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
        ((1, "paint", None), "action: expected accept or reject or class or undo, found 'paint'"),
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
