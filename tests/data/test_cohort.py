import json

import cv2
import numpy as np
import pytest
import tifffile
import torch
from monai.data import MetaTensor

from monai_ext.base.errors import InputError
from monai_ext.data.cohort import Cohort
from monai_ext.data.result_files import ResultFiles
from monai_ext.transforms.mark_done import MarkDoned


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "sub/a.tif", "sub/deep/c.JPG", ".hidden/d.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.zeros((5, 5, 3), np.uint8))
    (tmp_path / "images" / "notes.txt").write_text("no image")
    return tmp_path / "images"


def state(folder):
    return json.loads((folder / "out" / "state.json").read_text())


def test_folder_is_looked_through(folder):
    cohort = Cohort(folder, folder / "out")
    assert [item["image"] for item in cohort.items] == [
        str(folder / n) for n in ("b.png", "sub/a.tif", "sub/deep/c.JPG")
    ]
    assert cohort.root == folder
    assert {entry["status"] for entry in state(folder).values()} == {"pending"}


def test_one_image(folder):
    cohort = Cohort(folder / "sub" / "a.tif", folder / "out")
    assert cohort.items == [{"image": str(folder / "sub" / "a.tif")}]
    assert cohort.root == folder / "sub"


def test_test_list_of_a_data_set(folder):
    item = {"image": "b.png", "label": "gone.csv", "group": "p1", "mpp": 0.25}
    (folder / "dataset.json").write_text(json.dumps({"training": [{"image": "x.png"}], "test": [item]}))
    (item_found,) = Cohort(folder, folder / "out").items
    assert item_found["image"] == str(folder / "b.png")
    assert (item_found["group"], item_found["mpp"]) == ("p1", 0.25)


def test_bad_images_are_set_aside_and_the_rest_goes_on(folder, capsys):
    (folder / "b.png").write_bytes(b"broken")
    cohort = Cohort(folder, folder / "out")
    assert len(cohort.items) == 2
    assert f"left out: {folder / 'b.png'}: expected a readable image" in capsys.readouterr().err
    entry = state(folder)[str(folder / "b.png")]
    assert entry["status"] == "failed"
    assert entry["reason"].startswith(f"{folder / 'b.png'}: expected")
    for item in cohort.items:
        image = MetaTensor(torch.zeros(3, 5, 5), meta={"filename_or_obj": item["image"]})
        data = {"source": image}
        assert MarkDoned("source", cohort)(data)["source"] is image
    statuses = sorted(entry["status"] for entry in state(folder).values())
    assert statuses == ["done", "done", "failed"]
    with pytest.raises(SystemExit) as caught:
        cohort.close()
    assert caught.value.code == 1
    assert "2 of 3 images done, 1 failed" in capsys.readouterr().out


def test_all_good_ends_well(folder, capsys):
    cohort = Cohort(folder, folder / "out")
    for item in cohort.items:
        cohort.done(item["image"])
    cohort.close()
    assert "3 of 3 images done, 0 failed" in capsys.readouterr().out


def test_an_image_that_was_never_reached_is_not_done(folder, capsys):
    cohort = Cohort(folder, folder / "out")
    cohort.done(cohort.items[0]["image"])
    with pytest.raises(SystemExit):
        cohort.close()
    assert "1 of 3 images done" in capsys.readouterr().out


def test_nothing_readable(folder):
    for name in ("b.png", "sub/a.tif", "sub/deep/c.JPG"):
        (folder / name).write_bytes(b"")
    with pytest.raises(InputError, match=r"images: expected at least one readable image, found 3 that cannot be read"):
        Cohort(folder, folder / "out")
    assert {entry["status"] for entry in state(folder).values()} == {"failed"}


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match="nothing there"):
        Cohort(tmp_path / "gone", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"images \(.*\.png.*\), found none in this folder or below it"):
        Cohort(tmp_path / "empty", tmp_path / "out")


def test_resolution_is_that_of_the_item(folder, monkeypatch):
    seen = []
    monkeypatch.setattr("monai_ext.data.cohort.read_field", lambda *args: seen.append(args[1:]))
    Cohort(folder / "b.png", folder / "out", 0.5, 0.25)
    Cohort(folder / "b.png", folder / "out")
    assert seen == [(0.5, 0.25), (None, None)]


def test_results_of_an_earlier_run_are_neither_input_nor_kept(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((30, 30, 3), 200, np.uint8))
    out = tmp_path / "out"
    for _ in range(2):
        cohort = Cohort(tmp_path, out)
        assert [item["image"] for item in cohort.items] == [str(tmp_path / "a.png")]
        assert not (out / "summary.csv").exists()
        cv2.imwrite(str(out / "a_overlay.png"), np.zeros((30, 30, 3), np.uint8))
        (out / "summary.csv").write_text("image,count\nb.png,3\n")


def test_another_check_and_its_failures(folder):
    def check(path, mpp, target_mpp):
        assert (mpp, target_mpp) == (0.5, 1.0)
        if path.endswith("b.png"):
            raise InputError(path, "a slide", "none")

    (folder / "sub" / "a.tif").write_bytes(b"never read")
    cohort = Cohort(folder, folder / "out", 0.5, 1.0, check=check)
    assert len(cohort.items) == 2
    assert state(folder)[str(folder / "b.png")]["reason"].endswith("expected a slide, found none")


