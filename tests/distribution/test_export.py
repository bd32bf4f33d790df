"""Zips of bundles: equal bytes, the right files, and nothing written on wrong input."""

import hashlib
import json
import os
import sys
import zipfile

import pytest
from monai.apps.utils import HashCheckError
from monai.bundle import download, download_large_files

from monai_ext import __main__
from monai_ext.base.errors import InputError
from monai_ext.distribution import export_bundles
from monai_ext.distribution.archive import write_zip
from tests.distribution.conftest import FILES, METADATA, WEIGHTS, write_bundle

TITLE = "tiny_v1.2.0"
TINY_KB = len(WEIGHTS) / 1e3


def export(tiny, dst, name="tiny", **options):
    return export_bundles(name, dst, bundles=tiny.parent, **options)


def content(path):
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def test_equal_input_gives_equal_bytes(tmp_path):
    """Whatever the files' dates, the order in which they were made and the rights that the umask left them."""
    found = []
    for mask, date, names in ((0o022, 1e9, list(FILES)), (0o077, 1.5e9, list(FILES)[::-1])):
        before = os.umask(mask)
        try:
            folder = write_bundle(tmp_path / str(mask) / "tiny", {name: FILES[name] for name in names})
            for path in folder.rglob("*"):
                os.utime(path, (date, date))
            export(folder, tmp_path / f"zips{mask}")
        finally:
            os.umask(before)
        found.append((tmp_path / f"zips{mask}/{TITLE}.zip").read_bytes())
    assert found[0] == found[1]


def test_other_input_gives_other_bytes(tiny, tmp_path):
    export(tiny, tmp_path / "a")
    (tiny / "LICENSE").write_text("dear")
    export(tiny, tmp_path / "b")
    assert (tmp_path / f"a/{TITLE}.zip").read_bytes() != (tmp_path / f"b/{TITLE}.zip").read_bytes()


def test_members_are_plain_files_that_everybody_may_read(tmp_path):
    write_zip(tmp_path / "a.zip", {"b/c": b"1", "a": b"2"})
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        members = archive.infolist()
    assert [member.filename for member in members] == ["a", "b/c"]
    assert {oct(member.external_attr >> 16) for member in members} == {"0o100644"}


def test_the_zip_holds_the_bundle_its_code_and_its_packages(tiny, tmp_path):
    for leftover in ("eval/metrics.json", "models/mine/model.pt", "models/training_state.pt", "docs/.DS_Store"):
        write_bundle(tiny, {leftover: b"x"})
    export(tiny, tmp_path / "zips")
    found = content(tmp_path / f"zips/{TITLE}.zip")
    code = {
        f"monai_ext/{name}.py"
        for name in (
            "__init__",
            "base/__init__",
            "base/errors",
            "base/flags",
            "base/lazy",
            "base/memory",
            "base/version",
        )
    }
    assert set(found) == {f"tiny/{name}" for name in {*FILES, *code, "requirements.txt"}}
    assert {name: found[f"tiny/{name}"] for name in FILES} == FILES
    assert found["tiny/requirements.txt"].decode().split() == [
        *("monai==1.6.1", "torch>=2.11", "numpy==2.2.6", "fire==0.7.1")
    ]


def test_the_table_has_the_checksums_of_the_files(tiny, tmp_path):
    others = {"other_v0.1.0": {"checksum": "00", "source": "elsewhere"}}
    zips = tmp_path / "zips"
    zips.mkdir()
    (zips / "model_info.json").write_text(json.dumps(others))
    write_bundle(tiny.with_name("second"))
    assert export(tiny, zips, "all", url="https://example.org/files/") == zips / "model_info.json"
    assert json.loads((zips / "model_info.json").read_text()) == {
        **others,
        **{
            f"{name}_v1.2.0": {
                "checksum": hashlib.sha1((zips / f"{name}_v1.2.0.zip").read_bytes()).hexdigest(),
                "source": f"https://example.org/files/{name}_v1.2.0.zip",
            }
            for name in ("second", "tiny")
        },
    }


def metadata(**changes):
    return {"configs/metadata.json": json.dumps({**METADATA, **changes}).encode()}


def in_dst(name, text=b""):
    return lambda bundle, dst: write_bundle(dst, {name: text})


def without(name):
    return lambda bundle, dst: (bundle / name).unlink()


def having(files):
    return lambda bundle, dst: write_bundle(bundle, files)


