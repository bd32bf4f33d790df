"""A training that the page starts: what reaches the command, what is told of it, and that it ends."""

import json
import os
import sys
import time

import pytest
import shapely

from monai_ext.base.errors import InputError
from monai_ext.formats import Features
from monai_ext.view import find_cases
from monai_ext.view.training import Training
from tests.reviewed import write_run


def ended(viewer, *states, patience=10):
    for _ in range(20 * patience):
        status = viewer.json("api/learn")
        if status["state"] in states:
            return status
        time.sleep(0.05)
    raise AssertionError(status)


def is_there(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_command_is_given_what_was_checked_and_its_outcome_is_told(taught, start, tmp_path):
    out, learn = taught
    viewer = start(out, learn={**learn, "options": {"slides": tmp_path / "in", "mpp": None}})
    assert viewer.json("api/learn") == {"state": "none", "why_not": None, "rounds": []}
    wanted = {"action": "start", "epochs": 4, "learning_rate": 0.001, "seed": 0, "round": None, "device": "; rm"}
    assert viewer.json("api/learn", wanted)["state"] == "running"
    status = ended(viewer, "done", "failed")
    words = json.loads((out / "learn/round_1/words.json").read_text())
    options = ["--bundle", str(learn["bundle"]), "--slides", str(tmp_path / "in")]
    assert words == [str(out), *options, "--epochs", "4", "--learning_rate", "0.001", "--seed", "0"]
    assert status["rounds"] == [1]
    interval = {"difference": 0.25, "low": -0.1, "high": 0.6}
    assert status["outcome"] == {
        "rows": [{"lesson": "points", "measure": "F1", "before": 0.5, "after": 0.75, **interval}],
        "weights": str(out / "learn/round_1"),
        "command": "cd bundle && python",
        "notes": ["2 fields"],
    }
    viewer.json("api/learn", {"action": "start", "round": 1, "seed": 0})
    ended(viewer, "done")
    words = json.loads((out / "learn/round_1/words.json").read_text())
    assert words[-2:] == ["--ckpt_dir", str(out / "learn/round_1")]


def test_one_at_a_time_with_progress_until_it_is_cancelled(taught, start):
    out, learn = taught
    viewer = start(out, learn=learn)
    viewer.json("api/learn", {"action": "start", "seed": 2})
    for _ in range(100):
        status = viewer.json("api/learn")
        if "step" in status:
            break
        time.sleep(0.05)
    assert {name: status[name] for name in ("phase", "epoch", "epochs", "step", "steps")} == {
        "phase": "points, training",
        "epoch": 2,
        "epochs": 4,
        "step": 3,
        "steps": 6,
    }
    assert 80 <= status["left"] <= 90
    code, _, body = viewer.ask("api/learn", {"action": "start", "seed": 0})
    assert (code, "one training at a time" in json.loads(body)["error"]) == (422, True)
    assert viewer.json("api/slides")["title"] == "out"  # it answers meanwhile
    assert viewer.json("api/learn", {"action": "cancel"})["state"] == "cancelled"
    assert "outcome" not in viewer.json("api/learn")
    viewer.json("api/learn", {"action": "start", "seed": 0})  # the next one is not the last one's
    assert ended(viewer, "done", "failed")["state"] == "done"


def test_what_goes_wrong_is_told_in_the_commands_own_line(taught, start):
    out, learn = taught
    viewer = start(out, learn=learn)
    viewer.json("api/learn", {"action": "start", "seed": 1})
    status = ended(viewer, "done", "failed")
    assert status["error"] == "out: expected at least 10 reviewed objects, found 1"
    broken = start(out, learn={**learn, "command": [sys.executable, "-c", "print('Killed'); exit(9)"]})
    broken.json("api/learn", {"action": "start"})
    assert ended(broken, "failed")["error"] == "Killed"


def test_the_training_ends_with_the_viewer(taught, start):
    out, learn = taught
    child = (
        "import os, pathlib, sys, time; pathlib.Path(sys.argv[1], 'pid').write_text(f'{os.getpid()} '); time.sleep(60)"
    )
    viewer = start(out, learn={**learn, "command": [sys.executable, "-c", child]})
    viewer.json("api/learn", {"action": "start"})
    while not (out / "pid").is_file() or not (out / "pid").read_text():
        time.sleep(0.05)
    pid = int((out / "pid").read_text())
    assert is_there(pid)
    viewer.end()
    assert not is_there(pid)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"action": "begin"}, "start or cancel, found 'begin'"),
        ({}, "start or cancel, found None"),
        ({"action": "start", "epochs": 0}, "epochs: expected a whole number 1 to 1000, found 0"),
        ({"action": "start", "epochs": 2.0}, "epochs: expected a whole number"),
        ({"action": "start", "epochs": True}, "epochs: expected a whole number"),
        ({"action": "start", "epochs": "3 --device x"}, "epochs: expected a whole number"),
        ({"action": "start", "learning_rate": "1e-3"}, "learning_rate: expected a number 1e-07 to 1"),
        ({"action": "start", "learning_rate": 5}, "learning_rate: expected a number"),
        ({"action": "start", "seed": -1}, "seed: expected a whole number 0 to"),
        ({"action": "start", "round": 1}, "round: expected none, found 1"),
        ({"action": "start", "round": "../.."}, "round: expected none, found '../..'"),
        ({"action": "start", "round": [1]}, "round: expected none, found [1]"),
    ],
)
def test_no_other_words_reach_the_command(taught, start, wanted, expected):
    out, learn = taught
    viewer = start(out, learn=learn)
    status, _, body = viewer.ask("api/learn", wanted)
    assert status == 422
    assert expected in json.loads(body)["error"]
    assert "\n" not in json.loads(body)["error"]
    assert viewer.json("api/learn")["state"] == "none"
    assert not (out / "learn").exists()


def test_other_sites_and_those_without_the_token_start_nothing(taught, start):
    out, learn = taught
    viewer = start(out, learn=learn)
    content = {"action": "start", "seed": 0}
    assert viewer.ask("api/learn", content, Content_Type="text/plain")[0] == 403
    assert viewer.ask("api/learn", content, Host="evil.example")[0] == 403
    closed = start(out, token="a-token", learn=learn)
    closed.url = closed.url.removesuffix("a-token/")
    assert closed.ask("api/learn", content)[0] == 403
    assert not (out / "learn").exists()


def test_why_nothing_can_be_learnt(taught, start, tmp_path):
    out, learn = taught
    bare = write_run(tmp_path / "bare", {"a": Features([shapely.box(0, 0, 9, 9)])})
    assert "--bundle" in Training(out, find_cases(out)).why_not()
    assert start(out).json("api/learn") is None
    assert "no results of a run" in Training(out, find_cases(tmp_path / "in"), learn["bundle"]).why_not()
    viewer = start(bare, learn=learn)
    assert viewer.json("api/learn")["why_not"] == "Nothing has been reviewed yet"
    status, _, body = viewer.ask("api/learn", {"action": "start"})
    assert (status, "found Nothing has been reviewed yet" in json.loads(body)["error"]) == (422, True)
    with pytest.raises(InputError, match="--bundle: expected the folder of a bundle"):
        Training(out, find_cases(out), tmp_path)


def test_the_command_itself_is_called(taught, start):
    out, learn = taught
    viewer = start(out, learn={"bundle": learn["bundle"]})
    viewer.json("api/learn", {"action": "start", "epochs": 2})
    status = ended(viewer, "done", "failed", patience=60)
    assert "learn: expected options among --src, --bundle" in status["error"]  # this bundle has no entry epochs
    assert status["error"].endswith("found --epochs")
