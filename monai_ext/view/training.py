"""``monai-ext learn`` as a child process of the viewer, one at a time."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from monai_ext.base.errors import InputError
from monai_ext.view.cases import Cases

__all__ = ["Training"]

_COMMAND = (sys.executable, "-m", "monai_ext", "learn")
#: What a page may set: the kind of number, the least and the most. Nothing else of it reaches the command.
_NUMBERS = {"epochs": (int, 1, 1000), "learning_rate": (float, 1e-7, 1.0), "seed": (int, 0, 2**32 - 1)}
_KEPT = 40  # lines that a child has said last
_PATIENCE_S = 5.0  # between asking a child to end and ending it
_PHASE = re.compile(r"^(.+): (?:starting|going on|done before)\b")
_EPOCH = re.compile(r"\bepoch (\d+)/(\d+)")
_STEP = re.compile(r"\| *(\d+)/(\d+) \[")
_LEFT = re.compile(r", (?:(\d+) days?, )?(\d+):(\d\d):(\d\d) left$")
_ERROR = re.compile(r"^(?:\w+\.)*\w*Error: (.+)")
_RESULT = "learn.json"


class Training:
    """Starts ``learn`` of a run's corrections, follows what it says, and ends it with the viewer.

    Args:
        src: the output folder of the run.
        cases: what the viewer shows of it.
        bundle: the folder of the bundle that the run was of; without it nothing is learnt.
        options: further ones of the command, that the viewer was started with; ``None`` for none of a name.
        command: the words that begin it.

    Raises:
        InputError: the bundle is none.
    """

    def __init__(
        self,
        src: str | os.PathLike,
        cases: Cases,
        bundle: str | os.PathLike | None = None,
        options: Mapping[str, Any] | None = None,
        command: Sequence[str] = _COMMAND,
    ) -> None:
        if bundle is not None and not (Path(bundle) / "configs/train.json").is_file():
            raise InputError("--bundle", "the folder of a bundle, with configs/train.json", repr(str(bundle)))
        self.src, self.bundle, self._logs = Path(src), bundle, [case.log for case in cases.cases if case.log]
        self._options, self._command = dict(options or {}), list(command)
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._state, self._told, self._said = "none", {}, deque(maxlen=_KEPT)
        self._end = 0.0  # of the training, as it was estimated

    def why_not(self) -> str | None:
        """Why nothing can be learnt now, in one line; ``None`` if it can."""
        if not self._logs:
            return "There are no results of a run here to correct and to learn from"
        if self.bundle is None:
            return "Start the viewer with --bundle, the folder of the bundle that the run was of"
        if not any(log.is_file() and log.stat().st_size for log in self._logs):
            return "Nothing has been reviewed yet"
        return None

    def rounds(self) -> list[int]:
        """The numbers of the rounds that were finished, whose weights a further one can go on from."""
        names = (path.parent.name for path in (self.src / "learn").glob(f"round_*/{_RESULT}"))
        return sorted(int(name.removeprefix("round_")) for name in names if name.removeprefix("round_").isdecimal())

    def status(self) -> dict[str, Any]:
        """How it stands.

        Returns:
            ``state``: none, running, done, failed or cancelled; ``why_not`` and ``rounds``; while it runs ``phase``,
            ``epoch`` of ``epochs``, ``step`` of ``steps`` and ``left`` (s), as far as they are known; ``outcome`` of
            what is done; ``error`` of what failed, in one line.
        """
        with self._lock:
            told, state, end = dict(self._told), self._state, self._end
        if state == "running" and end:
            told["left"] = max(0, round(end - time.monotonic()))
        return {"state": state, "why_not": self.why_not(), "rounds": self.rounds(), **told}

    def start(self, wanted: Mapping[str, Any]) -> None:
        """Start it, unless one runs.

        Args:
            wanted: of a page: ``epochs``, ``learning_rate``, ``seed``, each if it is not as configured, and ``round``,
                the number of one of :meth:`rounds` whose weights are gone on from.

        Raises:
            InputError: one runs, nothing can be learnt, or a number is none or out of its range.
        """
        words = [*self._command, str(self.src), *self._words(wanted)]
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                raise InputError("learn", "one training at a time", "one that runs")
            if reason := self.why_not():
                raise InputError("learn", "corrections of a run, and its bundle", reason)
            self._said.clear()
            self._told, self._end = {}, 0.0
            # in the viewer's own group of processes: Ctrl-C and a closed terminal reach both
            self._process = subprocess.Popen(  # noqa: S603 - no shell, and each word was checked
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
            self._state = "running"
            Thread(target=self._follow, args=(self._process,), daemon=True).start()

    def cancel(self) -> None:
        """End it, if it runs; the weights from before are as they were."""
        with self._lock:
            process = self._process if self._state == "running" else None
            if process is None:
                return
            self._state = "cancelled"
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE_S)
            return
        process.kill()

    def _words(self, wanted: Mapping[str, Any]) -> list[str]:
        """The options, each checked."""
        options = {"bundle": self.bundle, **self._options}
        for name, (kind, low, high) in _NUMBERS.items():
            value = wanted.get(name)
            if value is not None:
                whole = isinstance(value, int) and not isinstance(value, bool)
                if not (whole or (kind is float and isinstance(value, float))) or not low <= value <= high:
                    raise InputError(name, f"a {'whole ' * (kind is int)}number {low:g} to {high:g}", repr(value)[:80])
                options[name] = kind(value)
        if (number := wanted.get("round")) is not None:
            if isinstance(number, bool) or number not in self.rounds():
                raise InputError("round", " or ".join(map(str, self.rounds())) or "none", repr(number)[:80])
            options["ckpt_dir"] = self.src / "learn" / f"round_{int(number)}"
        return [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]

    def _follow(self, process: subprocess.Popen[bytes]) -> None:
        """Take in what a child says until it ends."""
        for line in _lines(process):
            with self._lock:
                self._said.append(line)
                self._take(line)
        code = process.wait()
        with self._lock:
            if self._process is not process:  # the next one has begun
                return
            if self._state == "cancelled":
                self._told = {}
            elif code == 0 and (outcome := _outcome(self._said)):
                self._state, self._told = "done", {"outcome": outcome}
            else:
                self._state, self._told = "failed", {"error": _error(self._said, code)}

    def _take(self, line: str) -> None:
        if phase := _PHASE.match(line):
            self._told, self._end = {"phase": phase[1]}, 0.0
        if epoch := _EPOCH.search(line):
            self._told |= {"epoch": int(epoch[1]), "epochs": int(epoch[2])}
            self._told.pop("step", None)
        if (step := _STEP.search(line)) and epoch:
            self._told |= {"step": int(step[1]), "steps": int(step[2])}
        if left := _LEFT.search(line):
            days, hours, minutes, seconds = (int(part or 0) for part in left.groups())
            self._end = time.monotonic() + ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _lines(process: subprocess.Popen[bytes]) -> Iterator[str]:
    """What a process says, line by line; a bar that is drawn anew is a line."""
    rest = b""
    while block := process.stdout.read1(1 << 16):
        *whole, rest = re.split(rb"[\r\n]", rest + block)
        yield from (text for line in whole if (text := line.decode(errors="replace").strip()))
    if text := rest.decode(errors="replace").strip():
        yield text


def _error(said: Sequence[str], code: int) -> str:
    told = [match[1] for line in said if (match := _ERROR.match(line))]
    return (told or [said[-1] if said else f"it ended with exit code {code}"])[-1]


def _outcome(said: Sequence[str]) -> dict[str, Any] | None:
    """Of each network and measure the value before and after, with the difference and its interval; the weights."""
    path = next((Path(line) for line in reversed(said) if Path(line).name == _RESULT), None)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = [row for lesson, score in content["scores"].items() for row in _rows(lesson, score["comparison"])]
        return {"rows": rows, "weights": str(path.parent), "command": content["command"], "notes": content["notes"]}
    except (AttributeError, OSError, KeyError, TypeError, ValueError):
        return None


def _rows(lesson: str, comparison: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    before, after = comparison["before"], comparison["after"]
    names = [name for name in before if name != "runs" and not name.endswith((" low", " high"))]
    found = {"difference": "", "low": " low", "high": " high"}
    return [
        {
            "lesson": lesson,
            "measure": name,
            "before": _finite(before[name]),
            "after": _finite(after.get(name)),
            **{key: _finite(after.get(f"{name} less before{end}")) for key, end in found.items()},
        }
        for name in names
        if _finite(before[name]) is not None
    ]


def _finite(value: Any) -> float | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None
