"""The commands of ``python -m monai_ext``, and how their words become a call.

Only what is run is imported: help, and what is wrong with the words, come from the functions' sources.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from monai_ext.base.errors import InputError, input_error_in
from monai_ext.base.flags import as_flag
from monai_ext.usage import Option, Usage, nearest, read_usage

__all__ = ["COMMANDS", "arguments_of", "command_of", "main", "usage_of"]

Words = tuple[str, ...]

_DATASET = "monai_ext.phantom.datasets:write_dataset"

#: The function that a command runs. A first argument ``method`` receives the kind.
COMMANDS: dict[Words, str] = {
    ("annotate",): "monai_ext.prepare.annotator:annotate",
    ("convert",): "monai_ext.exchange.conversion:convert",
    ("doctor",): "monai_ext.doctor:doctor",
    ("export",): "monai_ext.distribution.export:export_bundles",
    ("hand_in",): "monai_ext.reports.challenges:hand_in",
    ("learn",): "monai_ext.learn.command:learn",
    ("phantom", "mitosis"): _DATASET,
    ("phantom", "metastasis"): _DATASET,
    ("phantom", "cells"): _DATASET,
    ("phantom", "nuclei"): _DATASET,
    ("phantom", "camelyon16"): "monai_ext.phantom.release:write_camelyon16",
    ("phantom", "nucleus_patches"): "monai_ext.phantom.nucleus_patches:write_nucleus_patches",
    ("phantom", "slide"): "monai_ext.phantom.pyramid:write_slide",
    ("phantom", "vessel_slide"): "monai_ext.phantom.vessels:write_vessel_slide",
    ("phantom", "vessels"): "monai_ext.phantom.vessels:write_vessels",
    ("prepare", "mitos12"): "monai_ext.prepare.mitosis:prepare_mitos12",
    ("prepare", "mitos14"): "monai_ext.prepare.mitosis:prepare_mitos14",
    ("prepare", "amida13"): "monai_ext.prepare.mitosis:prepare_amida13",
    ("prepare", "tupac16"): "monai_ext.prepare.mitosis:prepare_tupac16",
    ("prepare", "midog"): "monai_ext.prepare.midog:prepare_midog",
    ("prepare", "midogpp"): "monai_ext.prepare.midog:prepare_midogpp",
    ("prepare", "atypical"): "monai_ext.prepare.atypical:prepare_atypical",
    ("prepare", "cbis_ddsm"): "monai_ext.prepare.cbis_ddsm:prepare_cbis_ddsm",
    ("prepare", "pcam"): "monai_ext.prepare.pcam:prepare_pcam",
    ("prepare", "camelyon16"): "monai_ext.prepare.camelyon:prepare_camelyon16",
    ("prepare", "hploc"): "monai_ext.prepare.camelyon:prepare_hploc",
    ("prepare", "lizard"): "monai_ext.prepare.lizard:prepare_lizard",
    ("prepare", "pannuke"): "monai_ext.prepare.pannuke:prepare_pannuke",
    ("prepare", "nuinsseg"): "monai_ext.prepare.nuinsseg:prepare_nuinsseg",
    ("prepare", "puma"): "monai_ext.prepare.puma:prepare_puma",
    ("prepare", "idc"): "monai_ext.prepare.idc:prepare_idc",
    ("prepare", "monuseg"): "monai_ext.prepare.monuseg:prepare_monuseg",
    ("prepare", "consep"): "monai_ext.prepare.consep:prepare_consep",
    ("prepare", "ccrcc"): "monai_ext.prepare.ccrcc:prepare_ccrcc",
    ("prepare", "dsb2018"): "monai_ext.prepare.dsb2018:prepare_dsb2018",
    ("prepare", "nucls"): "monai_ext.prepare.nucls:prepare_nucls",
    ("prepare", "crchisto"): "monai_ext.prepare.crchisto:prepare_crchisto",
    ("prepare", "negatives"): "monai_ext.prepare.negatives:prepare_negatives",
    ("prepare", "qupath"): "monai_ext.prepare.qupath:prepare_qupath",
    ("prepare", "pvid"): "monai_ext.prepare.pvid:prepare_pvid",
    ("prepare", "folds"): "monai_ext.prepare.folds:prepare_folds",
    ("prepare", "tiles"): "monai_ext.prepare.tiles:prepare_tiles",
    ("report", "annotations"): "monai_ext.reports.comparison:compare_annotations",
    ("report", "cells"): "monai_ext.reports.agreement:compare_cells",
    ("report", "classifiers"): "monai_ext.reports.comparison:compare_classifiers",
    ("report", "detections"): "monai_ext.reports.comparison:compare_detections",
    ("report", "folds"): "monai_ext.reports.folds:compare_folds",
    ("report", "instances"): "monai_ext.reports.comparison:compare_instances",
    ("report", "pictures"): "monai_ext.reports.instance_pictures:picture_instances",
    ("report", "review-orders"): "monai_ext.learn.review_orders:compare_review_orders",
    ("report", "reviewers"): "monai_ext.view.reviewers:compare_reviewers",
    ("report", "slides"): "monai_ext.reports.slide_evaluation:evaluate_slides",
    ("templates",): "monai_ext.prepare.templates:choose_templates",
    ("tune", "mitosis"): "monai_ext.tuning.mitosis:tune_mitosis",
    ("tune", "evidence"): "monai_ext.tuning.evidence:tune_evidence",
    ("tune", "instances"): "monai_ext.tuning.instances:tune_instances",
    ("tune", "expert-count"): "monai_ext.tuning.expert_count:tune_expert_count",
    ("tune", "tissue"): "monai_ext.tuning.tissue:tune_tissue",
    ("tune", "vessels"): "monai_ext.tuning.vessels:tune_vessels",
    ("view",): "monai_ext.view.command:view",
}

_ABOUT = {
    "annotate": "add a column of automatic annotations to a data set of nuclei",
    "convert": "write results in the formats of other programs: DICOM, NIfTI, NRRD, OME-Zarr and more",
    "doctor": "try what is installed: packages, readers of images, devices, optional extras",
    "export": "write a bundle as a zip that runs without this repository",
    "hand_in": "write detections as a challenge of mitosis detection takes them",
    "learn": "fine-tune a bundle with a reviewer's corrections, and compare it before and after",
    "phantom": "write a synthetic data set, slide or release, with complete ground truth",
    "prepare": "convert an official release into a bundle's data set, or cut tiles",
    "report": "turn the files of finished runs into numbers with intervals and a page",
    "templates": "make a folder of cell templates, and show what they detect",
    "tune": "choose what a method leaves open on the validation list",
    "view": "show slides and results in the browser, and save a reviewer's corrections",
}

_COMMON = ("monai_ext.prepare.common:prepare", ("split", "seed", "overwrite", "link"))
_FIELDS = ("monai_ext.prepare.fields:prepare_fields", ("tile", "overlap", "masks", "centroids"))
_FILTER = (
    "monai_ext.transforms.kcf:KCFPseudoMask",
    ("rotations", "threshold", "least", "regularisation", "output_sigma", "kernel_sigma", "distance"),
)
_OF_FIELDS = ("lizard", "pannuke", "nuinsseg", "puma", "idc", "monuseg", "consep", "ccrcc", "dsb2018", "nucls")

#: The options that a function takes as ``**options`` and forwards: to which function, and which of them.
_HANDED_ON: dict[Words, list[tuple[str, Words]]] = {
    **{words: [_COMMON] for words in COMMANDS if words[0] == "prepare" and words[1] != "folds"},
    **{("prepare", name): [_FIELDS, _COMMON] for name in _OF_FIELDS},
    ("phantom", "slide"): [("monai_ext.phantom.slide:phantom_slide", ("stains", "strength", "name"))],
    ("templates",): [_FILTER],
}

#: Options that are not called as the function's arguments are.
_RENAMED: dict[Words, dict[str, str]] = {
    ("annotate",): {"source": "from"},
    ("phantom", "slide"): {"path": "dst"},
    ("phantom", "vessel_slide"): {"path": "dst"},
}

_FLAG = re.compile(r"--.|-[a-zA-Z](=|$)")
_HELP = frozenset({"-h", "--help"})


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; what is wrong with the input ends it with one line and exit code 1.

    Args:
        arguments: the words after the program's name; those of this process by default.
    """
    try:
        print(_answer(list(sys.argv[1:] if arguments is None else arguments)))
    except Exception as error:
        cause = input_error_in(error)  # MONAI wraps what a configuration raises
        if cause is None:
            raise
        print(f"{type(cause).__name__}: {cause}", file=sys.stderr)
        raise SystemExit(1) from None


