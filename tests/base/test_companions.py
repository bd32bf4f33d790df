"""Files that another slide stands for."""

import os
from pathlib import Path

import pytest

from monai_ext.base.companions import companions, is_one_file
from monai_ext.base.dicom_heads import SLIDE_CLASS
from monai_ext.base.files import find_files
from monai_ext.formats.dicom import ANNOTATION_CLASS

VMS = """[Virtual Microscope Specimen]
NoLayers=1
NoJpegColumns=2
NoJpegRows=1
ImageFile=a.jpg
ImageFile(1,0) = A(1,0).JPG
MapFile=sub\\a_map.jpg
OptimisationFile=a.opt
MacroImage=a_macro.jpg
AuthCode=other.jpg
"""


def dicom(path, uid, kind=SLIDE_CLASS):
    elements = ((b"\x02\x00\x02\x00", kind.encode()), (b"\x20\x00\x0e\x00", uid))
    parts = [tag + b"UI" + len(value).to_bytes(2, "little") + value for tag, value in elements]
    path.write_bytes(bytes(128) + b"DICM" + b"".join(parts) + bytes(50))


@pytest.mark.parametrize("suffix", [".vms", ".VMU"])
def test_what_a_hamamatsu_index_names(tmp_path, suffix):
    (tmp_path / f"a{suffix}").write_text(VMS)
    names = [f"a{suffix}", "a.jpg", "a(1,0).jpg", "a_map.jpg", "a.opt", "a_macro.jpg", "other.jpg", "b.png"]
    left = {"a.jpg", "a(1,0).jpg", "a_map.jpg", "a.opt", "a_macro.jpg"}
    assert companions(tmp_path, names) == left


def test_a_damaged_index_names_nothing(tmp_path):
    (tmp_path / "a.vms").write_bytes(bytes(range(256)))
    (tmp_path / "gone.vms").symlink_to("nowhere")
    assert companions(tmp_path, ["a.vms", "gone.vms", "a.jpg"]) == set()


def test_an_index_does_not_name_itself(tmp_path):
    (tmp_path / "a.vms").write_text("ImageFile=a.vms\n")
    assert companions(tmp_path, ["a.vms"]) == set()


@pytest.mark.parametrize("suffix", [".vms", ".VMU", ".mrxs", ".vsi", ".dcm"])
def test_what_stands_for_others_is_not_the_whole_image(tmp_path, suffix):
    assert not is_one_file(tmp_path / f"a{suffix}")
    assert is_one_file(tmp_path / f"a{suffix}.tif")


def test_folders_of_data(tmp_path):
    files, folders = ["a.mrxs", "b.vsi", "c.svs"], ["a", "_a_", "b", "_b_", "c", "_c_"]
    assert companions(tmp_path, files, folders) == {"a", "_b_"}


def test_a_series_of_dicom_is_one_slide(tmp_path):
    for name, uid in (("1.dcm", b"1.2.3"), ("2.dcm", b"1.2.3\0"), ("3.dcm", b"1.2.4"), ("4.dcm", b"1.2.3")):
        dicom(tmp_path / name, uid)
    (tmp_path / "5.dcm").write_bytes(b"none")
    (tmp_path / "6.dcm").write_bytes(b"none")
    assert companions(tmp_path, [f"{k}.dcm" for k in range(1, 7)]) == {"2.dcm", "4.dcm"}


def test_annotations_in_one_series_are_files_of_their_own(tmp_path):
    """They were left out, as the masks beside crops of a radiograph were."""
    for name in ("1.dcm", "2.dcm", "IM3"):
        dicom(tmp_path / name, b"1.2.3", ANNOTATION_CLASS)
    assert [path.name for path in find_files(tmp_path, (".dcm",))] == ["1.dcm", "2.dcm", "IM3"]


def test_dicom_without_an_ending_is_found_and_nothing_else_looked_into(tmp_path, monkeypatch):
    for name, uid in (("IM0", b"1.2.3"), ("IM1", b"1.2.3"), ("1.2.840.7", b"1.2.4"), ("x/MR.1.2", b"1.2.3")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        dicom(tmp_path / name, uid)
    for name in ("a.png", "b.svs", "c.txt", "d.7z", "e.mp4", "LICENSE", "IM2", "f.2"):
        (tmp_path / name).write_bytes(bytes(200))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    looked_into, plain = [], open

    def opened(path, *args, **more):
        looked_into.append(path)
        return plain(path, *args, **more)

    monkeypatch.setattr("builtins.open", opened)
    found = [path.relative_to(tmp_path).as_posix() for path in find_files(tmp_path, (".png", ".svs", ".dcm"))]
    assert found == ["1.2.840.7", "IM0", "a.png", "b.svs", "x/MR.1.2"]
    names = {"1.2.840.7", "IM0", "IM1", "IM2", "LICENSE", "f.2", "x/MR.1.2"}
    assert {Path(path).relative_to(tmp_path).as_posix() for path in looked_into} == names
    looked_into.clear()
    assert len(find_files(tmp_path, (".png", ".svs"))) == 2  # where no DICOM is looked for
    assert looked_into == []
    assert is_one_file(tmp_path / "LICENSE")
    assert not is_one_file(tmp_path / "IM0")


def test_parts_of_slides_are_no_files_of_their_own(tmp_path, capsys):
    (tmp_path / "a.vms").write_text(VMS)
    (tmp_path / "c.mrxs").touch()
    for name in ("a.jpg", "a_map.jpg", "z.jpg", "c/preview.jpg", "c/deep/x.png", "c/Slidedat.ini", "d/a.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    listed = find_files(tmp_path, (".jpg", ".png", ".vms", ".mrxs"))
    assert [path.relative_to(tmp_path).as_posix() for path in listed] == ["a.vms", "c.mrxs", "d/a.jpg", "z.jpg"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"{tmp_path}: left out 4 files that are parts of slides, as {tmp_path / 'a.jpg'}"
    find_files(tmp_path, (".ini",))
    find_files(tmp_path, (".vms",))
    assert len(capsys.readouterr().err.splitlines()) == 1  # of Slidedat.ini alone
