"""The folder of which MONAI Deploy makes an application package; its run is in ``tests/bundles``."""

import ast
import shutil
import zipfile
from pathlib import Path

import pytest
import yaml

from monai_ext.base.errors import InputError
from monai_ext.distribution import export_bundles

ROOT = Path(__file__).parents[2]
APP = "monai_deploy_app/app.py"
TITLE = "tiny_v1.2.0"


@pytest.fixture
def beside(tiny) -> Path:
    """The folder of bundles, with the application beside it."""
    (tiny.parents[1] / APP).parent.mkdir()
    shutil.copyfile(ROOT / APP, tiny.parents[1] / APP)
    return tiny.parent


def test_the_model_is_the_zip_and_the_application_is_beside_it(beside, tmp_path):
    export_bundles("tiny", tmp_path / "out", bundles=beside, map=True)
    folder = tmp_path / f"out/{TITLE}_map"
    with zipfile.ZipFile(tmp_path / f"out/{TITLE}.zip") as archive:
        zipped = {name: archive.read(name) for name in archive.namelist()}
    models = folder / "models"
    assert {p.relative_to(models).as_posix(): p.read_bytes() for p in models.rglob("*") if p.is_file()} == zipped
    assert (folder / "app/app.py").read_bytes() == (ROOT / APP).read_bytes()
    settings = yaml.safe_load((folder / "app/app.yaml").read_text())
    assert settings["application"] == {
        "title": "tiny", "version": "1.2.0", "inputFormats": ["file"], "outputFormats": ["file"],
    }  # fmt: skip
    packages = (folder / "app/requirements.txt").read_text().split()
    assert {"monai==1.6.1", "fire==0.7.1", "pydicom==3.0.2"} <= set(packages)
    assert not [line for line in packages if line.startswith(("zarr", "onnx"))]  # of other extras


def test_without_map_there_is_none(beside, tmp_path):
    export_bundles("tiny", tmp_path / "out", bundles=beside)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model_info.json", f"{TITLE}.zip"]


def test_a_version_is_replaced_on_purpose_only(beside, tmp_path):
    (tmp_path / f"out/{TITLE}_map/models").mkdir(parents=True)
    (tmp_path / f"out/{TITLE}_map/models/old").touch()
    with pytest.raises(InputError, match=rf"{TITLE}_map: expected no 1.2.0 there yet"):
        export_bundles("tiny", tmp_path / "out", bundles=beside, map=True)
    assert not (tmp_path / f"out/{TITLE}.zip").exists()
    export_bundles("tiny", tmp_path / "out", bundles=beside, map=True, overwrite=True)
    assert not (tmp_path / f"out/{TITLE}_map/models/old").exists()


def test_no_application_is_one_line_and_nothing_is_written(tiny, tmp_path):
    with pytest.raises(InputError, match=r"app.py: expected the application"):
        export_bundles("tiny", tmp_path / "out", bundles=tiny.parent, map=True)
    assert not (tmp_path / "out").exists()


def test_the_application_takes_nothing_of_this_package_but_from_the_bundle():
    names = {
        alias.name if isinstance(node, ast.Import) else node.module
        for node in ast.parse((ROOT / APP).read_bytes()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert not [name for name in names if name.startswith("monai_ext")]
