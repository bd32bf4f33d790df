"""``python ARGUMENTS`` without the seconds in which PyTorch and MONAI are imported: a process that has them forks."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path

PRELOADED = (
    "monai.bundle",
    "monai.engines",
    "monai_ext.reports.agreement",
    "monai_ext.reports.comparison",
    "monai_ext.phantom",
    "monai_ext.prepare",
    "monai_ext.engines",
    "monai_ext.handlers",
    "monai_ext.inferers",
    "monai_ext.losses",
    "monai_ext.networks",
    "monai_ext.optimizers",
    "monai_ext.slides",
    "monai_ext.tuning",
    "monai_ext.visualize",
)


@cache
def _server(threads: str | None) -> ForkServerContext:
    """Forks processes whose libraries have read ``OMP_NUM_THREADS`` when they were imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    before = os.environ.get("OMP_NUM_THREADS")
    try:
        if threads is not None:
            os.environ["OMP_NUM_THREADS"] = threads
        multiprocessing.forkserver.ensure_running()
    finally:
        os.environ.pop("OMP_NUM_THREADS", None) if before is None else os.environ.update(OMP_NUM_THREADS=before)
    return context


def _interpret(words: Sequence[str], folder: str, surroundings: Mapping[str, str], out: str, err: str) -> None:
    """What ``python`` does with its arguments, in a process of its own."""
    assert "monai_ext.options" not in sys.modules  # it looks at the arguments when it is imported
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(surroundings)
    for path, number in ((out, 1), (err, 2)):
        with Path(path).open("ab") as file:
            os.dup2(file.fileno(), number)
    try:
        if words[0] == "-c":
            sys.argv, sys.path[0] = ["-c", *words[2:]], ""
            exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
        elif words[0] == "-m":
            sys.argv, sys.path[0] = list(words[1:]), folder
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv, sys.path[0] = list(words), str(Path(folder, words[0]).parent)
            runpy.run_path(words[0], run_name="__main__")
    except Exception:
        sys.excepthook(*sys.exc_info())  # which a bundle may have set
        sys.exit(1)
    finally:
        atexit._run_exitfuncs()  # a forked process leaves without them


def run_python(
    words: Sequence[object], cwd: str | Path, env: Mapping[str, str], timeout: float, together: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run ``python WORDS``.

    Args:
        words: ``-m`` and a module, ``-c`` and code, or a script; then its arguments.
        cwd: where.
        env: the environment; of ``PYTHON...`` and of the threads only what the first call says counts.
        timeout: seconds; a process that takes longer is killed, with exit code -9.
        together: errors go where output goes.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "out" if together else "err")
        process = _server(env.get("OMP_NUM_THREADS")).Process(
            target=_interpret, args=([str(word) for word in words], str(cwd), dict(env), str(out), str(err))
        )
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
        told = [path.read_text(errors="replace") if path.exists() else "" for path in (out, err)]
        return subprocess.CompletedProcess(["python", *map(str, words)], process.exitcode, *told)
