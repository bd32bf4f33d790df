"""Do the tests notice a change? The share of mutants of ``formats``, ``metrics`` and ``slides`` that they kill.

Run from the repository's root, in the environment of ``requirements-dev.txt`` and with two packages on top (outside
CI: a mutant of ``slides`` takes half a minute of a CPU or more)::

    pip install cosmic-ray==8.7.0 coverage==7.17.5
    python benchmarks/mutation.py --seed 1

cosmic-ray's operators make the mutants (``+`` for ``-``, ``<=`` for ``<``, one more or less, ``and`` for ``or``, a loop
that does not turn, ...); in every module ``--count`` positions are drawn, and one mutant of each. Its own runner starts
Python for every mutant, which is 5 to 15 s of importing torch. Here the tests are collected once, and every mutant is
a fork in which the code of the functions that differ is exchanged; mutants of what runs at import (constants, default
values) are forks from before the tests were collected. Each runs the tests of the three packages that reach its lines,
until one fails or the time limit ends it. Tests marked ``slow`` are left out: they may only raise the share.

Mutants that change nothing anybody could see are listed with the reason in ``mutation_equivalent.json`` and are left
out of the share. Survivors are printed as they would be entered there.
"""

from __future__ import annotations

import ast
import gc
import importlib
import importlib.abc
import importlib.util
import inspect
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

import coverage
import fire
import hypothesis
import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).parents[1]
EQUIVALENT = Path(__file__).with_name("mutation_equivalent.json")
ARITHMETIC = {"Add", "Sub", "Mul", "Div", "FloorDiv", "Mod", "Pow"}
KILLED, SURVIVED, TIMED_OUT, UNTESTED = "killed", "survived", "timed out", "no test reaches it"


@dataclass(frozen=True)
class Mutant:
    """One change of one module.

    Attributes:
        path: The module's file, from the root.
        line: Its line, from 1.
        before: The line as it is.
        after: The line as it becomes.
        operator: cosmic-ray's name of the change.
        source: The whole module after the change.
    """

    path: str
    line: int
    before: str
    after: str
    operator: str
    source: str

    @property
    def module(self) -> str:
        """The module's name."""
        return self.path.removesuffix(".py").replace("/", ".")

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is known by, wherever the line moves."""
        return self.path, self.before, self.after


def plausible(operator: str) -> bool:
    """Whether somebody could write it by mistake: ``a ** b`` for ``a + b``, not ``a << b``; ``!=`` for ``==``.

    What is left out fails with a TypeError at once or changes nothing: it would only flatter the share.
    """
    kind, *names = operator.removeprefix("core/").split("_")
    if kind == "ReplaceBinaryOperator":
        return (names[0] in ARITHMETIC) == (names[1] in ARITHMETIC)
    if kind == "ReplaceComparisonOperator":
        return names[0].startswith("Is") == names[1].startswith("Is")
    return names[-1:] != ["Not"] and not get_operator(operator).arguments()


def what_runs(source: str) -> str:
    """The syntax tree without what only states something: annotations, and ``strict`` of ``zip``, an assert."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant("")
        elif isinstance(node, ast.Call):
            node.keywords = [keyword for keyword in node.keywords if keyword.arg != "strict"]
    return ast.dump(tree)


def mutants(path: Path, rng: random.Random) -> Iterator[Mutant]:
    """One mutant of each position of a module, in random order."""
    source = path.read_text()
    changes = defaultdict(list)
    nodes = [node for node in ast_nodes(get_ast(source)) if node.type not in {"name", "string", "newline"}]
    for name in filter(plausible, operator_names()):
        operator = get_operator(name)()
        positions = [start for node in nodes for start, _ in operator.mutation_positions(node)]
        for occurrence, start in enumerate(positions):
            changes[start].append((name, occurrence))
    original, lines = what_runs(source), source.splitlines()
    for start in rng.sample(sorted(changes), len(changes)):
        name, occurrence = rng.choice(changes[start])
        try:
            mutated = mutate_code(source, get_operator(name)(), occurrence)
            if what_runs(mutated) == original:
                continue
        except (SyntaxError, AttributeError):  # its exception replacer knows no dotted names (`except zlib.error`)
            continue
        line = start[0]
        after = mutated.splitlines()[line - 1].strip()
        yield Mutant(str(path.relative_to(ROOT)), line, lines[line - 1].strip(), after, name, mutated)


def sample(packages: tuple[str, ...], seed: int, count: int, without: tuple[int, ...]) -> list[Mutant]:
    """Up to ``count`` mutants of every module, none of which the seeds ``without`` draw."""
    drawn = []
    others = {m.key for other in without for m in sample(packages, other, count, ())}
    for package in packages:
        for path in sorted((ROOT / "monai_ext" / package).glob("[a-z]*.py")):
            fresh = (m for m in mutants(path, random.Random(f"{seed} {path.name}")) if m.key not in others)
            drawn += [m for m, _ in zip(fresh, range(count), strict=False)]
    return drawn


