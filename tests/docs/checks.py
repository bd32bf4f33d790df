"""Is a documented command valid? Told without running it, by what would read its words."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import inspect
import io
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import fire
import pytest
from monai.bundle import ConfigParser
from monai.bundle import __main__ as monai_bundle
from torch.distributed.run import get_args_parser

from monai_ext import commands
from monai_ext.base.errors import InputError
from monai_ext.options import _ids
from monai_ext.tuning import evidence, expert_count, instances, mitosis, tissue, vessels
from tests.docs.shell import ROOT, Command

REFERENCE = re.compile(r"@([A-Za-z_]\w*(?:(?:#|::)\w+)*)")
SHIPPED = re.compile(r"""(?:^|(?<=['"=]))(?:configs|docs|benchmarks)/[\w./?*-]+""")
SERVER_FLAGS = {"--app", "--studies", "--host", "--port", "--conf"}
REQUESTS = (  # of MONAI Label's interface, as tests/label sends them
    r"POST /infer/wsi/{model}\?image=\w+&output=\w+",
    r"PUT /datastore/label\?image=\w+&tag=final",
    r"POST /train/{model}",
    r"GET /train/",
    r"POST /activelearning/\w+",
    r"POST /scoring/{model}\?run_sync=true",
)


PLACEHOLDER = re.compile(r"[A-Z]+")


class InvalidError(Exception):
    """What is wrong with a command, in a line."""


class _ReachedError(Exception):
    """A function read its configuration; what follows needs data."""


def problem(command: Command, tree: Path = ROOT) -> str | None:
    """What is wrong with a command; ``None`` if it is valid.

    Args:
        command: of a page.
        tree: what the command's folder is relative to.
    """
    program, *arguments = command.words
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tree / command.folder)
        try:
            if program not in PROGRAMS:
                raise InvalidError(f"unknown command {program}")
            for name in (name for word in command.words for name in SHIPPED.findall(word)):
                need(any(Path().glob(name)), f"no such file: {name}")
            PROGRAMS[program](arguments)
        except InvalidError as error:
            return str(error)
    return None


def problem_of_mention(text: str, tree: Path = ROOT) -> str | None:
    """What is wrong with a command in running text, which need not be complete; ``None`` if it is valid.

    Args:
        text: of its code span.
        tree: the repository.
    """
    words = tuple(shlex.split(text))
    named = words[3:] if words[:2] == ("python", "-m") else ()
    if words[0] == "pip" or words in {("python", "-m", name) for name in MODULES}:
        return None
    if words[2:3] == ("monai_ext",) and not any(word.startswith("-") for word in named):
        return problem(Command("", 0, ".", (*words, "--help")), tree)
    kinds = [command for command in commands.COMMANDS if len(named) > 1 and command[:1] == named[:1]]
    if len(named) > 1 and PLACEHOLDER.fullmatch(named[1]) and len(kinds[0]) > 1:
        every = [(*words[:3], *kind, *named[2:]) for kind in kinds]
    else:
        every = [words]
    return next((wrong for each in every if (wrong := problem(Command("", 0, ".", each), tree))), None)


@functools.cache
def known_options(bundle: str = "*") -> frozenset[str]:
    """What may be given to a bundle's commands: entries of its configurations, and arguments of ours and of MONAI's.

    Args:
        bundle: its folder's name; all bundles by default.
    """
    ours = {option.name for command in commands.COMMANDS for option in commands.usage_of(command).options}
    functions = [f for f in vars(monai_bundle).values() if inspect.isfunction(f)]
    theirs = {name for function in functions for name in inspect.signature(function).parameters}
    launcher = {name for action in get_args_parser()._actions for name in action.option_strings}
    entries = {
        name for path in ROOT.glob(f"bundles/{bundle}/configs/**/*.json") for name in _ids(json.loads(path.read_text()))
    }
    others = {"help", "version", *(flag.removeprefix("--") for flag in (*SERVER_FLAGS, *launcher))}
    return frozenset(ours | theirs | entries | others)


def problem_of_option(name: str, page: str) -> str | None:
    """What is wrong with an option that a page names; ``None`` if something takes it.

    Args:
        name: without hyphens.
        page: relative to the repository.
    """
    bundle = page.split("/")[1] if page.startswith("bundles/") else "*"
    known = known_options(bundle)
    first = re.split("#|::", name)[0]
    # an entry within an object may be one that only its class knows, such as detect#patch_size
    if {name, name.replace("-", "_"), name.removeprefix("no")} & known or (first != name and first in known):
        return None
    return f"--{name}: nothing has such an option"


def need(condition: object, message: str) -> None:
    if not condition:
        raise InvalidError(message)


def said_by(run: Callable[[], Any]) -> None:
    """Run quietly; what it said when it gave up is the problem."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            run()
    except SystemExit as error:
        need(not error.code, said.getvalue().strip().splitlines()[0] if said.getvalue() else f"exit code {error.code}")


def bound(components: Any, arguments: Sequence[str]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """What Fire would call: the function's name, its own arguments and the others.

    Args:
        components: functions by name, or a single one.
        arguments: of the command line.
    """
    calls: list[tuple[Callable[..., Any], tuple, dict]] = []

    def noted(function: Callable[..., Any]) -> Callable[..., None]:
        return functools.wraps(function)(lambda *args, **options: calls.append((function, args, options)))

    stubs = {name: noted(f) for name, f in components.items()} if isinstance(components, Mapping) else noted(components)
    said_by(lambda: fire.Fire(stubs, command=list(arguments), name=""))
    need(len(calls) == 1, f"no such command: {' '.join(arguments[:1])}")
    function, args, options = calls[0]
    given = inspect.signature(function).bind(*args, **options).arguments
    rest = {p.name for p in inspect.signature(function).parameters.values() if p.kind is p.VAR_KEYWORD}
    own = {name: value for name, value in given.items() if value is not None and name not in rest}
    return function.__name__, own, {k: v for name in rest & given.keys() for k, v in given[name].items()}


@functools.cache
def merged(folder: Path, files: tuple[str, ...]) -> ConfigParser:
    """The configuration that files make, the later over the earlier."""
    for name in files:
        need((folder / name).is_file(), f"no such configuration: {name}")
    parser = ConfigParser()
    parser.read_config([str(folder / name) for name in files])
    return parser


def several(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def has(parser: ConfigParser, key: str) -> bool:
    try:
        return key in parser
    except TypeError:  # an entry of what has none
        return False


def check_entries(parser: ConfigParser, entries: Mapping[str, Any], what: str = "") -> None:
    """Entries that a command sets are in the configuration, and so is what they refer to."""
    for key, value in entries.items():
        need(has(parser, key), f"{what}--{key}: the configuration has no such entry")
        for reference in REFERENCE.findall(value) if isinstance(value, str) else ():
            need(has(parser, reference), f"{what}--{key}: the configuration has no @{reference}")
        configs = key.removesuffix("_settings") + "_configs"
        if key.endswith("_settings") and isinstance(value, dict) and has(parser, configs):
            files = several(entries.get(configs) or parser.get_parsed_content(configs))
            check_entries(merged(Path.cwd(), files), value, f"--{key}: ")


def check_bundle(arguments: Sequence[str]) -> None:
    """``python -m monai.bundle``: the configurations merge and have what the command names and sets."""
    functions = {name: f for name, f in vars(monai_bundle).items() if inspect.isfunction(f)}
    name, own, others = bound(functions, arguments)
    if "args_file" in own:
        stated = json.loads(Path(own["args_file"]).read_text())
        known = inspect.signature(functions[name]).parameters
        others = {k: v for k, v in stated.items() if k not in known} | others
        own = stated | own
    for key in ("meta_file", "logging_file"):
        need(Path(own.get(key, ".")).exists(), f"--{key}: no such file: {own.get(key)}")
    if "config_file" not in own:
        need(name.startswith("download"), f"{name} without --config_file")
        return
    parser = merged(Path.cwd(), several(own["config_file"]))
    for key in ("run_id", "net_id"):
        need(has(parser, own.get(key, "")), f"the configuration has no {own.get(key)}")
    need(name != "run" or has(parser, own.get("run_id", "run")), "the configuration has no run")
    check_entries(parser, others)


def check_monai_ext(arguments: Sequence[str]) -> None:
    """``python -m monai_ext``: the method and its options exist; a tuning's other options are entries of its bundle."""
    if not arguments or {"--help", "-h", "--version"} & set(arguments):
        said_by(lambda: commands.main(arguments))
        return

    def reach(*args: Any, **options: Any) -> None:
        read(*args, **options)
        raise _ReachedError

    read = mitosis.read_bundle
    with pytest.MonkeyPatch.context() as patch:
        for module in (evidence, expert_count, instances, mitosis, tissue, vessels):
            patch.setattr(module, "read_bundle", reach)
        try:
            command = commands.command_of(tuple(arguments))
            commands.arguments_of(command, arguments[len(command) :])
            if command[0] == "tune":
                with contextlib.suppress(_ReachedError):
                    said_by(lambda: commands.main(arguments))
        except InputError as error:
            raise InvalidError(f"InputError: {error}") from error


def check_server(arguments: Sequence[str]) -> None:
    """``python -m monailabel.main``, which is not installed here: the app's folder and the settings that it knows."""
    need(arguments[0] == "start_server", f"unknown command {arguments[0]}")
    flags = {word for word in arguments if word.startswith("-")}
    need(flags <= SERVER_FLAGS, f"unknown options {sorted(flags - SERVER_FLAGS)}")
    app = Path(arguments[arguments.index("--app") + 1])
    need((app / "main.py").is_file(), f"no app in {app}")
    sent = (ROOT / "tests/label/conftest.py").read_text()
    for index in (i for i, word in enumerate(arguments) if word == "--conf"):
        need(f'"{arguments[index + 1]}"' in sent, f"--conf {arguments[index + 1]}: tests/label does not know it")


def check_module(arguments: Sequence[str]) -> None:
    """What follows ``python -m``."""
    module, *rest = arguments
    need(module in MODULES, f"unknown module {module}")
    MODULES[module](rest)


def check_python(arguments: Sequence[str]) -> None:
    """``python -m MODULE`` or ``python FILE``, whose ``main``, or the function named next, Fire calls."""
    if arguments[0] == "-m":
        check_module(arguments[1:])
        return
    if arguments[0] == "-c":
        said_by(lambda: compile(arguments[1], "-c", "exec"))
        return
    need(Path(arguments[0]).is_file(), f"no such file: {arguments[0]}")
    if len(arguments) == 1:
        return
    spec = importlib.util.spec_from_file_location(Path(arguments[0]).stem, arguments[0])
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)  # dataclasses look there
    spec.loader.exec_module(module)
    if hasattr(module, "main"):
        bound(module.main, arguments[1:])
    else:
        bound(getattr(module, arguments[1]), arguments[2:])


def check_torchrun(arguments: Sequence[str]) -> None:
    parsed: list[Any] = []
    said_by(lambda: parsed.append(get_args_parser().parse_args(arguments)))
    need(parsed[0].module, "torchrun without -m")
    check_module([parsed[0].training_script, *parsed[0].training_script_args])


def check_make(arguments: Sequence[str]) -> None:
    done = subprocess.run(["make", "-n", *arguments], capture_output=True, text=True, check=False)
    need(not done.returncode, done.stderr.strip())


def check_pip(arguments: Sequence[str]) -> None:
    """Packages are pinned as everywhere."""
    command, *packages = arguments
    need(command == "install", f"unknown command pip {command}")
    pins = {line.split(";")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()}
    if packages not in (["-r", "requirements.txt"], ["-e", "."]):
        need(set(packages) <= pins, f"not as in requirements.txt: {sorted(set(packages) - pins)}")


def check_curl(arguments: Sequence[str]) -> None:
    """A request that MONAI Label takes, for a bundle that there is, with a body that is JSON."""
    url = next((word for word in arguments if word.startswith("http://127.0.0.1:8000/")), "")
    options = dict(pairwise(arguments))
    models = "|".join(path.parents[1].name for path in ROOT.glob("bundles/*/configs/metadata.json"))
    request = f"{options.get('-X', 'GET')} /{url.removeprefix('http://127.0.0.1:8000/')}"
    known = [pattern.format(model=f"({models})") for pattern in REQUESTS]
    need(any(re.fullmatch(pattern, request) for pattern in known), f"unknown request {request}")
    if "-d" in options:
        json.loads(options["-d"])


def check_activation(arguments: Sequence[str]) -> None:
    need(list(arguments) == [".venv/bin/activate"], f"make makes .venv, not {' '.join(arguments)}")


MODULES: dict[str, Callable[[Sequence[str]], None]] = {
    "monai.bundle": check_bundle,
    "monai_ext": check_monai_ext,
    "monailabel.main": check_server,
}
PROGRAMS: dict[str, Callable[[Sequence[str]], None]] = {
    "python": check_python,
    "monai-ext": check_monai_ext,
    ".venv-label/bin/python": check_python,
    "-m": check_module,  # the last lines of a torchrun, shown alone
    "torchrun": check_torchrun,
    "srun": lambda arguments: PROGRAMS[arguments[0]](arguments[1:]),
    "make": check_make,
    "pip": check_pip,
    "curl": check_curl,
    ".": check_activation,
    "scontrol": lambda _: None,  # Slurm's, which is not at hand
    "head": lambda _: None,
}
