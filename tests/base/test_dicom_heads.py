"""What a file is, from its first bytes, compared with pydicom."""

import pytest

from monai_ext.base.dicom_heads import SLIDE_CLASS, dicom_head

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed (the extra [dicom])")

from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.sequence import Sequence  # noqa: E402
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian  # noqa: E402


def written(path, syntax, undefined=False):
    """A file that names another series before its own, in sequences in each other."""
    inner, other, data = Dataset(), Dataset(), Dataset()
    inner.SeriesInstanceUID = "9.9.9"
    other.SeriesInstanceUID = "9.9"
    other.RelatedSeriesSequence = [inner]
    data.SOPClassUID, data.SOPInstanceUID, data.SeriesInstanceUID = SLIDE_CLASS, "1.2.3.4", "1.2.3"
    data.ReferencedSeriesSequence = Sequence([other, inner])
    for each in (data["ReferencedSeriesSequence"], other["RelatedSeriesSequence"]):
        each.is_undefined_length = undefined
    for each in (other, inner):
        each.is_undefined_length_sequence_item = undefined
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_the_series_is_the_files_own(tmp_path, syntax, undefined):
    head = dicom_head(written(tmp_path / "a.dcm", syntax, undefined))
    assert head == (SLIDE_CLASS, "1.2.3")
    assert head.is_slide


def test_what_is_not_looked_into_states_no_series(tmp_path):
    assert dicom_head(written(tmp_path / "a.dcm", ExplicitVRBigEndian)) == (SLIDE_CLASS, "")


@pytest.mark.parametrize("length", [0, 100, 131])
def test_no_dicom(tmp_path, length):
    (tmp_path / "a.dcm").write_bytes(bytes(length))
    assert dicom_head(tmp_path / "a.dcm") is None
    assert dicom_head(tmp_path / "none.dcm") is None


def test_a_file_that_is_cut_anywhere_is_looked_at(tmp_path):
    whole = written(tmp_path / "a.dcm", ExplicitVRLittleEndian).read_bytes()
    for length in range(132, len(whole), 3):
        (tmp_path / "b.dcm").write_bytes(whole[:length])
        assert dicom_head(tmp_path / "b.dcm").series in ("", "1", "1.", "1.2", "1.2.", "1.2.3")
