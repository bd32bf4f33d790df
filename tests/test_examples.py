"""Each public class and function of these packages shows how it is used, and what it shows is true."""

import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path

import numpy as np
import pytest
import torch

PACKAGES = ("formats", "metrics", "transforms")
ROOT = Path(__file__).parents[1]


def public_names():
    """``package.module.name`` of each public class and function, where it is defined."""
    for package in PACKAGES:
        for found in pkgutil.walk_packages(importlib.import_module(f"monai_ext.{package}").__path__):
            module = importlib.import_module(f"monai_ext.{package}.{found.name}")
            for name in module.__all__:
                value = getattr(module, name)
                if (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__ == module.__name__:
                    yield f"{package}.{found.name}.{name}"


def failures(tests):
    """What doctest says of what does not come out as shown."""
    told, runner = [], doctest.DocTestRunner(verbose=False)
    for test in tests:
        runner.run(test, out=told.append)
    return "".join(told)


def problem(value, name, module, folder):
    """Why a class or function is not shown as it should be; ``None`` if it is."""
    globs = {"np": np, "torch": torch, "folder": folder}
    own, *of_members = doctest.DocTestFinder(exclude_empty=False).find(value, name, module, extraglobs=globs)
    if "\nExamples:\n" not in inspect.cleandoc(own.docstring):
        return "no section Examples in its docstring"
    if not any(example.want for example in own.examples):
        return "its example shows no result"
    # what is imported stands in no globals: a reader has only what the example imports
    for test in (own, *of_members):
        test.globs = dict(globs)
    return failures((own, *of_members)) or None


@pytest.mark.parametrize("name", public_names())
def test_every_public_name_has_an_example_and_it_is_true(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module, _, attribute = f"monai_ext.{name}".rpartition(".")
    module = importlib.import_module(module)
    package = importlib.import_module(module.__name__.rpartition(".")[0])
    value = getattr(module, attribute)
    assert problem(value, attribute, module, tmp_path) is None
    if attribute in package.__all__:  # it is imported from its public place
        assert f">>> from {module.__name__} import" not in value.__doc__ or attribute not in _imported(value, module)


def _imported(value, module):
    lines = [line for line in value.__doc__.splitlines() if f">>> from {module.__name__} import" in line]
    return ", ".join(lines).replace(",", " ").split()


def test_a_name_without_a_true_example_is_told(tmp_path):
    module = inspect.getmodule(test_a_name_without_a_true_example_is_told)

    def told(docstring):
        def shown():
            pass

        shown.__doc__ = docstring
        return problem(shown, "shown", module, tmp_path)

    section = "A line.\n\n    Examples:\n        >>> "
    assert told("A line.") == told("A line: >>> 1") == "no section Examples in its docstring"
    assert told(f"{section}_ = 1\n    ") == "its example shows no result"
    assert "Expected:\n    2\nGot:\n    1" in told(f"{section}1\n        2\n    ")
    assert "NameError" in told(f"{section}ROOT\n        1\n    ")  # of the module, not imported
    assert told(f"{section}folder.is_dir(), int(np.sum([1, 2]) + torch.ones(1))\n        (True, 4)\n    ") is None
