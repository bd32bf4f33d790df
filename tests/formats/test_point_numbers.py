"""Which texts are numbers in a CSV of points."""

import pytest

from monai_ext.base.errors import InputError
from monai_ext.formats.point_files import read_points


@pytest.mark.parametrize("text", ["300", "3e2", "3E2", "+3.0E+2", "30.e1", ".3e3", "3000e-1"])
def test_numbers(tmp_path, text):
    (tmp_path / "a.csv").write_text(f"{text},7\n")
    assert read_points(tmp_path / "a.csv").tolist() == [[300, 7]]


@pytest.mark.parametrize("text", ["٣", "3²", "0x1F", "3e", "e3", ".", "3 0", "3f"])
def test_no_numbers(tmp_path, text):
    (tmp_path / "a.csv").write_text(f"1,1\n{text},7\n", encoding="utf-8")
    with pytest.raises(InputError, match="line 2: expected two numbers row,col"):
        read_points(tmp_path / "a.csv")
