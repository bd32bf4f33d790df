"""The command: what is shown, and what is wrong with the words."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pytest
from PIL import Image

from monai_ext import doctor
from monai_ext.base.errors import InputError
from monai_ext.data import Cohort
from monai_ext.view import command, find_cases
from monai_ext.view.command import listen, view
from tests.view.conftest import NAME

ROOT = Path(__file__).parents[2]


def refusal(*args, **options):
    with pytest.raises(InputError) as caught:
        view(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_without_results_and_nothing_at_all(tmp_path):
    assert "expected results of a run (summary.csv), a data set (dataset.json) or images" in refusal(tmp_path)
    assert "found nothing there" in refusal(tmp_path / "none")
    (tmp_path / "a.txt").write_text("")
    assert "found a file" in refusal(tmp_path / "a.txt")


def test_slides_that_have_moved(run, tmp_path):
    (tmp_path / "in").rename(tmp_path / "moved")
    assert "--slides with the folder that they are in now, found none of 1" in refusal(run)
    assert "nothing at" in refusal(run, slides=tmp_path / "in")
    for where in (tmp_path / "moved", tmp_path / "moved" / f"{NAME}.tif"):
        assert find_cases(run, where).cases[0].image == tmp_path / "moved" / f"{NAME}.tif"


def test_some_slides_that_have_moved_are_told_and_listed(run, capsys):
    with (run / "summary.csv").open("a", newline="") as file:
        csv.writer(file).writerow(["gone/b.tif", 3, 0.1])
    cases = find_cases(run).cases
    assert [case.image is None for case in cases] == [False, True]
    assert "1 of 2 slides are not where they were, the first: gone/b.tif" in capsys.readouterr().out


def test_a_torn_table_and_another_table(run):
    with (run / "summary.csv").open("a") as file:
        file.write("half a li")
    assert len(find_cases(run).rows) == 1
    (run / "summary.csv").write_text("a,b\n1,2\n")
    assert "a table with a column image, found columns a, b" in refusal(run)


def test_a_run_without_objects(run):
    (run / f"{NAME}.geojson").unlink()
    assert "a .geojson for an image of summary.csv" in refusal(run)


def test_several_rows_of_one_image(run):
    with (run / "summary.csv").open("a", newline="") as file:
        csv.writer(file).writerow([f"{NAME}.tif", 1, 0.2])
    found = find_cases(run)
    assert len(found.cases) == 1
    assert found.of_case == (0, 0)


def test_images_and_data_sets(tmp_path, start):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (300, 200), (200, 100, 50)).save(tmp_path / "images" / "a.png")
    (tmp_path / "images" / "a.csv").write_text("row,col\n10,20\n")
    for src in (tmp_path / "images" / "a.png", tmp_path / "images"):
        facts = start(src).json("api/slides/0")
        assert facts["objects"] == 0
        assert facts["review"] is None
        assert facts["slide"]["mpp"] is None
    item = '{"image": "images/a.png", "label": "images/a.csv", "group": "p1", "mpp": 0.5}'
    (tmp_path / "dataset.json").write_text(f'{{"training": [{item}]}}')
    viewer = start(tmp_path)
    assert viewer.json("api/slides")["rows"] == [["images/a.png", "training", "p1", "images/a.csv"]]
    facts = viewer.json("api/slides/0")
    assert (facts["objects"], facts["slide"]["mpp"], facts["review"]) == (1, 0.5, None)
    assert viewer.json("api/slides/0/objects/0")["centre"] == [20.5, 10.5]
    status, _, body = viewer.ask("api/slides/0/review", {"object": 0, "action": "reject"})
    assert status == 422
    assert b"nothing to review" in body


def test_a_data_set_annotated_in_dicom(tmp_path, start):
    """In mm on the glass, in another folder than the slide."""
    pytest.importorskip("pydicom", reason="pydicom is not installed (the extra [dicom])")
    from tests.formats.dicom_slides import group, on_glass, write_annotations, write_slide

    slide = write_slide(tmp_path / "images/a", np.full((200, 300, 3), 200, np.uint8))
    write_annotations(tmp_path / "labels/a.dcm", slide, [group(1, "POINT", [on_glass([[20.5, 10.5]])])], "3D")
    item = '{"image": "images/a", "label": "labels/a.dcm", "group": "p1"}'
    (tmp_path / "dataset.json").write_text(f'{{"training": [{item}]}}')
    viewer = start(tmp_path)
    assert viewer.json("api/slides/0")["objects"] == 1
    assert viewer.json("api/slides/0/objects/0")["centre"] == pytest.approx([20.5, 10.5], abs=1e-3)


def test_what_is_wrong_with_address_port_and_scale(run):
    with listen("127.0.0.1", 0) as taken:
        said = refusal(run, port=taken.getsockname()[1])
    assert "a port that is free; --port 0 takes any" in said
    assert "0 to 65535" in refusal(run, port=70000)
    assert "0 to 65535" in refusal(run, port="x")
    assert "an address of this machine" in refusal(run, host="256.1.1.1.1")
    assert "um/px" in refusal(run, mpp=-1)


def test_formats_that_are_none(run):
    assert "--formats: expected csv or" in refusal(run, formats="cvs,dicom-ann")


def test_a_package_that_is_missing(run, monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "uvicorn" else True)
    assert refusal(run) == 'view: expected the packages of pip install "monai_ext[view]", found no uvicorn'


def test_the_doctor_tries_the_viewer():
    assert doctor._EXTRAS["viewer (monai-ext view)"]().startswith("uvicorn ")


def test_a_review_is_no_input_of_the_next_run(run, start, tmp_path):
    viewer = start(run)
    viewer.json("api/slides/0/review", {"object": 7, "action": "reject"})
    viewer.json("api/slides/0/export", {})
    Image.new("RGB", (30, 20)).save(run / "a.png")
    cohort = Cohort(run, tmp_path / "next", target_mpp=0.25)
    assert [Path(item["image"]).name for item in cohort.items] == ["a.png"]
    cohort._end()


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_the_command_prints_its_address_and_ends_by_ctrl_c(run):
    words = [sys.executable, "-m", "monai_ext", "view", str(run), "--port", "0", "--host", "0.0.0.0"]
    surroundings = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=surroundings
    ) as process:
        url = process.stdout.readline().strip().replace("0.0.0.0", "127.0.0.1")
        assert len(url.split("/")[3]) >= 32  # the token
        with urlopen(url, timeout=20) as answer:
            assert b"view.js" in answer.read()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert not errors


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_what_was_answered_is_there_after_the_viewer_was_killed(run, start):
    """Two pages that draw and decide when the process is killed: at most what had no answer is lost."""
    words = [sys.executable, "-m", "monai_ext", "view", str(run), "--port", "0"]
    surroundings = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    answered: list[tuple[str, int]] = []
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=surroundings) as process:
        url = process.stdout.readline().strip() + "api/slides/0/review"

        def page(first):
            with suppress(OSError, HTTPException):
                for number in range(first, 200, 2):
                    corner = number / 2
                    square = [[corner, 10], [corner + 9, 10], [corner + 9, 19]]
                    for content in (
                        {"action": "reject", "object": number},
                        {"action": "draw", "type": "polygon", "points": square, "class": "Tumor"},
                    ):
                        request = Request(url, json.dumps(content).encode(), {"Content-Type": "application/json"})
                        with urlopen(request, timeout=20) as answer:
                            answered.append((content["action"], json.loads(answer.read())["object"]))

        threads = [threading.Thread(target=page, args=(first,)) for first in (0, 1)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 60
        while len(answered) < 40 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
        for thread in threads:
            thread.join(30)
    assert 40 <= len(answered) < 400
    decisions = start(run).shelf[0].log.decisions()
    there = [(each.action, each.object) for each in decisions.values()]
    assert set(answered) <= set(there)
    assert len(answered) == len(set(answered))
    assert len(there) <= len(answered) + len(threads)
