"""Options of ``python -m monai.bundle`` that name nothing: MONAI accepts them silently, and they change nothing.

MONAI calls no code of a bundle's before it has laid the options over the configuration, and does not tell the bundle
which they were. What it evaluates before anything else, in ``run`` as in the exports, are the configuration's imports;
so a bundle's ``imports`` name this module, and to import it is to check the command line that the process was started
with. In a process of another kind, such as a server or a client of MONAI's that passes overrides of its own, it does
nothing.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import fire
import monai.bundle
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS
from monai.utils import ensure_tuple

from monai_ext.base.config_order import check_order
from monai_ext.base.distributed import is_first
from monai_ext.base.errors import InputError

__all__ = ["check_options"]

_COMMANDS = ("run", "run_workflow", "ckpt_export", "onnx_export", "trt_export", "verify_net_in_out")
_NEAREST, _LIKE = 3, 0.6
_ADDED = "+"  # MONAI's mark for what is added, in configurations and options alike


def check_options(arguments: Sequence[str]) -> None:
    """Refuse options that name no id of the configuration files that they are given with.

    Args:
        arguments: of ``python -m monai.bundle``, from the command's name on. ``--+name VALUE`` adds an id on purpose.

    Raises:
        InputError: an option that names no id, with the nearest ids; ``None`` or ``null`` for a value, of which MONAI
            drops the first, so that the file's value stays, and takes the second for text, which options that the
            configuration lists as ``nullable`` understand; files in an order in which
            one undoes another, see :func:`~monai_ext.base.config_order.check_order`.
    """
    command, options = _parsed(arguments)
    if command is None:
        return
    monai_names = {*_names(getattr(monai.bundle, command)), *_tracking_names(options.get("tracking"))}
    if command.startswith("run"):
        monai_names |= {"workflow_name", *_names(ConfigWorkflow)}
    files = options.get("config_file")
    if not files:
        return
    if isinstance(files, str) and not Path(files).is_file():  # as MONAI takes them
        files = files.split(",")
    parser = ConfigParser()
    parser.read_config(files)
    check_order(ensure_tuple(files))
    meta = options.get("meta_file") or Path(*ensure_tuple(files)[:1]).with_name("metadata.json")
    if not isinstance(meta, Path) or meta.is_file():
        parser.read_meta(meta)
    for name in options:
        if name not in monai_names and name not in parser:
            nearest = ", ".join(f"--{each}" for each in _nearest(name, [*_ids(parser.get()), *monai_names]))
            expected = f"an id of the configuration{nearest and f', such as {nearest}'}"
            raise InputError(f"--{name}", expected, f"none of this name (--+{name} adds it)")
        understood = options[name] == "null" and name in (parser.get().get("nullable") or ())
        if name not in monai_names and options[name] in (None, "null") and not understood:
            lost = "'None', which MONAI drops" if options[name] is None else "'null', which MONAI takes for text"
            raise InputError(f"--{name}", "'$None' for nothing", lost)


def _parsed(arguments: Sequence[str]) -> tuple[str | None, dict[str, Any]]:
    """The command and its options but those to add, read by fire as MONAI does, with those of an ``args_file``."""
    taken: list[tuple[str, dict[str, Any]]] = []

    def command(name: str) -> Any:
        function = getattr(monai.bundle, name)

        @functools.wraps(function)  # fire goes by the signature
        def take(*args: Any, **kwargs: Any) -> None:
            bound = inspect.signature(function).bind(*args, **kwargs).arguments
            bound |= bound.pop(next((p for p in bound if p in ("override", "kwargs")), ""), {})
            taken.append((name, bound))

        return take

    if not arguments or arguments[0] not in _COMMANDS:
        return None, {}
    fire.Fire({name: command(name) for name in _COMMANDS}, command=list(arguments))
    name, options = taken[0]
    own = _names(getattr(monai.bundle, name))  # fire hands over their defaults
    options = {
        key: value
        for key, value in options.items()
        if not key.startswith(_ADDED) and not (value is None and key in own)
    }
    return name, monai.bundle.update_kwargs(options.pop("args_file", None), ignore_none=False, **options)


def _names(function: Any) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [each.name for each in parameters if each.kind is not each.VAR_KEYWORD]


def _tracking_names(tracking: Any) -> set[str]:
    """What MONAI puts into a configuration to track an experiment, if it is missing."""
    names = {"tracking_uri", "experiment_name", "run_name", "save_execute_config"}  # MONAI Label passes them anyway
    if tracking is None:
        return names
    is_default = isinstance(tracking, str) and tracking in DEFAULT_EXP_MGMT_SETTINGS
    settings = DEFAULT_EXP_MGMT_SETTINGS[tracking] if is_default else ConfigParser.load_config_files(tracking)
    return names | settings["configs"].keys()


def _ids(config: Any, prefix: str = "") -> Iterator[str]:
    """Every id of a configuration, those of lists by their index."""
    if isinstance(config, Mapping | list):
        for key, value in config.items() if isinstance(config, Mapping) else enumerate(config):
            yield f"{prefix}{key}"
            yield from _ids(value, f"{prefix}{key}#")


def _nearest(name: str, ids: Sequence[str]) -> list[str]:
    """The ids most like a name, as a whole or in their last part."""
    name = name.replace("::", "#")
    last = name.rpartition("#")[2]

    def likeness(each: str) -> tuple[float, float]:
        whole = difflib.SequenceMatcher(None, name, each).ratio()
        part = difflib.SequenceMatcher(None, last, each.rpartition("#")[2]).ratio()
        return max(whole, part), whole

    near = {
        each for each in ids if max(likeness(each)) >= _LIKE and each.startswith("_meta_") is name.startswith("_meta_")
    }
    return sorted(near, key=likeness, reverse=True)[:_NEAREST]


if Path(sys.argv[0]).parts[-3:] == ("monai", "bundle", "__main__.py"):
    try:
        check_options(sys.argv[1:])
    except InputError as error:  # MONAI turns exceptions of an import into a module that raises when it is used
        raise SystemExit(f"\nInputError: {error}" if is_first() else 1) from None
