"""Each bundle as others get it: a zip, downloaded with MONAI, run where only MONAI and the listed packages are."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pydicom
import pytest
import tifffile
from monai.bundle import download, get_bundle_info, scripts
from pydicom.uid import JPEG2000Lossless

from monai_ext.distribution import export_bundles
from monai_ext.exchange import convert
from monai_ext.formats import read_geojson
from monai_ext.phantom import phantom_field, write_camelyon16, write_vessel_slide
from tests.bundles.conftest import BUNDLES, ROOT, environment
from tests.formats.dicom_slides import item, write_slide
from tests.loopback import serve

ZOO_FILES = {
    *("LICENSE", "configs/metadata.json", "configs/inference.json", "docs/README.md", "docs/data_license.txt"),
    *("models/model.pt", "monai_ext/__init__.py", "requirements.txt"),
}
NOT_SHARED = ("monai_ext/label/", "eval/", "runs/", "data/")
INSTALL_S, RUN_S = 3600, 900
MEASURES = item(PixelMeasuresSequence=[item(PixelSpacing=[0.0005, 0.0005], SliceThickness=0.001)])
HALF_UM = {"levels": (1,), "SharedFunctionalGroupsSequence": [MEASURES]}
SDK = "monai-deploy-app-sdk==4.0.0"
LOAD = """
import importlib, pkgutil, sys
from pathlib import Path
name = sys.argv[1]
sys.path.insert(0, name)  # MONAI does so before it runs a bundle, but not before it loads one
from monai.bundle import load
network = load(name, bundle_dir=".", source="monaihosting", device="cpu")
import monai_ext
assert Path(monai_ext.__file__).resolve().is_relative_to(Path(name).resolve())
assert type(network).__module__.startswith("monai_ext.")
for module in pkgutil.walk_packages(monai_ext.__path__, "monai_ext."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        if error.name != "starlette":  # of the extra [view], which the viewer asks for before it imports its server
            raise
"""


@dataclass
class Exported:
    """The folder that ``export`` wrote, and its address."""

    folder: Path
    address: str

    @property
    def info(self) -> dict:
        return json.loads((self.folder / "model_info.json").read_text())

    def title(self, bundle: Path) -> str:
        return f"{bundle.name}_v{json.loads((bundle / 'configs/metadata.json').read_text())['version']}"

    def zip(self, bundle: Path) -> Path:
        return self.folder / f"{self.title(bundle)}.zip"

    def members(self, bundle: Path) -> dict[str, bytes]:
        with zipfile.ZipFile(self.zip(bundle)) as archive:
            return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="session")
def exported(tmp_path_factory) -> Exported:
    """All bundles, exported by the command that is documented, on a server on loopback."""
    folder = tmp_path_factory.mktemp("exported")
    with serve(folder) as address:
        command = [sys.executable, "-m", "monai_ext", "export", "all", "--dst", str(folder), "--url", address]
        subprocess.run(command, check=True, cwd=ROOT, env=environment(), capture_output=True, timeout=RUN_S)
        yield Exported(folder, address)


def as_files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder.parent).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_zip_holds_what_the_zoo_asks_for(bundle, exported):
    members = exported.members(bundle)
    assert {name.split("/")[0] for name in members} == {bundle.name}
    inside = {name.partition("/")[2]: content for name, content in members.items()}
    assert ZOO_FILES - set(inside) == set()
    assert [name for name in inside if name.startswith(NOT_SHARED)] == []
    for name, content in inside.items():
        source = (ROOT if name.startswith("monai_ext/") else bundle) / name
        assert name == "requirements.txt" or content == source.read_bytes()


def test_the_table_has_the_checksums_of_the_files(exported):
    assert set(exported.info) == {exported.title(bundle) for bundle in BUNDLES}
    for title, entry in exported.info.items():
        path = exported.folder / f"{title}.zip"
        assert entry == {
            "checksum": hashlib.sha1(path.read_bytes()).hexdigest(),
            "source": f"{exported.address}/{title}.zip",
        }


def test_two_processes_write_equal_bytes(bundle, exported, tmp_path):
    export_bundles(bundle.name, tmp_path, bundles=bundle.parent)
    assert (tmp_path / exported.zip(bundle).name).read_bytes() == exported.zip(bundle).read_bytes()


def test_download_by_address(bundle, exported, tmp_path):
    address = exported.info[exported.title(bundle)]["source"]
    download(name=bundle.name, url=address, bundle_dir=tmp_path, progress=False)
    assert as_files(tmp_path / bundle.name) == exported.members(bundle)


@pytest.fixture
def github(exported, monkeypatch) -> str:
    """``owner/name/tag`` of a repository with the zips as release files and the table in its branch ``tag``."""
    asked = scripts._get_git_release_url

    def release_url(owner, name, tag_name, filename):
        address = asked(owner, name, tag_name=tag_name, filename=filename)
        assert address == f"https://github.com/owner/name/releases/download/tag/{filename}"
        return f"{exported.address}/{filename}"

    def get(address, **options):
        assert address == "https://raw.githubusercontent.com/owner/name/tag/models/model_info.json"
        with urllib.request.urlopen(f"{exported.address}/model_info.json") as answer:
            return SimpleNamespace(text=answer.read().decode(), raise_for_status=lambda: None)

    monkeypatch.setattr(scripts, "_get_git_release_url", release_url)
    monkeypatch.setattr(scripts, "requests", SimpleNamespace(get=get))
    monkeypatch.setattr(scripts, "has_requests", True)
    return "owner/name/tag"


def test_download_from_a_release(bundle, exported, github, tmp_path):
    version = json.loads((bundle / "configs/metadata.json").read_text())["version"]
    options = {"bundle_dir": tmp_path, "source": "github", "repo": github, "progress": False}
    download(name=bundle.name, version=version, **options)
    assert as_files(tmp_path / bundle.name) == exported.members(bundle)


def test_monai_finds_the_latest_version_in_the_table(bundle, exported, github):
    if "_v" in bundle.name:
        pytest.skip("MONAI ends a bundle's name at its first _v: this one is downloaded with its version")
    info = get_bundle_info(bundle.name, repo="owner/name", tag="tag")
    assert info["browser_download_url"] == exported.info[exported.title(bundle)]["source"]


@dataclass
class Elsewhere:
    """An environment that has what the zips list, and nothing of this repository."""

    python: Path

    def install(self, *args: object) -> None:
        uv = shutil.which("uv")
        install = [uv, "pip", "install", "--python", self.python] if uv else [self.python, "-m", "pip", "install"]
        subprocess.run([*install, "--quiet", *args], check=True, timeout=INSTALL_S)

    def run(self, *args: object, cwd: Path, check: bool = True) -> subprocess.CompletedProcess:
        env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        done = subprocess.run(
            [self.python, *map(str, args)],
            cwd=cwd,
            env={**env, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=RUN_S,
            check=False,
        )
        if check and done.returncode:
            pytest.fail(f"{args}: exit code {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}")
        return done


@pytest.fixture(scope="session")
def elsewhere(exported, tmp_path_factory) -> Elsewhere:
    """Made once for all bundles: their lists agree in versions, as the metadata's test sees to."""
    if sys.version_info < (3, 11):
        pytest.skip("the PyTorch that the metadata name needs Python 3.11")
    folder = tmp_path_factory.mktemp("elsewhere")
    lines = {
        line for bundle in BUNDLES for line in exported.members(bundle)[f"{bundle.name}/requirements.txt"].split(b"\n")
    }
    (folder / "requirements.txt").write_bytes(b"\n".join(sorted(lines)))
    without_pip = ["--without-pip"] if shutil.which("uv") else []
    subprocess.run([sys.executable, "-m", "venv", *without_pip, folder / "venv"], check=True)
    found = Elsewhere(folder / "venv/bin/python")
    found.install("-r", folder / "requirements.txt")
    assert "No module named 'monai_ext'" in found.run("-c", "import monai_ext", cwd=folder, check=False).stderr
    yield found
    shutil.rmtree(folder)  # gigabytes


@pytest.mark.slow
@pytest.mark.dear("mitosis")
def test_runs_where_this_repository_is_not(bundle, exported, elsewhere, tmp_path):
    folder, data = tmp_path / bundle.name, tmp_path / "data"
    source = exported.info[exported.title(bundle)]["source"]
    get = ["download", "--name", bundle.name, "--url", source, "--bundle_dir", tmp_path]
    elsewhere.run("-m", "monai.bundle", *get, cwd=tmp_path)
    elsewhere.run("-c", LOAD, bundle.name, cwd=tmp_path)

    options = json.loads((folder / "configs/quickstart.json").read_text())["phantom"]
    phantom = ["phantom", options.pop("method"), "--dst", data, *(a for k, v in options.items() for a in (f"--{k}", v))]
    elsewhere.run("-m", "monai_ext", *phantom, cwd=folder)
    infer = ["run", "--config_file", "configs/inference.json", "--dataset_dir", data, "--output_dir", tmp_path / "out"]
    elsewhere.run("-m", "monai.bundle", *infer, cwd=folder)
    state = json.loads((tmp_path / "out/state.json").read_text())
    assert state
    assert {entry["status"] for entry in state.values()} == {"done"}
    assert (tmp_path / "out/summary.csv").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("mitosis", marks=pytest.mark.exhaustive),
        pytest.param("vessel", marks=pytest.mark.exhaustive),
        pytest.param("nuclei", marks=pytest.mark.exhaustive),
        pytest.param("metastasis", marks=pytest.mark.exhaustive),
        "cell_semantic",
    ],
)
def test_the_runner_of_monai_deploy(kind, exported, elsewhere, tmp_path):
    """DICOM in, DICOM out; the SDK needs no GPU for what has no operator of one."""
    bundle = next(path for path in BUNDLES if kind in path.name)
    export_bundles(bundle.name, tmp_path, bundles=ROOT / "bundles", map=True)
    folder = tmp_path / f"{exported.title(bundle)}_map"
    elsewhere.install(SDK, "-r", folder / "app/requirements.txt")
    slide = tmp_path / "in/slide"
    if kind == "vessel":  # whose outlines come with it, in DICOM too
        drawn = write_vessel_slide(tmp_path / "drawn.tif", 2048, seed=3, radius=(60, 75), invaded=0.5)
        source = write_slide(slide, tifffile.imread(drawn), syntax=JPEG2000Lossless, **HALF_UM)
        convert(tmp_path / "drawn_vessels.geojson", "dicom-ann", slide=slide, dst=tmp_path, drawn=True)
        (tmp_path / "drawn_vessels_annotations.dcm").rename(tmp_path / "in/slide_vessels.dcm")
    elif kind == "metastasis":
        write_camelyon16(tmp_path / "release", slides=4, size=2048)
        drawn = next((tmp_path / "release/training/tumor").glob("*.tif"))
        source = write_slide(slide, tifffile.imread(drawn), syntax=JPEG2000Lossless, **HALF_UM)
    else:
        pixels = phantom_field((512, 640), seed=3, mpp=0.25).image
        source = write_slide(slide, pixels, syntax=JPEG2000Lossless)
    elsewhere.run("app/app.py", "-i", tmp_path / "in", "-o", tmp_path / "out", "-m", "models", cwd=folder)
    found = read_geojson(tmp_path / "out/slide.geojson")
    assert len(found) > 0
    annotations = pydicom.dcmread(tmp_path / "out/slide_annotations.dcm")
    assert sum(group.NumberOfAnnotations for group in annotations.AnnotationGroupSequence) == len(found)
    (series,) = annotations.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == source.SeriesInstanceUID
    assert (tmp_path / "out/slide_segmentation.dcm").is_file()

    (tmp_path / "empty").mkdir()
    done = elsewhere.run(
        "app/app.py", "-i", tmp_path / "empty", "-o", tmp_path / "none", "-m", "models", cwd=folder, check=False
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith(f"InputError: {tmp_path / 'empty'}: expected images")
