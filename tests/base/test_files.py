"""Files that appear whole or not at all."""

import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from monai_ext.base.files import atomic_path, find_files, locked, path_below, write_png

LIBRARY = Path(__file__).parents[2] / "monai_ext"


@pytest.mark.parametrize(
    ("shape", "dtype"), [((5, 7), np.uint8), ((5, 7), np.uint16), ((5, 7, 3), np.uint8)], ids=["grey", "16 bits", "RGB"]
)
def test_png_holds_what_was_written(tmp_path, shape, dtype):
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype)
    write_png(tmp_path / "new/a.png", image)
    read = cv2.imread(str(tmp_path / "new/a.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(read[..., ::-1] if image.ndim == 3 else read, image)


def test_a_full_disk_is_named_and_leaves_the_old_file(tmp_path):
    # the limit of a file's size stands for a disk without room: both are an OSError of the write
    write_png(tmp_path / "a.png", np.zeros((2, 2), np.uint8))
    before = (tmp_path / "a.png").read_bytes()
    code = f"""
import resource, signal
import numpy as np
from monai_ext.base.files import write_png
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
write_png({str(tmp_path / "a.png")!r}, np.random.default_rng(0).integers(0, 255, (99, 99), np.uint8))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "File too large" in run.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == before


def test_pictures_are_written_by_the_one_checked_function():
    # OpenCV's own writer tells of a full disk by a return value, if at all
    writers = {path.name for path in LIBRARY.rglob("*.py") if "cv2.imwrite(" in path.read_text()}
    assert writers == {"doctor.py"}  # which tries OpenCV itself, and looks at what it returns


def test_a_file_takes_its_place_when_the_block_ends_well(tmp_path):
    with atomic_path(tmp_path / "sub/a.txt") as temporary:
        temporary.write_text("new")
        assert not (tmp_path / "sub/a.txt").exists()
        assert temporary.suffix == ".txt"
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["a.txt"]


def test_a_block_that_fails_leaves_nothing(tmp_path):
    def fail(path):
        path.write_text("half")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), atomic_path(tmp_path / "a.txt") as temporary:
        fail(temporary)
    assert list(tmp_path.iterdir()) == []


def test_files_are_found_but_not_hidden_or_skipped_ones(tmp_path):
    for name in ("b.PNG", "sub/a.png", ".hidden.png", ".git/x.png", "__MACOSX/x.png", "out/c.png", "d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    assert find_files(tmp_path, (".png",), tmp_path / "out") == [tmp_path / "b.PNG", tmp_path / "sub/a.png"]


def test_linked_files_and_folders_keep_the_links_name(tmp_path):
    source, store = tmp_path / "source", tmp_path / "store"
    for name in ("case/a.png", "b.png"):
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).touch()
    source.mkdir()
    (source / "patient 1").symlink_to(store / "case")
    (source / "slide.png").symlink_to(store / "b.png")
    (source / "gone.png").symlink_to(store / "nowhere.png")
    names = [path.relative_to(source).as_posix() for path in find_files(source, (".png",))]
    assert names == ["gone.png", "patient 1/a.png", "slide.png"]


def test_a_folder_that_is_reached_twice_counts_by_its_own_name(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m/a.png").touch()
    for name in ("a link", "z link"):
        (tmp_path / name).symlink_to(tmp_path / "m")
    assert find_files(tmp_path, (".png",)) == [tmp_path / "m/a.png"]


def test_files_are_sorted_as_paths_are(tmp_path):
    names = ("a/x.png", "a b.png", "a.png", "a-b/x.png", "B.png", "a/b/y.png")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert find_files(tmp_path, (".png",)) == sorted(tmp_path / name for name in names)


def test_a_folder_that_cannot_be_read_is_named(tmp_path, capsys, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.png").touch()
    scandir = os.scandir

    def refuse(folder):
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr("monai_ext.base.files.os.scandir", refuse)
    assert find_files(tmp_path, (".png",)) == [tmp_path / "a.png"]
    assert capsys.readouterr().err == f"left out: {tmp_path / 'closed'}: Permission denied\n"


def test_paths_below_a_folder_keep_the_names_of_links(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "images").symlink_to(tmp_path / "store")
    assert path_below(tmp_path / "images/a.svs", tmp_path) == Path("images/a.svs")
    assert path_below(tmp_path / "store/a.svs", tmp_path / "images") == Path("a.svs")
    assert path_below("/elsewhere/../b/a.svs", tmp_path) == Path("b/a.svs")


def add_one(path):
    for _ in range(200):
        with locked(path.parent / "deep" / ".lock"):
            path.write_text(str(int(path.read_text()) + 1))


@pytest.mark.parametrize("kind", [threading.Thread, multiprocessing.get_context("fork").Process])
@pytest.mark.parametrize("without_flock", [False, True])
def test_a_locked_block_is_in_one_thread_and_process_at_a_time(tmp_path, monkeypatch, kind, without_flock):
    if without_flock:
        monkeypatch.setattr("monai_ext.base.files.fcntl", None)
    (tmp_path / "count").write_text("0")
    workers = [kind(target=add_one, args=(tmp_path / "count",)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert (tmp_path / "count").read_text() == "800"


def test_a_block_that_fails_leaves_no_lock(tmp_path):
    with pytest.raises(RuntimeError, match="of the block"), locked(tmp_path / ".lock"):
        raise RuntimeError("of the block")
    with locked(tmp_path / ".lock"):
        pass