@pytest.mark.parametrize(
    ("prepare", "options", "expected"),
    [
        pytest.param(None, {"name": "cats"}, "export: expected tiny or all, found 'cats'", id="unknown bundle"),
        pytest.param(None, {"bundles": "nowhere"}, "nowhere: expected a folder of bundles", id="no bundles"),
        pytest.param(in_dst(f"{TITLE}.zip"), {}, f"{TITLE}.zip: expected no 1.2.0 there yet", id="exported before"),
        pytest.param(
            in_dst("model_info.json", json.dumps({TITLE: {}}).encode()), {}, "its entry in model_info.json", id="listed"
        ),
        pytest.param(in_dst("model_info.json", b"["), {}, "expected an object of NAME_vVERSION", id="broken table"),
        pytest.param(in_dst("model_info.json", b"[]"), {}, "found list", id="table of another kind"),
        pytest.param(lambda bundle, dst: dst.write_text(""), {}, "expected a folder, found a file", id="a file"),
        pytest.param(without("models/model.pt"), {}, "models/model.pt: expected the bundle's weights", id="no weights"),
        pytest.param(without("models/second/model.pt"), {}, "second/model.pt: expected the bundle's", id="no seconds"),
        pytest.param(without("docs/README.md"), {}, "README.md: expected a file that every bundle has", id="no README"),
        pytest.param(having(metadata(version="2.0.0")), {}, "the version 2.0.0 in the", id="not in changelog"),
        pytest.param(having(metadata(numpy_version=2)), {}, "expected metadata with versions", id="version a number"),
        pytest.param(having({"configs/metadata.json": b"{"}), {}, "expected metadata with versions", id="no JSON"),
        pytest.param(having({"large_files.yml": b"{}"}), {}, "large_files.yml: expected", id="broken list"),
        pytest.param(None, {"max_mb": "much", "url": "u"}, "--max_mb: expected a number", id="size"),
        pytest.param(None, {"max_mb": 0}, "--url: expected the address", id="no address"),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(prepare, options, expected, tiny, tmp_path):
    dst = tmp_path / "zips"
    if prepare:
        prepare(tiny, dst)
    before = sorted(dst.rglob("*"))
    with pytest.raises(InputError) as caught:
        export_bundles(**{"name": "tiny", "dst": dst, "bundles": tiny.parent, **options})
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(dst.rglob("*")) == before


def test_overwrite_replaces(tiny, tmp_path):
    export(tiny, tmp_path / "zips")
    before = (tmp_path / f"zips/{TITLE}.zip").read_bytes()
    export(tiny, tmp_path / "zips", overwrite=True)
    assert (tmp_path / f"zips/{TITLE}.zip").read_bytes() == before


def test_weights_that_stay_out_of_the_zip_are_downloaded(tiny, shelf, tmp_path):
    folder, address = shelf
    write_bundle(tiny, {"models/second/model.pt": b"small"})
    export(tiny, folder, url=address, max_mb=TINY_KB / 2e3)
    (found,) = [name for name in content(folder / f"{TITLE}.zip") if name.endswith(".pt")]
    assert found == "tiny/models/second/model.pt"
    download(name="tiny", url=f"{address}/{TITLE}.zip", bundle_dir=tmp_path / "user", progress=False)
    download_large_files(str(tmp_path / "user/tiny"))
    assert (tmp_path / "user/tiny/models/model.pt").read_bytes() == WEIGHTS


def test_weights_that_were_exchanged_are_refused(tiny, shelf, tmp_path):
    folder, address = shelf
    export(tiny, folder, url=address, max_mb=0)
    (folder / f"{TITLE}_models_model.pt").write_bytes(WEIGHTS[1:])
    download(name="tiny", url=f"{address}/{TITLE}.zip", bundle_dir=tmp_path / "user", progress=False)
    with pytest.raises(HashCheckError):
        download_large_files(str(tmp_path / "user/tiny"))
    assert not (tmp_path / "user/tiny/models/model.pt").exists()


def test_weights_that_the_bundle_lists(tiny, shelf, tmp_path):
    """They are downloaded for the zip; one without weights keeps the address that the bundle gives."""
    folder, address = shelf
    (tiny / "models/model.pt").rename(folder / "far.pt")
    entry = {"path": "models/model.pt", "url": f"{address}/far.pt", "hash_type": "md5"}
    entry["hash_val"] = hashlib.md5(WEIGHTS).hexdigest()
    (tiny / "large_files.yml").write_text(json.dumps({"large_files": [entry]}))
    export(tiny, tmp_path / "whole")
    found = content(tmp_path / f"whole/{TITLE}.zip")
    assert found["tiny/models/model.pt"] == WEIGHTS
    assert "tiny/large_files.yml" not in found
    export(tiny, folder, url=address, max_mb=0)
    found = json.loads(content(folder / f"{TITLE}.zip")["tiny/large_files.yml"])["large_files"]
    assert found[0] == entry
    assert found[1]["url"] == f"{address}/{TITLE}_models_second_model.pt"
    assert not (folder / f"{TITLE}_models_model.pt").exists()


def test_as_a_command(tiny, tmp_path, monkeypatch, capsys):
    zips = tmp_path / "zips"
    options = ["export", "tiny", "--dst", str(zips), "--bundles", str(tiny.parent), "--overwrite", "false"]
    monkeypatch.setattr(sys, "argv", ["monai_ext", *options])
    __main__.main()
    assert capsys.readouterr().out.splitlines()[-1] == str(zips / "model_info.json")
    with pytest.raises(SystemExit) as caught:
        __main__.main()
    assert caught.value.code == 1
    assert capsys.readouterr().err.startswith(f"InputError: {zips / TITLE}.zip: expected no 1.2.0 there yet")
