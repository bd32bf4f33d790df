import pickle
import subprocess
import sys

import pytest

from monai_ext.base.errors import DataListError, InputError

RAISE = """
from monai_ext.base.errors import DataListError, InputError, report_plainly
report_plainly()
{}
"""
DEEP = """
try:
    try:
        raise {}
    except ValueError as error:
        raise RuntimeError("config") from error
except RuntimeError as error:
    {}
"""


def run(code):
    return subprocess.run([sys.executable, "-c", RAISE.format(code)], capture_output=True, text=True, check=False)


def test_messages():
    error = InputError("a/b.png", "an image", "a folder")
    assert str(error) == "a/b.png: expected an image, found a folder"
    assert isinstance(error, ValueError)
    both = DataListError("d.json", ["a: one", "b: two"])
    assert str(both) == "d.json: expected a usable data list, found 2 problem(s):\n  a: one\n  b: two"


@pytest.mark.parametrize(
    "error", [InputError("a", "b", "c"), DataListError("a", ["x", "y"])], ids=lambda e: type(e).__name__
)
def test_errors_cross_processes(error):
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert (str(back), vars(back)) == (str(error), vars(error))


@pytest.mark.parametrize(
    "code",
    [
        pytest.param('raise InputError("f.png", "an image", "text")', id="plain"),
        pytest.param(
            DEEP.format('InputError("f.png", "an image", "text")', 'raise RuntimeError("outer") from error'),
            id="wrapped",
        ),
        pytest.param(
            DEEP.format('InputError("f.png", "an image", "text")', 'raise KeyError("outer")'), id="in the context"
        ),
    ],
)
def test_a_user_sees_one_line(code):
    done = run(code)
    assert done.returncode == 1
    assert done.stderr.strip() == "InputError: f.png: expected an image, found text"
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        pytest.param('raise KeyError("a bug")', "KeyError: 'a bug'", id="a bug"),
        pytest.param(DEEP.format('ValueError("a bug")', "raise"), "ValueError: a bug", id="a wrapped bug"),
    ],
)
def test_other_errors_keep_their_traceback(code, shown):
    done = run(code)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert shown in done.stderr


def test_every_problem_has_its_line():
    done = run('raise DataListError("d.json", ["a: one", "b: two"])')
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[1:] == ["  a: one", "  b: two"]