def _answer(words: list[str]) -> str:
    """What the words ask for, or what a command prints at its end."""
    if words == ["--version"]:
        from monai_ext import __version__

        return f"monai_ext {__version__}"
    asked = bool(_HELP & set(words))
    names = tuple(word for word in words if word not in _HELP)
    if not names:
        return _overview()
    if asked and len(names) == 1 and names not in COMMANDS and _kinds(names[0]):
        return _kinds_page(names[0])
    command = command_of(names)
    if asked:
        return usage_of(command).page(f"{_program()} {' '.join(command)}", command not in _HANDED_ON)
    positional, options = arguments_of(command, words[len(command) :])
    module, _, function = COMMANDS[command].partition(":")
    return str(getattr(importlib.import_module(module), function)(*positional, **options))


def command_of(words: Words) -> Words:
    """The command that the words begin with.

    Args:
        words: after the program's name.

    Returns:
        a key of :data:`COMMANDS`.

    Raises:
        InputError: there is none of that name, or none of that kind.
    """
    first, second = (*words, "")[:2]
    if words[:1] in COMMANDS:
        return words[:1]
    kinds = _kinds(first)
    if not kinds:
        raise InputError("monai_ext", _one_of(first, list(_ABOUT)), repr(first))
    if second not in kinds:
        raise InputError(first, _one_of(second, kinds), "none" if second[:1] in ("", "-") else repr(second))
    return words[:2]


