"""The image that DICOM results refer to: a slide in DICOM, or identifiers that stand for any other image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai_ext.base.errors import InputError
from monai_ext.base.version import __version__
from monai_ext.exchange.results import Results
from monai_ext.formats.dicom import SLIDE_CLASS, read_dicom
from monai_ext.formats.dicom_levels import dicom_frame, is_dicom_slide
from monai_ext.formats.stand_ins import stand_in_name, stand_in_uids

__all__ = ["MAKER", "code_of", "new_uid", "source_image", "stated_name"]

#: Who writes the results, for highdicom.
MAKER: dict[str, Any] = {
    "manufacturer": "monai_ext",
    "manufacturer_model_name": "monai_ext",
    "software_versions": __version__,
    "device_serial_number": "none",
    "instance_number": 1,
}
_SCHEME = "99MONAI_EXT"  # codes of our own; schemes that begin with 99 are private
_LONGEST = 64  # characters of the value representation LO
_STUDY = ("PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime")


def source_image(results: Results) -> Any:
    """The data set of full resolution that results refer to, as highdicom needs it.

    For an image that is no DICOM its name is the patient's and the container's, and its UIDs follow from the image
    (:func:`~monai_ext.formats.stand_ins.stand_in_uids`), so that all results of an image belong together.

    Raises:
        InputError: a DICOM slide whose size is not the results'.
    """
    if results.image is None or not is_dicom_slide(results.image):
        return _stand_in(results)
    frame = dicom_frame(results.image)
    if results.shape is not None and tuple(results.shape) != frame.shape:
        found, expected = (f"{sides[1]} x {sides[0]} px" for sides in (results.shape, frame.shape))
        raise InputError(results.geojson, f"objects of {frame.path} ({expected})", f"those of a slide of {found}")
    data = read_dicom(frame.path)
    for name in ("PatientID", *_STUDY):
        if name not in data:
            setattr(data, name, "")
    return data


def _stand_in(results: Results) -> Any:
    from highdicom import PixelMeasuresSequence, PlaneOrientationSequence
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    rows, cols = results.extent
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.Modality = SLIDE_CLASS, "SM"
    data.SpecificCharacterSet = "ISO_IR 192"
    data.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    uids = stand_in_uids(results.name, results.extent, results.image)
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
        setattr(data, name, uids[name])
    data.PatientID = data.ContainerIdentifier = stated_name(results)
    data.IssuerOfTheContainerIdentifierSequence, data.ContainerTypeCodeSequence = [], []
    specimen = Dataset()
    specimen.SpecimenIdentifier, specimen.SpecimenUID = data.ContainerIdentifier, uids["SpecimenUID"]
    specimen.IssuerOfTheSpecimenIdentifierSequence, specimen.SpecimenPreparationSequence = [], []
    data.SpecimenDescriptionSequence = [specimen]
    for name in _STUDY:
        setattr(data, name, "")
    data.TotalPixelMatrixRows, data.TotalPixelMatrixColumns = rows, cols
    data.Rows, data.Columns, data.NumberOfFrames = rows, cols, 1
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    data.DimensionOrganizationType = "TILED_FULL"
    data.TotalPixelMatrixFocalPlanes, data.NumberOfOpticalPaths = 1, 1
    origin = Dataset()
    origin.XOffsetInSlideCoordinateSystem = origin.YOffsetInSlideCoordinateSystem = 0.0
    data.TotalPixelMatrixOriginSequence = [origin]
    data.ImageOrientationSlide = [1, 0, 0, 0, 1, 0]
    groups = Dataset()
    height, width = (side / 1000 for side in results.mpp or (1000.0, 1000.0))
    groups.PixelMeasuresSequence = PixelMeasuresSequence((height, width), width)
    groups.PlaneOrientationSequence = PlaneOrientationSequence("SLIDE", data.ImageOrientationSlide)
    data.SharedFunctionalGroupsSequence = [groups]
    return data


def stated_name(results: Results) -> str:
    """The image's name, as DICOM can hold it."""
    return stand_in_name(results.name)


def new_uid() -> str:
    """A UID that nothing else has."""
    from pydicom.uid import generate_uid

    return generate_uid(prefix=None)


def code_of(name: str, where: Path) -> Any:
    """The code of a class: SNOMED's where it is what SNOMED calls it, else one of our own with that meaning.

    Args:
        name: of the class.
        where: the file, for the error.

    Raises:
        InputError: DICOM cannot hold the name.
    """
    import hashlib

    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    if len(name) > _LONGEST or not name.isprintable() or "\\" in name or name != name.strip() or not name:
        raise InputError(where, f"classes of at most {_LONGEST} characters in one line, without \\", repr(name))
    word = name[:1].upper() + name[1:]
    known = getattr(codes.SCT, word, None) if word.isidentifier() else None
    if known is not None and known.meaning == word:
        return Code(known.value, "SCT", name)
    return Code(hashlib.sha256(name.encode()).hexdigest()[:16], _SCHEME, name)
