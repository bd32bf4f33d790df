"""The part of the package that a text needs."""

import pytest

from monai_ext.distribution.modules import needed_files


def test_a_name_brings_its_module_its_imports_and_the_packages_around_them():
    files = needed_files("$monai_ext.base.flags.as_flag(@amp, 'amp')")
    assert sorted(files) == ["monai_ext/__init__.py", "monai_ext/base/errors.py", "monai_ext/base/flags.py"]
    assert all(path.is_file() for path in files.values())


def test_a_text_without_the_package_needs_nothing():
    assert needed_files("torch.nn.Conv2d, my.monai_extra, monai.networks") == {}


def test_a_package_brings_all_that_it_imports():
    assert {
        "monai_ext/transforms/__init__.py",
        "monai_ext/transforms/stain.py",  # by the package
        "monai_ext/formats/image.py",  # by the modules in it
    } <= set(needed_files("monai_ext.transforms.LoadFieldd"))


def test_files_that_are_no_modules_come_along():
    assert "monai_ext/visualize/report.html" in needed_files("monai_ext.base.overlay")
    assert not [name for name in needed_files("monai_ext.visualize") if name.endswith(".pyc")]


@pytest.mark.parametrize("text", ["python -m monai_ext tune mitosis", "`python -m monai_ext`"])
def test_the_command_line_brings_what_its_functions_import(text):
    files = needed_files(text)
    assert {"monai_ext/__main__.py", "monai_ext/phantom/field.py", "monai_ext/tuning/mitosis.py"} <= set(files)
    assert "monai_ext/label/contours.py" not in files  # MONAI Label's
