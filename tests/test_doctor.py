"""The doctor tries things; here each kind of fault is made and has to be told."""

import json
import sys
from importlib import metadata

import numpy as np
import pytest
import tifffile
import torch

from monai_ext import commands, doctor
from monai_ext.base.errors import InputError
from monai_ext.doctor import findings


@pytest.fixture(scope="module")
def rows():
    return {(row.group, row.name): row for row in findings()}


@pytest.fixture
def light(monkeypatch):
    """Two packages and no extras, so that a fault is all that is tried."""
    monkeypatch.setattr(doctor, "_requirements", lambda: ["numpy", "protobuf", 'absent; python_version < "3"'])
    monkeypatch.setattr(doctor, "_EXTRAS", {})
    return monkeypatch


def one(name):
    return next(row for row in findings() if row.name == name)


def test_this_environment_has_what_the_bundles_need(rows):
    assert {group for group, _ in rows} == {"packages", "readers", "devices", "extras"}
    assert not [row for row in rows.values() if row.needed and not row.works]
    assert rows["packages", "numpy"].detail == np.__version__
    assert rows["packages", "pillow"].works
    assert rows["readers", "OpenSlide pyramid"].works
    assert rows["readers", "tifffile jpeg2000"].works
    assert rows["devices", "cpu"].works
    assert rows["extras", "ONNX Runtime"].works
    assert not rows["packages", "protobuf"].needed


def test_extras_are_reported_with_their_reason(rows):
    for row in rows.values():
        assert row.works or row.detail
        assert "\n" not in row.line()


def test_all_works(light, capsys):
    commands.main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "All that the bundles need works."
    assert not [line for line in lines if "MISSING" in line or "absent" in line]


def test_a_package_that_is_missing(light, capsys):
    def version(name):
        raise metadata.PackageNotFoundError(name)

    light.setattr(metadata, "version", version)
    with pytest.raises(SystemExit) as caught:
        commands.main(["doctor"])
    said = capsys.readouterr()
    assert caught.value.code == 1
    assert said.err.startswith("InputError: doctor: expected all that the bundles need, found not working: numpy")
    assert [line.split()[:3] for line in said.out.splitlines() if "protobuf" in line] == [
        ["packages", "no", "protobuf"]
    ]
    assert [line.split()[:3] for line in said.out.splitlines() if "numpy" in line] == [["packages", "MISSING", "numpy"]]


def test_a_package_that_cannot_be_imported(light):
    light.setitem(sys.modules, "numpy", None)
    row = next(doctor._package("numpy"))
    assert (row.works, row.needed) == (False, True)
    assert "numpy" in row.detail


def test_another_version_than_the_pinned_one_is_told_and_works(light):
    row = next(doctor._package("numpy==1.0"))
    assert row.works
    assert row.detail == f"{np.__version__}, tested with ==1.0"
    assert next(doctor._package(f"numpy=={np.__version__}")).detail == np.__version__


def test_pins_are_those_beside_the_package_or_of_its_metadata(tmp_path, monkeypatch):
    assert "fire==0.7.1" in doctor._requirements()
    (tmp_path / "monai_ext").mkdir()
    monkeypatch.setattr(doctor, "__file__", str(tmp_path / "monai_ext/doctor.py"))
    monkeypatch.setattr(metadata, "requires", lambda _: ["torch>=2"])
    assert doctor._requirements() == ["torch>=2"]
    (tmp_path / "requirements.txt").write_text("# pins\n-r more.txt\nnumpy>=1\n\n")
    assert doctor._requirements() == ["numpy>=1"]


def test_a_reader_that_reads_something_else(light):
    read = tifffile.imread
    light.setattr(tifffile, "imread", lambda *a, **k: read(*a, **k)[..., ::-1])
    row = one("tifffile none")
    assert (row.works, row.needed) == (False, True)
    assert "grey levels" in row.detail
    assert one("Pillow png").works
    light.setattr(tifffile, "imread", lambda *_, **__: None)
    assert "shape" in one("tifffile none").detail


def test_a_codec_that_is_missing(light):
    write = tifffile.TiffWriter.write

    def refuse(self, data, **options):
        if options.get("compression") in ("jpeg2000", "webp"):
            raise KeyError("<COMPRESSION: requires the 'imagecodecs' package")
        return write(self, data, **options)

    light.setattr(tifffile.TiffWriter, "write", refuse)
    rows = {row.name: row for row in findings()}
    assert "imagecodecs" in rows["tifffile jpeg2000"].detail
    assert (rows["tifffile jpeg2000"].needed, rows["tifffile webp"].needed) == (True, False)
    assert rows["tifffile lzw"].works


def test_openslide_without_its_library(light):
    light.setitem(sys.modules, "openslide", None)
    row = one("OpenSlide pyramid")
    assert (row.works, row.needed) == (False, True)


def test_a_device_that_computes_nonsense(light):
    light.setattr(torch.nn.functional, "conv2d", lambda *_: torch.zeros(1))
    assert "wrong result" in one("cpu").detail


def test_for_programs(light, capsys):
    commands.main(["doctor", "--json"])
    content = json.loads(capsys.readouterr().out)
    assert content["works"] is True
    assert {"group", "name", "works", "needed", "detail"} == set(content["rows"][0])
    light.setattr(metadata, "version", lambda name: metadata.distribution("absent").version)
    with pytest.raises(InputError):
        doctor.doctor(json=True)
    assert json.loads(capsys.readouterr().out)["works"] is False
