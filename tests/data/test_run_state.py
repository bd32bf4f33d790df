"""The state of a run: killed, interrupted, shared by processes, damaged; and what it costs."""

import json
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pandas as pd
import pytest

from monai_ext.base.errors import InputError
from monai_ext.data.cohort import Cohort
from monai_ext.data.run_state import RunState
from tests.slides.conftest import environment

PATIENCE = 120  # s
FORK = multiprocessing.get_context("fork")


def anything(*_):
    """A check of images that none fails."""


@pytest.fixture
def images(tmp_path):
    """A folder of 400 images; their pixels are nobody's concern here."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(400):
        (folder / f"{number:03d}.png").touch()
    return folder


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def cohort(images, out, resume=True):
    return Cohort(images, out, check=anything, resume=resume)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def exported(out):
    return json.loads((out / "state.json").read_text(encoding="utf-8"))


def facts(number):
    return {"summary": {"image": f"{number:03d}.png", "score": number / 7}, "seconds": number}


def mark(images, out, numbers, rank=0, written=None):
    """Mark some images as done; each is told when it is recorded."""
    os.environ["RANK"] = str(rank)
    run = cohort(images, out)
    for number in numbers:
        run.done(run.items[number]["image"], **facts(number))
        if written is not None:
            os.write(written, f"{number}\n".encode())


def sleep(began):
    began.set()
    time.sleep(PATIENCE)


@pytest.mark.parametrize("number", [40, 250])
def test_what_was_recorded_outlives_a_kill(images, out, number):
    reading, writing = os.pipe()
    process = FORK.Process(target=mark, args=(images, out, range(399), 0, writing))
    process.start()
    os.close(writing)
    seen = b""
    while seen.count(b"\n") < number:
        seen += os.read(reading, 1000)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    while more := os.read(reading, 1000):
        seen += more
    recorded = [int(line) for line in seen.split()]
    assert recorded == list(range(len(recorded)))
    assert "state.sqlite" in names(out)
    for state in (RunState(out).read(), cohort(images, out).state):  # any reader, and the next run
        done = [image for image, entry in state.items() if entry["status"] == "done"]
        assert len(done) - len(recorded) in (0, 1)  # one may have been recorded and not told
        assert list(state) == [str(images / f"{k:03d}.png") for k in range(400)]
        assert all(state[str(images / f"{k:03d}.png")] == {"status": "done", **facts(k)} for k in recorded)


def test_processes_that_record_at_the_same_time_lose_nothing(images, out):
    first = cohort(images, out)
    processes = [FORK.Process(target=mark, args=(images, out, range(rank, 400, 4), rank)) for rank in range(1, 4)]
    for process in processes:
        process.start()
    for number in range(0, 400, 4):
        first.done(first.items[number]["image"], **facts(number))
    for process in processes:
        process.join(PATIENCE)
        assert process.exitcode == 0
    first.close()
    assert exported(out) == {str(images / f"{k:03d}.png"): {"status": "done", **facts(k)} for k in range(400)}
    assert list(exported(out)) == [item["image"] for item in first.items]
    assert names(out) == ["state.json", "summary.csv"]
    pd.testing.assert_frame_equal(
        pd.read_csv(out / "summary.csv"), pd.DataFrame([facts(number)["summary"] for number in range(400)])
    )


@pytest.mark.slow
def test_a_run_may_be_closed_while_others_still_record(images, out, capsys, monkeypatch):
    """Closing removes the database, in the middle of what threads and another process record."""
    first = cohort(images, out)
    monkeypatch.setenv("RANK", "1")
    others = [cohort(images, out) for _ in range(3)]

    def record(other, rank):
        for number in range(rank, 400, 4):
            other.done(other.items[number]["image"])

    threads = [threading.Thread(target=record, args=(other, rank)) for rank, other in enumerate(others)]
    process = FORK.Process(target=mark, args=(images, out, range(3, 400, 4), 3))
    for worker in (process, *threads):  # a process that is forked from one with threads may never run
        worker.start()
    for _ in range(20):
        RunState(out).close()
        time.sleep(0.005)
    for worker in (*threads, process):
        worker.join(PATIENCE)
    assert process.exitcode == 0
    first.close()
    assert [entry["status"] for entry in exported(out).values()] == ["done"] * 400
    left = {".state.lock", "state.json", "summary.csv"}
    assert left - {".state.lock"} <= set(names(out)) <= left  # the lock is made by who records after a closing


SCRIPT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
from monai_ext.data.cohort import Cohort
run = Cohort(sys.argv[1], sys.argv[2], check=lambda *_: None, resume=True)
for number, item in enumerate(run.items[:350]):
    run.done(item["image"], summary={"image": item["image"], "score": number})
print("here", flush=True)
time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 128 + signal.SIGTERM),
        pytest.param(signal.SIGINT, -signal.SIGINT, marks=pytest.mark.slow),  # it takes long to start a process
    ],
)
def test_an_interrupted_run_exports_its_state(images, out, number, code):
    command = [sys.executable, "-c", SCRIPT, str(images), str(out)]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout.readline() == b"here\n"
        process.send_signal(number)
        try:
            assert process.wait(PATIENCE) == code
        finally:
            process.kill()
    assert [entry["status"] for entry in exported(out).values()] == ["done"] * 350 + ["pending"] * 50
    assert pd.read_csv(out / "summary.csv")["score"].tolist() == list(range(350))
    assert names(out) == ["state.json", "state.sqlite", "summary.csv"]


def test_a_signal_that_is_handled_already_stays_so(images, out):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        cohort(images, out)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        thread = threading.Thread(target=cohort, args=(images, out))
        thread.start()
        thread.join()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        run = cohort(images, out)
        began = FORK.Event()
        process = FORK.Process(target=sleep, args=(began,))
        process.start()
        assert began.wait(PATIENCE)
        process.terminate()
        process.join(PATIENCE)
        assert process.exitcode == -signal.SIGTERM  # as if it was never ours
        with pytest.raises(SystemExit) as ended:
            signal.raise_signal(signal.SIGTERM)
        assert ended.value.code == 128 + signal.SIGTERM
        assert run.items
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_run_continues_from_the_state_file_of_an_earlier_version(images, out):
    """It was written whole after each image, and there was no database."""
    out.mkdir()
    earlier = {str(images / "000.png"): {"status": "done", **facts(0)}, str(images / "001.png"): {"status": "pending"}}
    (out / "state.json").write_text(json.dumps(earlier, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    run = cohort(images, out)
    assert run.state[str(images / "000.png")] == {"status": "done", **facts(0)}
    assert [entry["status"] for entry in run.state.values()] == ["done"] + ["pending"] * 399
    assert (out / "summary.csv").read_text() == "image,score\n000.png,0.0\n"


def test_names_and_facts_of_any_kind(tmp_path, out):
    folder = tmp_path / 'ü "50 %" # ?\n'
    folder.mkdir()
    (folder / "\\é.png").touch()
    run = cohort(folder, out)
    given = {"reason": 'a "summary": x', "nested": {"summary": [1, None, True]}, "score": float("inf")}
    run.done(run.items[0]["image"], **given)
    run.close()
    assert exported(out) == {str(folder / "\\é.png"): {"status": "done", **given}}
    assert RunState(out).read() == exported(out)
    assert names(out) == ["state.json"]


def ours(out, **pragmas):
    """A database as a killed run leaves it."""
    RunState(out).begin({f"{number}.png": {"status": "done"} for number in range(3000)})
    with sqlite3.connect(out / "state.sqlite") as database:
        for name, value in pragmas.items():
            database.execute(f"PRAGMA {name} = {value}")
    database.close()


def overwrite(path, at, content):
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def foreign_database(out):
    with sqlite3.connect(out / "state.sqlite") as database:
        database.execute("CREATE TABLE images (name TEXT)")
    database.close()


def torn_database(out):
    ours(out)
    os.truncate(out / "state.sqlite", 10_000)


def overwritten_database(out):
    ours(out)
    overwrite(out / "state.sqlite", 4096, b"\xff" * 30_000)


def lone_torn_database(out):
    torn_database(out)
    (out / "state.json").unlink()


WRONG = {
    "torn text": (
        lambda out: (out / "state.json").write_text('{"a.png": {"sta'),
        "state.json",
        "a torn or foreign one",
    ),
    "no text": (lambda out: (out / "state.json").write_bytes(b"\xff\xfe\x00"), "state.json", "a torn or foreign one"),
    "other JSON": (lambda out: (out / "state.json").write_text("[1, 2]"), "state.json", "another program's JSON"),
    "other object": (
        lambda out: (out / "state.json").write_text('{"slides": {"count": 2}}'),
        "state.json",
        "another program's JSON (no status of 'slides')",
    ),
    "no database": (
        lambda out: (out / "state.sqlite").write_text("not a database " * 99),
        "state.sqlite",
        "something else (file is not a database); it is not ours to replace: choose another --output_dir, or remove it",
    ),
    "another program's": (foreign_database, "state.sqlite", "another program's database; it is not ours to replace"),
    "torn": (torn_database, "state.sqlite", "a damaged one; delete it to go on from state.json beside it, "),
    "overwritten": (overwritten_database, "state.sqlite", "a damaged one; delete it to go on from state.json"),
    "torn alone": (lone_torn_database, "state.sqlite", "a damaged one; delete it, choose another --output_dir"),
    "other version": (
        lambda out: ours(out, user_version=7),
        "state.sqlite",
        "that of another version of monai_ext (7 instead of 1); delete it to go on from state.json beside it, ",
    ),
}
KEPT = ("no database", "another program's")  # in which somebody else's work may be


@pytest.mark.parametrize("wrong", WRONG)
def test_a_torn_or_foreign_state_is_one_line_with_a_way_on(images, out, wrong):
    write, name, reported = WRONG[wrong]
    out.mkdir()
    write(out)
    content = (out / name).read_bytes()
    with pytest.raises(InputError) as caught:
        cohort(images, out)
    line = str(caught.value)
    assert line.startswith(f"{out / name}: expected the state of an earlier run, or no such file, found {reported}")
    assert "--output_dir" in line
    assert "\n" not in line
    assert ("--resume false" in line) == (wrong not in KEPT)
    assert (out / name).read_bytes() == content  # nothing was touched
    if wrong in KEPT:
        with pytest.raises(InputError, match="not ours to replace"):
            cohort(images, out, resume=False)
        assert (out / name).read_bytes() == content
        (out / name).unlink()
        cohort(images, out)
    else:
        cohort(images, out, resume=False)
        assert {entry["status"] for entry in exported(out).values()} == {"pending"}


def test_a_damaged_database_is_said_before_any_image_is_read(images, out):
    out.mkdir()
    (out / "state.sqlite").write_text("not a database " * 99)
    with pytest.raises(InputError, match=r"state\.sqlite"):
        Cohort(images, out, check=lambda *_: pytest.fail("an image was read"))


def test_without_the_damaged_database_the_run_goes_on(images, out):
    run = cohort(images, out)
    for item in run.items[:150]:
        run.done(item["image"])
    run._recorded.export()
    overwrite(out / "state.sqlite", 4096, b"\xff" * 30_000)
    with pytest.raises(InputError, match=r"delete it to go on from state\.json beside it"):
        cohort(images, out)
    (out / "state.sqlite").unlink()
    assert sum(entry["status"] == "done" for entry in cohort(images, out).state.values()) == 150


def test_a_lock_that_is_not_released_and_a_read_only_file(images, out, monkeypatch):
    monkeypatch.setattr("monai_ext.data.run_state._PATIENCE_S", 0.01)
    run = cohort(images, out)
    with sqlite3.connect(out / "state.sqlite", isolation_level=None) as database:
        database.execute("BEGIN IMMEDIATE")
        with pytest.raises(OSError, match=r"state\.sqlite: database is locked"):
            run.done(run.items[0]["image"])
        database.execute("ROLLBACK")
    database.close()
    assert run.state[run.items[0]["image"]] == {"status": "pending"}
    run.done(run.items[0]["image"])


def test_exports_cost_the_same_for_each_image_however_many(out, monkeypatch):
    """Without the clock: one for each change while there are few, then one for each quarter."""
    counts = []
    for size in (20, 1000, 20_000):
        state, written = RunState(out / str(size)), []
        monkeypatch.setattr(
            state, "_export", lambda rows, s=state, w=written: w.append(s._schedule.written(len(rows), -1e9))
        )
        state.begin({str(number): {"status": "pending"} for number in range(size)})
        for number in range(min(size, 2000)):
            state.write(str(number), {"status": "done"})
        counts.append(len(written))
    assert counts == [1 + 20, 1 + 1000 // 246, 1 + 2000 // 4996]


def test_slow_runs_are_exported_after_each_image(images, out, monkeypatch):
    run = cohort(images, out)
    for hours, item in enumerate(run.items[:3]):
        clock = SimpleNamespace(monotonic=lambda h=hours: 1e9 + 3600 * h)
        monkeypatch.setattr("monai_ext.data.run_state.time", clock)
        run.done(item["image"])
        assert [entry["status"] for entry in exported(out).values()].count("done") == hours + 1


@pytest.mark.parametrize("listed", [None, 0.3])
def test_what_was_told_of_the_resolution_is_recorded(images, out, listed):
    """A viewer asks for it; what a file states is not repeated."""
    names = sorted(path.name for path in images.iterdir())[:2]
    items = [{"image": str(images / names[0])} | ({"mpp": listed} if listed else {}), {"image": str(images / names[1])}]
    (images / "dataset.json").write_text(json.dumps({"test": items}))
    run = cohort(images, out)
    run.done(items[0]["image"])
    run.failed(items[1]["image"], "no reason")
    with pytest.raises(SystemExit):
        run.close()
    assert [entry.get("mpp") for entry in exported(out).values()] == [listed, None]
    Cohort(images, out, mpp=0.5, check=anything, resume=True)
    assert [entry["mpp"] for entry in RunState(out).read().values()] == [0.5, 0.5]
