"""``python -m monai_ext export``: zips of bundles, and the model zoo's table of them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from monai_ext.base.errors import InputError
from monai_ext.base.files import atomic_path
from monai_ext.base.flags import as_flag
from monai_ext.distribution.application import check_application, write_application
from monai_ext.distribution.archive import file_hash, write_zip
from monai_ext.distribution.contents import BundleContents, collect
from monai_ext.distribution.large_files import LISTING, LargeFile, listing

__all__ = ["MODEL_INFO", "export_bundles"]

MODEL_INFO = "model_info.json"
_CHECKSUM, _LARGE_HASH = "sha1", "sha256"  # the zoo's own; the stronger one where there is a choice


def export_bundles(
    name: str,
    dst: str | os.PathLike,
    url: str = "",
    max_mb: float | None = None,
    bundles: str | os.PathLike = "bundles",
    overwrite: bool = False,
    map: bool = False,  # noqa: A002
) -> Path:
    """Write zips that MONAI can download and that run without this repository.

    Args:
        name: of a bundle, or ``all``.
        dst: the folder to write to, for each bundle ``NAME_vVERSION.zip``, and ``model_info.json``, whose other entries
            stay.
        url: the address that the files in ``dst`` will have, the part before their names.
        max_mb: larger weights stay out of the zip: they lie beside it, and ``large_files.yml`` in it tells where to
            get them.
        bundles: the folder of bundles.
        overwrite: replace a version that was exported before.
        map: also write ``NAME_vVERSION_map``, the folder that MONAI Deploy makes an application package (MAP) of.

    Returns:
        ``model_info.json``.

    Raises:
        InputError: no such bundle, a file of it is missing or is not what its list says, or the version is there
            already. Nothing is in ``dst`` then.
    """
    if max_mb is not None and (isinstance(max_mb, bool) or not isinstance(max_mb, int | float) or max_mb < 0):
        raise InputError("--max_mb", "a number, not below 0", repr(max_mb))
    if not isinstance(url, str) or (max_mb is not None and not url):
        raise InputError("--url", "the address of the exported files (--max_mb needs it)", repr(url))
    packaged = as_flag(map, "--map")
    dst, base = Path(dst), f"{url.rstrip('/')}/" if url else ""
    contents = [collect(bundle) for bundle in _chosen(name, Path(bundles))]
    info = _read_model_info(dst / MODEL_INFO)
    for bundle in contents:
        path = dst / f"{bundle.title}.zip"
        if not overwrite and (path.exists() or bundle.title in info):
            expected = f"no {bundle.version} there yet (raise the version in the metadata, or --overwrite)"
            raise InputError(path, expected, "one" if path.exists() else f"its entry in {MODEL_INFO}")
        if packaged:
            check_application(bundle, Path(bundles), dst, overwrite)
    for bundle in contents:
        path = dst / f"{bundle.title}.zip"
        kept = _take_out(bundle, max_mb, dst, base)
        write_zip(path, {f"{bundle.name}/{member}": file for member, file in kept.items()})
        info[bundle.title] = {"checksum": file_hash(path, _CHECKSUM), "source": base + path.name}
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {len(kept)} files")
        if packaged:
            print(f"{write_application(bundle, Path(bundles), dst)}: for monai-deploy package")
    with atomic_path(dst / MODEL_INFO) as temporary:
        temporary.write_text(json.dumps(info, indent=4, sort_keys=True) + "\n", encoding="utf-8")
    return dst / MODEL_INFO


def _chosen(name: str, bundles: Path) -> list[Path]:
    """The folders of the bundles that a name stands for."""
    available = {path.parents[1].name: path.parents[1] for path in sorted(bundles.glob("*/configs/metadata.json"))}
    if not available:
        raise InputError(bundles, "a folder of bundles (--bundles says where)", "none in it")
    if name != "all" and name not in available:
        raise InputError("export", f"{', '.join(available)} or all", repr(name))
    return list(available.values()) if name == "all" else [available[name]]


def _read_model_info(path: Path) -> dict[str, dict[str, str]]:
    """The table of what was exported before; empty if there is none."""
    if not path.parent.is_dir() and path.parent.exists():
        raise InputError(path.parent, "a folder", "a file")
    if not path.is_file():
        return {}
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(path, "an object of NAME_vVERSION", repr(error)) from error
    if not isinstance(info, dict):
        raise InputError(path, "an object of NAME_vVERSION", type(info).__name__)
    return info


def _take_out(bundle: BundleContents, max_mb: float | None, dst: Path, base: str) -> dict[str, Path | bytes]:
    """The files for the zip. Larger weights are put beside it or, where the bundle says their address, left there."""
    kept, left = dict(bundle.files), []
    for name, path in bundle.files.items():
        if max_mb is None or not name.endswith(".pt") or path.stat().st_size <= max_mb * 1e6:
            continue
        del kept[name]
        if name in bundle.large:
            left.append(bundle.large[name])
            continue
        target = dst / f"{bundle.title}_{name.replace('/', '_')}"
        with atomic_path(target) as temporary:
            shutil.copyfile(path, temporary)
        left.append(LargeFile(name, base + target.name, file_hash(target, _LARGE_HASH), _LARGE_HASH))
    if left:
        kept[LISTING] = listing(sorted(left, key=lambda entry: entry.path))
    return kept
