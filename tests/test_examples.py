"""Each public class and function of these packages shows how it is used, and what it shows is true."""

import doctest
import importlib
import inspect
import pkgutil
import re

import numpy as np
import pytest
import torch

PACKAGES = ("formats", "metrics", "transforms")
IMPORT = re.compile(r"from (monai_ext\S*) import (.+)")


def public_names():
    """``package.module.name`` of each public class and function, where it is defined."""
    for package in PACKAGES:
        for info in pkgutil.iter_modules(importlib.import_module(f"monai_ext.{package}").__path__):
            module = importlib.import_module(f"monai_ext.{package}.{info.name}")
            for name in module.__all__:
                value = getattr(module, name)
                if (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__ == module.__name__:
                    yield f"{package}.{info.name}.{name}"


def problem(value, public_place, folder):
    """Why a class or function is not shown as it should be; ``None`` if it is.

    Args:
        value: the class or function.
        public_place: the module that users import it from.
        folder: for the files that the example writes.
    """
    module = inspect.getmodule(value)
    own, *of_members = doctest.DocTestFinder(exclude_empty=False).find(value, value.__name__, module)
    if "\nExamples:\n" not in inspect.cleandoc(own.docstring):
        return "no section Examples in its docstring"
    if not any(example.want for example in own.examples):
        return "its example shows no result"
    for example in own.examples:
        for place, names in IMPORT.findall(example.source):
            if value.__name__ in names.split(", ") and place != public_place:
                return f"imported from {place}, not from {public_place}"
    report, runner = [], doctest.DocTestRunner(verbose=False)
    for test in (own, *of_members):
        test.globs = {"np": np, "torch": torch, "folder": folder}  # a reader has nothing else that is not imported
        runner.run(test, out=report.append)
    return "".join(report) or None


@pytest.mark.parametrize("name", public_names())
def test_every_public_name_has_an_example_and_it_is_true(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    package, module, attribute = name.split(".")
    exported = importlib.import_module(f"monai_ext.{package}").__all__
    place = f"monai_ext.{package}" if attribute in exported else f"monai_ext.{package}.{module}"
    value = getattr(importlib.import_module(f"monai_ext.{package}.{module}"), attribute)
    assert problem(value, place, tmp_path) is None


SECTION = "A line.\n\n    Examples:\n        >>> "


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("A line.", "no section Examples"),
        ("A line: >>> 1", "no section Examples"),
        (f"{SECTION}_ = 1\n    ", "shows no result"),
        (f"{SECTION}1\n        2\n    ", "Expected:\n    2\nGot:\n    1"),
        (f"{SECTION}SECTION[0]\n        'A'\n    ", "NameError"),  # the module has it, a reader has not
        (f"{SECTION}from monai_ext.formats.image import shown\n        1\n    ", "not from monai_ext.formats"),
        (f"{SECTION}folder.is_dir(), int(np.sum([1, 2]) + torch.ones(1))\n        (True, 4)\n    ", None),
    ],
)
def test_a_missing_or_wrong_example_is_a_failure(docstring, expected, tmp_path):
    def shown():
        pass

    shown.__doc__ = docstring
    message = problem(shown, "monai_ext.formats", tmp_path)
    assert message is None if expected is None else expected in message