def codes(code: CodeType) -> Iterator[CodeType]:
    """A code object and all within it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes(constant)


def changed_functions(mutant: Mutant) -> dict[tuple[str, int], CodeType] | None:
    """The new code of the functions that differ, by name and line; None if what runs at import differs."""
    path = ROOT / mutant.path
    pairs = defaultdict(list)
    for source in (path.read_text(), mutant.source):
        for code in codes(compile(source, str(path), "exec")):
            pairs[code.co_qualname].append(code)
    changed = {}
    for same in pairs.values():
        half = len(same) // 2
        for old, new in zip(same[:half], same[half:], strict=False):
            in_function = old.co_flags & inspect.CO_NEWLOCALS
            if not in_function and flat(old) != flat(new):
                return None
            if old != new:
                changed[old.co_qualname, old.co_firstlineno] = new
    return changed


def exchange(mutant: Mutant) -> None:
    """Exchange the code of the living functions of a module."""
    importlib.import_module(mutant.module)
    changed, path = changed_functions(mutant), str(ROOT / mutant.path)
    for function in gc.get_objects():
        if isinstance(function, FunctionType) and function.__code__.co_filename == path:
            code = function.__code__
            function.__code__ = changed.get((code.co_qualname, code.co_firstlineno), code)


def flat(code: CodeType) -> tuple:
    """What a code object itself does, whatever the functions in it do."""
    return code.co_code, code.co_names, [c for c in code.co_consts if not isinstance(c, CodeType)]


class MutatedModule(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports one module from another source."""

    def __init__(self, mutant: Mutant) -> None:
        self.name, self.path, self.source = mutant.module, ROOT / mutant.path, mutant.source

    def find_spec(self, fullname: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        """Only for that module."""
        if fullname == self.name:
            return importlib.util.spec_from_file_location(fullname, self.path, loader=self)
        return None

    def get_source(self, fullname: str) -> str:
        """The other source."""
        return self.source

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """As usual."""
        return None


def forked(work: Callable[[], int], limit: float) -> int | None:
    """The exit status of ``work`` in a process of its own, silent; None if it ran out of time."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 2
        try:
            os.setsid()
            sink = os.open(os.environ.get("MUTATION_LOG", os.devnull), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(sink, 1)
            os.dup2(sink, 2)
            status = work()
        finally:
            os._exit(status)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


class Reach:
    """A pytest plugin: which test reaches which lines, and how long it takes."""

    def __init__(self) -> None:
        self.coverage = coverage.Coverage(source=[str(ROOT / "monai_ext")], data_file=None, config_file=False)
        self.seconds: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Lines are counted for the test that runs."""
        self.coverage.switch_context(item.nodeid)
        begin = time.perf_counter()
        result = yield
        self.seconds[item.nodeid] = time.perf_counter() - begin
        return result

    def measure(self, arguments: list[str], path: Path) -> int:
        """Run all tests and write ``{"seconds": {test: s}, "lines": {file: {line: [test]}}}``."""
        self.coverage.start()
        status = pytest.main(arguments, plugins=[self])
        self.coverage.stop()
        data = self.coverage.get_data()
        lines = {
            str(Path(file).relative_to(ROOT)): {
                line: tests
                for line, names in data.contexts_by_lineno(file).items()
                if (tests := [n for n in names if n])
            }
            for file in data.measured_files()
        }
        path.write_text(json.dumps({"seconds": self.seconds, "lines": lines}))
        return int(status)


class Tests:
    """The tests that reach a mutant, the quickest files first."""

    def __init__(self, path: Path) -> None:
        measured = json.loads(path.read_text())
        self.seconds, self.lines = measured["seconds"], measured["lines"]
        self.order = {test: number for number, test in enumerate(self.seconds)}

    def of(self, mutant: Mutant) -> list[str]:
        """Those that run the statement; else its function; else, for what runs at import, anything of its module."""
        lines = {int(line): tests for line, tests in self.lines.get(mutant.path, {}).items()}
        tree = ast.parse((ROOT / mutant.path).read_text())
        around = [n for n in ast.walk(tree) if isinstance(n, ast.stmt) and n.lineno <= mutant.line <= n.end_lineno]
        around.sort(key=lambda n: n.end_lineno - n.lineno)
        for node in [*around[:1], *(n for n in around if isinstance(n, ast.FunctionDef)), tree]:
            first, last = (node.lineno, node.end_lineno) if isinstance(node, ast.stmt) else (1, 10**9)
            reaching = {test for line, tests in lines.items() if first <= line <= last for test in tests}
            if reaching:
                break
        else:  # a module of nothing but definitions
            reaching = set(self.seconds)
        cost = Counter()
        for test in reaching:
            cost[test.split("::")[0]] += self.seconds[test]
        return sorted(reaching, key=lambda test: (cost[test.split("::")[0]], test.split("::")[0], self.order[test]))

    def limit(self, tests: list[str]) -> float:
        """s after which they certainly hang."""
        return 30 + 3 * sum(self.seconds[test] for test in tests)


class Mutate:
    """A pytest plugin: instead of running the collected tests, run for every mutant those that reach it."""

    def __init__(self, drawn: list[Mutant], tests: Tests, report: Callable[[Mutant, str], None]) -> None:
        self.drawn, self.tests, self.report = drawn, tests, report

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Takes over from pytest's own loop."""
        items = {item.nodeid: item for item in session.items}
        for mutant in self.drawn:
            tests = self.tests.of(mutant)
            chosen = [items[test] for test in tests]
            status = forked(lambda m=mutant, c=chosen: self._run(session, m, c), self.tests.limit(tests))
            self.report(mutant, outcome(tests, status))
        return True

    @staticmethod
    def _run(session: pytest.Session, mutant: Mutant, items: list[pytest.Item]) -> int:
        exchange(mutant)
        for item, following in zip(items, [*items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.testsfailed:
                return 1
        return 0


def outcome(tests: list[str], status: int | None) -> str:
    """In words."""
    if not tests:
        return UNTESTED
    if status is None:
        return TIMED_OUT
    return SURVIVED if status == 0 else KILLED


def run_at_import(mutant: Mutant, arguments: list[str], tests: list[str]) -> int:
    """The exit status of pytest with a mutant that is imported."""
    sys.meta_path.insert(0, MutatedModule(mutant))
    files = sorted({test.split("::")[0] for test in tests}, key=[test.split("::")[0] for test in tests].index)
    keep = set(tests)

    class Keep:
        @staticmethod
        def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
            items[:] = [item for item in items if item.nodeid in keep]

    return int(pytest.main([*arguments, "-x", *files], plugins=[Keep()]))


def main(
    seed: int = 1,
    count: int = 8,
    packages: tuple[str, ...] = ("formats", "metrics", "slides"),
    without: tuple[int, ...] = (),
    only: str = "",
    reach: str = "",
) -> None:
    """Draw mutants, run the tests that reach them, print the survivors and the share that was killed.

    Args:
        seed: Of the draw.
        count: Mutants of each module.
        packages: Of ``monai_ext``.
        without: Seeds whose mutants are left out: those for which tests were written.
        only: A file of survivors (the JSON lines that this program prints); only these are run.
        reach: A file that keeps which test reaches which lines, to be made if it is not there.
    """
    import cv2  # noqa: F401 - so that all forks have the heavy packages
    import monai.bundle
    import monai.metrics
    import monai.transforms  # noqa: F401
    import skimage.measure  # noqa: F401
    import torch

    torch.set_num_threads(1)
    hypothesis.settings.register_profile(
        "mutation",
        database=None,
        derandomize=True,
        deadline=None,
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],  # no time for the simplest counterexample
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    hypothesis.settings.load_profile("mutation")
    os.environ.pop("MONAI_EXT_DATA", None)  # the same tests everywhere
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    sys.dont_write_bytecode = True
    packages = tuple([packages] if isinstance(packages, str) else packages)
    without = tuple([without] if isinstance(without, int) else without)
    drawn = sample(packages, seed, count, without)
    if only:
        wanted = {tuple(json.loads(line)[:3]) for line in Path(only).read_text().splitlines() if line.startswith("[")}
        drawn = [m for m in drawn if m.key in wanted]
    equivalent = {tuple(entry[:3]) for entry in json.loads(EQUIVALENT.read_text())}

    options = ["-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow", "--tb=line", "-s"]
    folders = [f"tests/{package}" for package in packages]
    outcomes: Counter[str] = Counter()
    begin = time.monotonic()

    def report(mutant: Mutant, result: str) -> None:
        if result in {SURVIVED, UNTESTED} and mutant.key in equivalent:
            result = "equivalent"
        outcomes[result] += 1
        if result in {SURVIVED, UNTESTED, TIMED_OUT}:
            print(json.dumps([*mutant.key, f"{result}: line {mutant.line}"]), flush=True)
        if sum(outcomes.values()) % 25 == 0:
            print(f"# {dict(outcomes)} of {len(drawn)} after {time.monotonic() - begin:.0f} s", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        measured = Path(reach or f"{folder}/reach.json")
        if not measured.exists():
            status = forked(lambda: Reach().measure([*options, *folders], measured), 3600)
            if status != 0:
                sys.exit(f"the tests must pass without a mutant: pytest ended with {status}")
        tests = Tests(measured)
        print(f"# {len(drawn)} mutants, {len(tests.seconds)} tests, {time.monotonic() - begin:.0f} s", flush=True)
        at_import = [mutant for mutant in drawn if changed_functions(mutant) is None]
        within = [mutant for mutant in drawn if mutant not in at_import]
        for mutant in at_import:
            reaching = tests.of(mutant)
            limit = tests.limit(reaching) + 30
            report(mutant, outcome(reaching, forked(lambda m=mutant, r=reaching: run_at_import(m, options, r), limit)))
        pytest.main([*options, *folders], plugins=[Mutate(within, tests, report)])

    killed = outcomes[KILLED] + outcomes[TIMED_OUT]
    changing = len(drawn) - outcomes["equivalent"]
    print(f"# seed {seed}: {killed} of {changing} killed ({killed / max(changing, 1):.1%}); {dict(outcomes)}")


if __name__ == "__main__":
    fire.Fire(main)