def test_earlier_results_are_kept_on_request(folder, capsys):
    first = Cohort(folder, folder / "out")
    first.done(str(folder / "b.png"), summary={"image": "b.png", "score": 0.5}, seconds=3)
    first.failed(str(folder / "sub" / "a.tif"), "a full disk")
    before = (folder / "out" / "summary.csv").read_text()
    assert before == "image,score\nb.png,0.5\n"
    again = Cohort(folder, folder / "out", resume=True)
    assert again.state[str(folder / "b.png")]["seconds"] == 3
    assert again.state[str(folder / "sub" / "a.tif")] == {"status": "pending"}
    assert (folder / "out" / "summary.csv").read_text() == before
    afresh = Cohort(folder, folder / "out")
    assert {entry["status"] for entry in afresh.state.values()} == {"pending"}
    assert not (folder / "out" / "summary.csv").exists()


def test_what_several_processes_note_comes_together(folder, monkeypatch, capsys):
    first = Cohort(folder, folder / "out")
    monkeypatch.setenv("RANK", "1")
    second = Cohort(folder, folder / "out")
    paths = [item["image"] for item in first.items]
    second.done(paths[0], summary={"image": "b.png", "score": 1})
    first.done(paths[2], summary={"image": "a.png", "score": 0})
    second.failed(paths[1], "broken")
    assert [entry["status"] for entry in state(folder).values()] == ["done", "failed", "done"]
    assert (folder / "out" / "summary.csv").read_text() == "image,score\na.png,0\nb.png,1\n"
    with pytest.raises(SystemExit):
        first.close()
    assert "2 of 3 images done, 1 failed" in capsys.readouterr().out
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["state.json", "summary.csv"]


def test_only_the_first_process_begins_the_state_file(folder, monkeypatch):
    first = Cohort(folder, folder / "out")
    first.done(first.items[0]["image"])
    monkeypatch.setenv("RANK", "1")
    Cohort(folder, folder / "out")
    assert "done" in {entry["status"] for entry in state(folder).values()}


def test_pictures_of_an_earlier_run_are_no_images(folder):
    for name in ("b_overlay.png", "sub/a_heatmap.ome.tif"):
        cv2.imwrite(str(folder / "x.png"), np.zeros((5, 5, 3), np.uint8))
        (folder / "x.png").rename(folder / name)
    assert len(Cohort(folder, folder).items) == 3


def test_parts_of_a_slide_are_no_images(folder, capsys):
    (folder / "sub" / "s.vms").write_text("[Virtual Microscope Specimen]\nImageFile=c.jpg\nMapFile=m.jpg\n")
    for name in ("c.jpg", "m.jpg"):
        cv2.imwrite(str(folder / "sub" / name), np.zeros((5, 5, 3), np.uint8))
    cohort = Cohort(folder, folder / "out", check=lambda *_: None)
    names = ["b.png", "sub/a.tif", "sub/deep/c.JPG", "sub/s.vms"]
    assert [item["image"] for item in cohort.items] == [str(folder / name) for name in names]
    assert capsys.readouterr().err.count(f"{folder}: left out 2 files that are parts of slides") == 1


def test_linked_images_keep_the_links_name_and_folder(folder, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "patient 1").symlink_to(folder / "sub")
    (linked / "slide.png").symlink_to(folder / "b.png")
    cohort = Cohort(linked, tmp_path / "out")
    names = ["patient 1/a.tif", "patient 1/deep/c.JPG", "slide.png"]
    assert [item["image"] for item in cohort.items] == [str(linked / name) for name in names]
    files = ResultFiles(tmp_path / "out", cohort.root)
    images = [MetaTensor(torch.zeros(1), meta={"filename_or_obj": item["image"]}) for item in cohort.items]
    assert [files.source(image).as_posix() for image in images] == names


def test_the_input_folder_may_be_a_link(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    cohort = Cohort(tmp_path / "link", tmp_path / "link" / "out")
    assert cohort.items[0]["image"] == str(tmp_path / "link" / "b.png")
    cv2.imwrite(str(folder / "out" / "x.png"), np.zeros((5, 5, 3), np.uint8))
    assert len(Cohort(tmp_path / "link", folder / "out").items) == 3


def test_a_broken_link_is_an_image_that_cannot_be_read(folder, capsys):
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    assert len(Cohort(folder, folder / "out").items) == 3
    assert f"left out: {folder / 'gone.png'}: expected an image, found no such file" in capsys.readouterr().err


def test_torn_downloads_are_named_and_the_rest_goes_on(folder, capsys):
    tifffile.imwrite(folder / "sub/a.tif", np.zeros((50, 60, 3), np.uint8), photometric="rgb")  # its pixels lie last
    whole = (folder / "sub/a.tif").read_bytes()
    torn = {"a.svs": b"", "b.svs": b"<!DOCTYPE html><html>404", "c.svs": whole[:-1], "d.tif": whole[:20]}
    for name, content in torn.items():
        (folder / name).write_bytes(content)
    cohort = Cohort(folder, folder / "out")
    assert len(cohort.items) == 3
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("left out")]
    assert [name for name in torn if sum(str(folder / name) in line for line in lines) == 1] == list(torn)
    reasons = [state(folder)[str(folder / name)]["reason"].split(": ", 1)[1] for name in torn]
    assert reasons[0] == "expected an image, found an empty file, as of a download that failed"
    assert reasons[1] == "expected an image, found a web page (HTML), as of a download that failed"
    assert all(reason.endswith("its end is missing") for reason in reasons[2:])
