"""The public names of every package, and that importing one costs no other."""

import importlib
import pkgutil
import subprocess
import sys

import pytest

import monai_ext
from monai_ext.base.lazy import deferred_imports

PACKAGES = [m.name for m in pkgutil.walk_packages(monai_ext.__path__, "monai_ext.") if m.ispkg]


def test_the_root_gives_every_package():
    public = set(monai_ext.__all__) - {"__version__"}
    assert {name.split(".")[1] for name in PACKAGES} <= public
    for name in public:
        assert getattr(monai_ext, name).__name__.startswith("monai_ext.")


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_name_is_there(name):
    package = importlib.import_module(name)
    public = getattr(package, "__all__", [])
    assert set(public) == set(deferred_imports(package.__file__)), "__all__ and the deferred imports"
    for each in public:
        assert getattr(package, each) is not None


@pytest.mark.parametrize("name", PACKAGES)
def test_no_public_name_is_that_of_a_module(name):
    # importing the module would put it in the name's place
    package = importlib.import_module(name)
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    assert not modules & set(getattr(package, "__all__", []))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"monai_ext\.losses"):
        _ = monai_ext.losses.nothing
    with pytest.raises(ImportError):
        importlib.import_module("monai_ext.nothing")


def test_packages_import_nothing_heavy_by_themselves():
    heavy = "{'torch', 'monai', 'numpy'} & set(sys.modules)"
    code = f"import sys\nfor name in {PACKAGES}: __import__(name)\nprint({heavy})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"
