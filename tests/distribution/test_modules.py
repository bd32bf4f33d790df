"""The part of the package that a text needs."""

import pytest

from monai_ext.distribution.modules import needed_files


def test_a_name_brings_its_module_its_imports_and_the_packages_around_them():
    files = needed_files("$monai_ext.base.flags.as_flag(@amp, 'amp')")
    names = ("__init__", "base/__init__", "base/errors", "base/flags", "base/lazy", "base/memory", "base/version")
    assert sorted(files) == [f"monai_ext/{name}.py" for name in names]
    assert all(path.is_file() for path in files.values())


def test_a_text_without_the_package_needs_nothing():
    assert needed_files("torch.nn.Conv2d, my.monai_extra, monai.networks") == {}


def test_a_public_name_brings_its_module_and_no_other_of_its_package():
    files = set(needed_files("monai_ext.transforms.LoadFieldd"))
    needed = {"transforms/__init__", "transforms/fields", "formats/image"}  # the last by the second
    assert {f"monai_ext/{name}.py" for name in needed} <= files
    assert "monai_ext/transforms/stain.py" not in files


def test_a_package_brings_all_its_public_names():
    assert {"monai_ext/transforms/fields.py", "monai_ext/transforms/stain.py"} <= set(
        needed_files("monai_ext.transforms")
    )


def test_a_name_that_a_package_has_from_another_is_found_there():
    assert "monai_ext/formats/image.py" in needed_files("monai_ext.data.read_field")
    assert "monai_ext/data/cohort.py" not in needed_files("monai_ext.data.read_field")


def test_files_that_are_no_modules_come_along():
    assert "monai_ext/reports/report.html" in needed_files("monai_ext.reports.write_report")
    assert not [name for name in needed_files("monai_ext.reports") if name.endswith(".pyc")]


@pytest.mark.parametrize("text", ["python -m monai_ext tune mitosis", "`python -m monai_ext`"])
def test_the_command_line_brings_what_its_functions_import(text):
    files = needed_files(text)
    assert {"monai_ext/__main__.py", "monai_ext/phantom/field.py", "monai_ext/tuning/mitosis.py"} <= set(files)
    assert "monai_ext/label/contours.py" not in files  # MONAI Label's