def _kinds(name: str) -> list[str]:
    return [command[1] for command in COMMANDS if command[0] == name and len(command) > 1]


def _one_of(word: str, names: Sequence[str]) -> str:
    """What was expected instead of a word; the nearest names first."""
    near = nearest(word, names)
    return " or ".join([*near, *(name for name in names if name not in near)])


def usage_of(command: Words) -> Usage:
    """What a command takes, with the options that its function forwards to others.

    Args:
        command: a key of :data:`COMMANDS`.
    """
    usage = read_usage(COMMANDS[command])
    names = _RENAMED.get(command, {})
    options = [replace(option, name=names.get(option.name, option.name)) for option in usage.options]
    options = [option for option in options if option.name != "method"]
    rest = [usage.rest or ""]
    for target, handed_on in _HANDED_ON.get(command, ()):
        other = read_usage(target)
        options += [
            o for o in other.options if o.name in handed_on and o.name not in {option.name for option in options}
        ]
        rest.append(other.rest or "")
    if command in _HANDED_ON:  # of what the docstrings say of the others, the part after "of ...:"
        rest = [text.partition(": ")[2] for text in rest if text.startswith("of ")]
    return replace(usage, options=tuple(options), rest=" ".join(filter(None, rest)))


def arguments_of(command: Words, words: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
    """What a command's function is called with; values are read as Fire, which MONAI uses, reads them.

    Args:
        command: a key of :data:`COMMANDS`.
        words: those after the command: ``--a 1``, ``--a=1``, ``--flag``, ``--noflag``, or, for what has to be given,
            the value alone.

    Returns:
        arguments without and with a name.

    Raises:
        InputError: an option is unknown, lacks its value or is missing.
    """
    from fire.parser import DefaultParseValue

    usage, where = usage_of(command), " ".join(command)
    by_name = {name: option for option in usage.options for name in (option.parameter, option.name)}
    alone, named = _split(words, by_name, where)
    needed = [option for option in usage.options if option.default is None]
    waiting = [option for option in needed if option.parameter not in named]
    if len(alone) > len(waiting):
        raise InputError(where, _listed(needed) + " and options by their names", repr(alone[len(waiting)]))
    named |= {option.parameter: value for option, value in zip(waiting, alone, strict=False)}
    missing = waiting[len(alone) :]
    values = {name: DefaultParseValue(value) for name, value in named.items()}
    others = [name for name in values if name not in by_name]
    _check_others(command, usage, others, values)
    if missing:
        raise InputError(where, _listed(needed), f"no {_listed(missing)}")
    for option in usage.options:
        if option.flag and option.parameter in values:
            values[option.parameter] = as_flag(values[option.parameter], f"--{option.name}")
    first = read_usage(COMMANDS[command]).options[:1]
    return [command[-1]] if first and first[0].name == "method" else [], values


def _split(words: Sequence[str], by_name: Mapping[str, Option], where: str) -> tuple[list[str], dict[str, str]]:
    """Values without a name, and values by the names of the function's arguments."""
    alone: list[str] = []
    named: dict[str, str] = {}
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if not _FLAG.match(word):
            alone.append(word)
            continue
        name, equals, value = word.lstrip("-").partition("=")
        key = name.replace("-", "_")
        option = by_name.get(key)
        if not equals and waiting and not _FLAG.match(waiting[0]):
            value = waiting.pop(0)
        elif not equals:
            negated = by_name.get(key.removeprefix("no"))
            if option is None and negated is not None and key.startswith("no"):
                key, option, value = negated.name, negated, "False"
            elif option is None or option.flag:
                value = "True"
            else:
                raise InputError(where, f"a value after --{name}", "none")
        named[option.parameter if option else key] = value
    return alone, named


def _check_others(command: Words, usage: Usage, others: Sequence[str], values: Mapping[str, Any]) -> None:
    """Refuse options that a function does not know; a tuning's may be entries of its bundle's configurations."""
    names = [option.name for option in usage.options]
    if command in _HANDED_ON or not usage.rest:
        entries: set[str] | None = set()
    else:
        bundle = next((o.default for o in usage.options if o.name == "bundle"), None) or "''"
        entries = _entries(Path(str(values.get("bundle", bundle.strip("'")))))
    if entries is None:  # no bundle, which the command reports itself
        return
    for name in others:
        if re.split("#|::", name)[0] not in entries:
            near = nearest(name, [*names, *sorted(entries)])
            expected = " or ".join(f"--{n}" for n in near) or f"options among {_listed(usage.options)}"
            raise InputError(" ".join(command), expected, f"--{name}")


def _entries(bundle: Path) -> set[str] | None:
    """The entries of all configurations of a bundle; None where there are none."""
    entries: set[str] | None = None
    for path in bundle.glob("configs/**/*.json"):
        try:
            content = json.loads(path.read_bytes())
        except ValueError:  # reported by the command that uses that file
            continue
        entries = (entries or set()) | set(content)
    return entries


def _listed(options: Sequence[Option]) -> str:
    return ", ".join(f"--{option.name}" for option in options)


def _program() -> str:
    return "monai-ext" if Path(sys.argv[0]).stem == "monai-ext" else "python -m monai_ext"


def _overview() -> str:
    lines = [f"  {name:10} {about}" for name, about in _ABOUT.items()]
    head = f"usage: {_program()} COMMAND [KIND] [--option value ...]"
    return "\n".join(
        [head, "", *lines, "", "COMMAND --help, COMMAND KIND --help: what it takes. --version: the version."]
    )


def _kinds_page(name: str) -> str:
    kinds = _kinds(name)
    width = max(map(len, kinds))
    lines = [f"  {kind:{width}} {read_usage(COMMANDS[name, kind]).summary}" for kind in kinds]
    head = f"usage: {_program()} {name} KIND [--option value ...]"
    return "\n".join([head, "", *lines, "", f"{name} KIND --help: what it takes."])
