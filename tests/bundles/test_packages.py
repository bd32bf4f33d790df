"""A bundle's metadata list the packages that it imports, and no others."""

import ast
import json
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest

from monai_ext.distribution.contents import collect

ROOT = Path(__file__).parents[2]
#: Those of the extras, and of hardware that not everybody has; what needs one says so.
OPTIONAL = {"tensorrt", "torch_tensorrt", "cucim", "monailabel"}
#: Come with another package that is listed.
WITH_ANOTHER = {
    "markupsafe": "jinja2",
    "packaging": "matplotlib",
    "huggingface_hub": "timm",
    "safetensors": "timm",
    "numcodecs": "zarr",
}
#: Without a module of their own that is imported: codecs of tifffile, the library below openslide-python.
USED_BY_ANOTHER = {"imagecodecs": "tifffile", "openslide-bin": "openslide-python"}
#: Stated by fields of the metadata of their own.
OF_MONAI = {"monai", "torch", "numpy"}
DISTRIBUTIONS = {
    module: sorted({owner.lower() for owner in owners}) for module, owners in metadata.packages_distributions().items()
}


def of_extras() -> set[str]:
    text = (ROOT / "pyproject.toml").read_text()
    section = text.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    return {name.lower() for name in re.findall(r'"([\w.-]+)==', section)}


def modules(path: Path) -> set[str]:
    """The top names of what a file imports, at its top and within functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "optional_import":
            names.add(ast.literal_eval(node.args[0]))
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"monai_ext", "_typeshed"}


def owner(module: str) -> str:
    """The distribution that brings a module; of several (ITK's parts) the one that is pinned."""
    owners = DISTRIBUTIONS.get(module, [module])
    pinned = {line.split("==")[0].lower() for line in (ROOT / "requirements.txt").read_text().splitlines()}
    return next((name for name in owners if name in pinned), owners[0])


@pytest.mark.slow
def test_packages_are_those_that_are_imported(bundle):
    files = collect(bundle).files
    imported = set().union(*(modules(path) for name, path in files.items() if name.endswith(".py")))
    texts = "\n".join(path.read_text() for name, path in files.items() if name.endswith(".json"))
    imported |= {name for name in ("pytorch_optimizer", "ignite") if re.search(rf'[$"\s]{name}\.', texts)}
    packages = {owner(module) for module in imported - OPTIONAL - set(WITH_ANOTHER)} - of_extras() - OF_MONAI
    listed = {
        name.lower()
        for name in json.loads(Path(files["configs/metadata.json"]).read_text())["required_packages_version"]
    }
    assert {name for name, other in USED_BY_ANOTHER.items() if other in listed} <= listed
    assert listed - set(USED_BY_ANOTHER) == packages


@pytest.mark.parametrize(("module", "other"), WITH_ANOTHER.items())
def test_what_comes_along_does(module, other):
    waiting, seen = [other], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            waiting += [
                re.split(r"[ ;<>=!~\[(]", line)[0].lower()
                for line in metadata.requires(name) or []
                if "extra" not in line
            ]
        except metadata.PackageNotFoundError:  # of another system
            continue
    assert set(DISTRIBUTIONS[module]) & {name.replace("_", "-") for name in seen} or set(DISTRIBUTIONS[module]) & seen
