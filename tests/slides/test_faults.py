"""Real faults: a killed process, a full disk, a cut file, several processes."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from tests.slides import worker
from tests.slides.conftest import environment, files, paint, write_tiff

TIMEOUT = 300  # s
SLOW = pytest.mark.slow
OUTPUTS = {"_detections.csv", "_heatmap.ome.tif", "_overlay.png", "_plan.json", ".geojson"}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts a worker as a process of its own; forked from one that has imported everything, which takes long."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.slides.worker"])
    logs = tmp_path_factory.mktemp("logs")

    def start(*args):
        log = logs / f"{len(list(logs.iterdir()))}.txt"
        process = context.Process(target=worker.logged_main, args=([str(arg) for arg in args], log))
        process.start()
        return process, log

    return start


@pytest.fixture(scope="module")
def run(start):
    def run(*args):
        process, log = start(*args)
        process.join(TIMEOUT)
        assert process.exitcode is not None
        return process.exitcode, log.read_text()

    return run


def results(folder):
    """The files that depend on the slides alone: neither times nor the date."""
    return {name: content for name, content in files(folder).items() if name not in ("state.json", "report.html")}


def state(folder):
    content = json.loads((folder / "state.json").read_text())
    return {Path(image).stem: entry for image, entry in content.items()}


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    for seed, name in enumerate("abc"):
        write_tiff(folder / f"{name}.tif", paint(620, 930, seed), 0.5, levels=2)
    return folder


@pytest.fixture(scope="module")
def undisturbed(slides, run, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed")
    code, log = run(slides, output)
    assert code == 0, log
    return output


def linked(slides, names, folder):
    folder.mkdir()
    for name in names:
        os.link(slides / f"{name}.tif", folder / f"{name}.tif")
    return folder


def wait_for(condition, process):
    began = time.monotonic()
    while not condition():
        assert process.is_alive()
        assert time.monotonic() - began < TIMEOUT
        time.sleep(0.01)


@pytest.mark.slow
def test_undisturbed_run_twice_gives_the_same_bytes(slides, undisturbed, run, tmp_path):
    assert run(slides, tmp_path)[0] == 0
    assert results(tmp_path) == results(undisturbed)
    assert set(results(undisturbed)) == {f"{name}{suffix}" for name in "abc" for suffix in OUTPUTS} | {"summary.csv"}


@pytest.mark.slow
@pytest.mark.parametrize("stripes", [pytest.param(0, marks=SLOW), pytest.param(1, marks=SLOW), 2])
def test_killed_in_the_middle_and_resumed(slides, undisturbed, stripes, start, run, tmp_path):
    process, _ = start(slides, tmp_path, "--pause", 0.15)
    progress = tmp_path / "b.partial" / "progress.json"
    wait_for((tmp_path / "b.partial" / "map.npy").is_file, process)
    wait_for(lambda: not stripes or (progress.is_file() and f'"stripes": {stripes},' in progress.read_text()), process)
    process.kill()
    process.join()
    left = set(files(tmp_path))
    assert {f"a{suffix}" for suffix in OUTPUTS} <= left  # done before
    assert not any(name.startswith(("b_", "b.geojson", "c")) for name in left)  # nothing half-written
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in left if name.startswith("a")}

    code, log = run(slides, tmp_path)
    assert code == 0, log
    assert results(tmp_path) == results(undisturbed)
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in before} == before
    assert set(files(tmp_path)) == set(files(undisturbed))
    assert list(tmp_path.rglob("*.partial")) == []


@pytest.mark.parametrize(
    ("limit", "step"),
    [pytest.param(24_000, 8, marks=SLOW), pytest.param(60_000, 8, marks=SLOW), (100_000, 8), (60_000, 1)],
)
@pytest.mark.slow
def test_full_disk_is_noted_and_nothing_half_written_stays(slides, undisturbed, limit, step, run, tmp_path):
    """Files that may not grow any further fail as on a full disk; the state, of three pages, still has room."""
    code, log = run(slides, tmp_path, "--file_limit", limit, "--step", step)
    assert code == 1
    assert "Traceback" not in log
    made = set(files(tmp_path))
    for name, entry in state(tmp_path).items():
        assert entry["status"] == "failed"
        assert "File too large" in entry["reason"]
        assert not any(file.startswith((f"{name}_", f"{name}.geojson")) for file in made)
        kept = {file.split("/")[-1] for file in made if file.startswith(f"{name}.partial")}
        assert kept <= {".lock", "plan.json", "map.npy", "progress.json"}
    if step == 8:
        assert run(slides, tmp_path)[0] == 0  # there is room again
        assert results(tmp_path) == results(undisturbed)
        assert list(tmp_path.rglob("*.partial")) == []


@pytest.mark.parametrize("share", [pytest.param(0.02, marks=SLOW), 0.5, pytest.param(0.95, marks=SLOW)])
def test_truncated_slide(slides, undisturbed, share, run, tmp_path):
    source = linked(slides, "ac", tmp_path / "in")
    whole = (slides / "b.tif").read_bytes()
    (source / "b.tif").write_bytes(whole[: int(len(whole) * share)])
    assert run(source, tmp_path / "out")[0] == 1
    entry = state(tmp_path / "out")["b"]
    assert entry["status"] == "failed"
    assert str(source / "b.tif") in entry["reason"]
    made, expected = results(tmp_path / "out"), results(undisturbed)
    assert not any(name.startswith("b") for name in made)
    assert all(made[name] == expected[name] for name in made if name != "summary.csv")
    assert pd.read_csv(tmp_path / "out" / "summary.csv")["image"].tolist() == ["a.tif", "c.tif"]


def torchrun(ranks, *args):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    command = [*launcher, worker.__file__, *map(str, args)]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=TIMEOUT, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 5])
def test_processes_share_the_slides(slides, undisturbed, ranks, tmp_path):
    """Five processes for three slides: two have nothing to do, and wait."""
    done = torchrun(ranks, slides, tmp_path)
    assert done.returncode == 0, done.stderr
    assert results(tmp_path) == results(undisturbed)
    assert set(files(tmp_path)) == set(files(undisturbed))
    assert [entry["status"] for entry in state(tmp_path).values()] == ["done"] * 3


@pytest.mark.slow
def test_failure_in_one_process_is_everybodys(slides, tmp_path):
    source = linked(slides, "abc", tmp_path / "in")
    write_tiff(source / "d.tif", paint(620, 930), None)
    assert torchrun(2, source, tmp_path / "out").returncode == 1
    assert [entry["status"] for entry in state(tmp_path / "out").values()] == ["done"] * 3 + ["failed"]
    assert (tmp_path / "out" / "report.html").is_file()
    assert len(pd.read_csv(tmp_path / "out" / "summary.csv")) == 3
