"""A bundle as MONAI Deploy takes it: the folder of which its command makes an application package (MAP)."""

from __future__ import annotations

import json
import shutil
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from monai_ext.base.errors import InputError
from monai_ext.base.files import atomic_path
from monai_ext.distribution.contents import BundleContents

__all__ = ["check_application", "write_application"]

_APP = "monai_deploy_app/app.py"
_EXTRA = "dicom"
_OF_SDK = "protobuf="  # in a version that its client of Triton takes; here it reads .caffemodel weights alone
_SETTINGS = """\
application:
  title: {title}
  version: {version}
  inputFormats: ["file"]
  outputFormats: ["file"]
resources:
  cpu: 2
  gpu: 1
  memory: 8Gi
  gpuMemory: 8Gi
"""


def _extra() -> list[str]:
    """The pins of what reads and writes DICOM, as this package states them."""
    stated = [Requirement(text) for text in metadata.requires("monai_ext") or []]
    wanted = [one for one in stated if one.marker and "extra" in str(one.marker)]
    return [f"{one.name}{one.specifier}" for one in wanted if one.marker.evaluate({"extra": _EXTRA})]


def _folder(bundle: BundleContents, dst: Path) -> Path:
    return dst / f"{bundle.title}_map"


def check_application(bundle: BundleContents, bundles: Path, dst: Path, overwrite: bool) -> None:
    """See that :func:`write_application` can write, before anything is written.

    Raises:
        InputError: the application is not beside the bundles, or this version was written before.
    """
    if not (bundles.parent / _APP).is_file():
        raise InputError(bundles.parent / _APP, "the application, which is in the repository", "no such file")
    if not overwrite and _folder(bundle, dst).exists():
        raise InputError(_folder(bundle, dst), f"no {bundle.version} there yet (--overwrite replaces it)", "one")


def write_application(bundle: BundleContents, bundles: Path, dst: Path) -> Path:
    """Write ``app/`` (the program, its settings and packages) and ``models/``, which holds the bundle.

    Args:
        bundle: what the bundle is made of.
        bundles: the folder of bundles, beside which the application is.
        dst: the folder to write to.

    Returns:
        the folder, ``NAME_vVERSION_map``.
    """
    with atomic_path(_folder(bundle, dst)) as folder:
        for name, content in bundle.files.items():
            path = folder / "models" / bundle.name / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                shutil.copyfile(content, path)
        app = folder / "app"
        app.mkdir()
        shutil.copyfile(bundles.parent / _APP, app / "app.py")
        packages = [*bundle.files["requirements.txt"].decode().splitlines(), *_extra()]
        packages = [line for line in packages if not line.startswith(_OF_SDK)]
        (app / "requirements.txt").write_text("\n".join(packages) + "\n", encoding="utf-8")
        title = json.dumps(bundle.name)  # a quoted string of YAML as well
        settings = _SETTINGS.format(title=title, version=bundle.version)
        (app / "app.yaml").write_text(settings, encoding="utf-8")
    return _folder(bundle, dst)
