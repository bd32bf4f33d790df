"""What a bundle's zip holds: the bundle's own files, the code that they need, and the packages to install."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_ext.base.errors import InputError
from monai_ext.distribution.large_files import LargeFile, fetch, read_listing
from monai_ext.distribution.modules import needed_files

__all__ = ["BundleContents", "collect", "requirements"]

_NEEDED = ("LICENSE", "configs/inference.json", "configs/metadata.json", "docs/README.md")
_WEIGHTS = re.compile(r"\bmodels/(?:[\w.-]+/)*model\.pt\b")


@dataclass(frozen=True)
class BundleContents:
    """A bundle as it is to be shared.

    Attributes:
        name: of its folder.
        version: of its metadata.
        files: a file on disk, or the content, for each path in the bundle.
        large: those of the files that the bundle itself lists as large, by their paths.
    """

    name: str
    version: str
    files: dict[str, Path | bytes]
    large: dict[str, LargeFile]

    @property
    def title(self) -> str:
        """Name and version, as the model zoo writes them."""
        return f"{self.name}_v{self.version}"


def collect(bundle: Path) -> BundleContents:
    """The files that a bundle is made of: not what trainings and evaluations left in its folder.

    Beside ``LICENSE``, ``configs`` and ``docs`` these are ``models/model.pt``, other weights that ``inference.json``
    names, settings (``models/*.json``), the tissue that the weights know (``models/tissue.npz``), templates of cells
    (``models/templates``), and large files, which are downloaded if they are not there.

    Args:
        bundle: its folder.

    Raises:
        InputError: a file is missing or is not what it should be.
    """
    for name in _NEEDED:
        if not (bundle / name).is_file():
            raise InputError(bundle / name, "a file that every bundle has", "no such file")
    metadata = _read_metadata(bundle / "configs/metadata.json")
    large = read_listing(bundle)
    for entry in large.values():
        fetch(bundle, entry)
    weights = {"models/model.pt", *_WEIGHTS.findall((bundle / "configs/inference.json").read_text(encoding="utf-8"))}
    for name in sorted(weights):
        if not (bundle / name).is_file():
            raise InputError(bundle / name, "the bundle's weights", "no such file")
    paths = [bundle / name for name in {*_NEEDED, *weights, *large}]
    paths += [(bundle / name).with_name("model.json") for name in weights]  # what the weights take as their input
    kept = ("configs/**/*", "docs/**/*", "models/*.json", "models/tissue.npz", "models/templates/*.png")
    paths += [path for pattern in kept for path in bundle.glob(pattern)]
    files = {path.relative_to(bundle).as_posix(): path for path in paths if path.is_file()}
    files = {name: path for name, path in files.items() if not any(part.startswith(".") for part in Path(name).parts)}
    texts = [path.read_text(encoding="utf-8") for name, path in files.items() if name.endswith((".json", "README.md"))]
    return BundleContents(
        bundle.name,
        metadata["version"],
        {**files, **needed_files("\n".join(texts)), "requirements.txt": requirements(metadata)},
        large,
    )


def requirements(metadata: dict[str, Any]) -> bytes:
    """The packages of a bundle's metadata as pip's ``requirements.txt``.

    Args:
        metadata: with exact versions, or with an operator before them (``>=1.0``), as the model zoo has it.
    """
    packages = {
        "monai": metadata["monai_version"],
        "torch": metadata["pytorch_version"],
        "numpy": metadata["numpy_version"],
        **metadata["required_packages_version"],
    }
    lines = (f"{name}{'' if version[0] in '<>=!~' else '=='}{version}\n" for name, version in packages.items())
    return "".join(lines).encode()


def _read_metadata(path: Path) -> dict[str, Any]:
    """A bundle's metadata, if they tell what is needed to share it."""
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        requirements(metadata)
        version, changelog = metadata["version"], metadata["changelog"]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(path, "metadata with versions of the bundle and its packages", repr(error)) from error
    if version not in changelog:
        raise InputError(path, f"the version {version} in the changelog", ", ".join(changelog) or "an empty changelog")
    return metadata
