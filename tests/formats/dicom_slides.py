"""Slides and their annotations as DICOM files, as the Imaging Data Commons has them: whole slide images in tiles and
Microscopy Bulk Simple Annotations. Written element by element, by the standard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed (the extra [dicom])")

from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402 - there is nothing without pydicom
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.uid import (  # noqa: E402
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from monai_ext.formats.dicom import ANNOTATION_CLASS, SLIDE_CLASS  # noqa: E402

TILE = 64
MM = 0.00025  # a pixel's side
JPEG_XL = "1.2.840.10008.1.2.4.110"  # lossless; pydicom 3.0.2 does not name it
HTJ2K = "1.2.840.10008.1.2.4.201"
ORIGIN, ORIENTATION = (20.0, 40.0), (0.0, -1.0, 0.0, -1.0, 0.0, 0.0)  # as scanners of Aperio lay their slides


def item(**elements) -> Dataset:
    data = Dataset()
    for name, value in elements.items():
        setattr(data, name, value)
    return data


def code(value: str, meaning: str, scheme: str = "SCT") -> list[Dataset]:
    return [item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)]


def _rle(tile: np.ndarray) -> bytes:
    from pydicom.pixels.encoders.base import EncodeRunner
    from pydicom.pixels.encoders.native import _encode_frame

    runner = EncodeRunner(RLELossless)
    runner.set_options(
        rows=tile.shape[0],
        columns=tile.shape[1],
        samples_per_pixel=3,
        number_of_frames=1,
        bits_allocated=8,
        bits_stored=8,
        pixel_representation=0,
        planar_configuration=0,
        photometric_interpretation="RGB",
        pixel_keyword="PixelData",
    )
    return bytes(_encode_frame(tile.tobytes(), runner))


#: How the pixels of a tile are written by each transfer syntax, and what its colours are called.
CODECS: dict[str, tuple[Callable[[np.ndarray], bytes], str]] = {
    ExplicitVRLittleEndian: (np.ndarray.tobytes, "RGB"),
    ImplicitVRLittleEndian: (np.ndarray.tobytes, "RGB"),
    JPEGBaseline8Bit: (lambda tile: imagecodecs.jpeg8_encode(tile, level=95), "YBR_FULL_422"),
    JPEG2000Lossless: (lambda tile: imagecodecs.jpeg2k_encode(tile, level=0, codecformat="J2K"), "YBR_RCT"),
    JPEGLSLossless: (imagecodecs.jpegls_encode, "RGB"),
    JPEG_XL: (lambda tile: imagecodecs.jpegxl_encode(tile, lossless=True), "RGB"),
    RLELossless: (_rle, "RGB"),
}


def save(path: Path, data: Dataset, syntax: str = ExplicitVRLittleEndian) -> Dataset:
    path.parent.mkdir(parents=True, exist_ok=True)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    if syntax == JPEG_XL:
        pytest.importorskip("wsidicom")  # pydicom 3.0.2 does not know it unless wsidicom tells it
    data.save_as(path, enforce_file_format=True)
    return data


def write_slide(
    folder: Path,
    pixels: np.ndarray,
    *,
    barcode: str = "TCGA-AA-0001-01Z-00-DX1",
    levels=(1, 2),
    syntax: str = ExplicitVRLittleEndian,
    sparse: bool = False,
    parts: int = 1,
    planes: int = 1,
    overview: bool = True,
    tile_px: int = TILE,
    frame: Callable[[int, int], bytes] | None = None,
    shrink: Callable[[np.ndarray, int], np.ndarray] = lambda image, factor: image[::factor, ::factor],
    **changed,
) -> Dataset:
    """A file for each level, and an overview; the data set of full resolution.

    Args:
        folder: of the series.
        pixels: uint8 ``(H, W, 3)`` RGB.
        barcode: the slide's; it begins with the patient's.
        levels: downsampling of each file.
        syntax: the transfer syntax, a key of :data:`CODECS`.
        sparse: TILED_SPARSE: each frame says where it lies, those that are white as a whole are left out, and they come
            last first.
        parts: into how many files each level is split, a concatenation.
        planes: focal planes, or optical paths where those are changed to be as many, of the same pixels.
        overview: write one.
        tile_px: side of a tile.
        frame: the encoded tile that begins at a row and a column of full resolution, in place of an own one.
        shrink: makes a level.
        changed: elements of all files to have otherwise; None for none.
    """
    series, glass, study = generate_uid(), generate_uid(), generate_uid()
    encode, colours = CODECS[syntax]
    first = None
    for factor in (*levels, 0) if overview else levels:
        image = shrink(pixels, factor or 8)
        tiles, places = [], []
        for row in range(0, image.shape[0], tile_px):
            for col in range(0, image.shape[1], tile_px):
                tile = np.full((tile_px, tile_px, 3), 255, np.uint8)
                part = image[row : row + tile_px, col : col + tile_px]
                tile[: part.shape[0], : part.shape[1]] = part
                if not sparse or part.min() < 255:
                    tiles.append(frame(row, col) if frame and factor == 1 else encode(tile))
                    places.append((row + 1, col + 1))
        tiles, places = tiles * planes, places * planes
        if sparse:
            tiles, places = tiles[::-1], places[::-1]
        kind = ["VOLUME", "NONE"] if factor == 1 else ["VOLUME", "RESAMPLED"] if factor else ["OVERVIEW", "NONE"]
        side = MM * (factor or 8)
        data = item(
            SOPClassUID=SLIDE_CLASS,
            SeriesInstanceUID=series,
            StudyInstanceUID=study,
            FrameOfReferenceUID=glass,
            Modality="SM",
            PatientID=barcode[:12],
            ContainerIdentifier=barcode,
            ImageType=["ORIGINAL" if factor == 1 else "DERIVED", "PRIMARY", *kind],
            DimensionOrganizationType="TILED_SPARSE" if sparse else "TILED_FULL",
            TotalPixelMatrixRows=image.shape[0],
            TotalPixelMatrixColumns=image.shape[1],
            Rows=tile_px,
            Columns=tile_px,
            SamplesPerPixel=3,
            PhotometricInterpretation=colours,
            PlanarConfiguration=0,
            BitsAllocated=8,
            BitsStored=8,
            HighBit=7,
            PixelRepresentation=0,
            ImagedVolumeWidth=float(side * image.shape[1]),
            ImagedVolumeHeight=float(side * image.shape[0]),
            ImagedVolumeDepth=0.001,
            TotalPixelMatrixOriginSequence=[
                item(XOffsetInSlideCoordinateSystem=ORIGIN[0], YOffsetInSlideCoordinateSystem=ORIGIN[1])
            ],
            ImageOrientationSlide=list(ORIENTATION),
            SharedFunctionalGroupsSequence=[
                item(PixelMeasuresSequence=[item(PixelSpacing=[side, side], SliceThickness=0.001)])
            ],
            OpticalPathSequence=[
                item(
                    OpticalPathIdentifier="1",
                    IlluminationTypeCodeSequence=code("111744", "Brightfield illumination", "DCM"),
                )
            ],
            NumberOfOpticalPaths=1,
            TotalPixelMatrixFocalPlanes=planes,
        )
        for name, value in changed.items():
            delattr(data, name) if value is None else setattr(data, name, value)
        split = parts if factor else 1
        whole, uid = -(-len(tiles) // split), generate_uid()
        for number in range(split):
            here = slice(number * whole, (number + 1) * whole)
            data.SOPInstanceUID = generate_uid()
            data.NumberOfFrames = len(tiles[here])
            if split > 1:
                data.ConcatenationUID, data.SOPInstanceUIDOfConcatenationSource = uid, uid
                data.InConcatenationNumber, data.InConcatenationTotalNumber = number + 1, split
                data.ConcatenationFrameOffsetNumber = here.start
            if sparse:
                data.PerFrameFunctionalGroupsSequence = [_place(row, col) for row, col in places[here]]
            packed = b"".join(tiles[here])
            data.PixelData = packed if CODECS[syntax][0] is np.ndarray.tobytes else encapsulate(tiles[here])
            data["PixelData"].VR = "OW" if syntax == ImplicitVRLittleEndian else "OB"
            part = f"_{number}" if split > 1 else ""
            save(folder / f"{'level' if factor else 'overview'}_{factor}{part}.dcm", data, syntax)
        first = first or data
    return first


def _place(row: int, col: int) -> Dataset:
    """Where a frame lies, px from 1, and its optical path."""
    place = item(
        RowPositionInTotalImagePixelMatrix=row,
        ColumnPositionInTotalImagePixelMatrix=col,
        XOffsetInSlideCoordinateSystem=0.0,
        YOffsetInSlideCoordinateSystem=0.0,
        ZOffsetInSlideCoordinateSystem=0.0,
    )
    path = item(OpticalPathIdentifier="1")
    return item(PlanePositionSlideSequence=[place], OpticalPathIdentificationSequence=[path])


def group(number: int, kind: str, objects, *, meaning="Nucleus", label="nuclei", drawn=False, **elements) -> Dataset:
    """A group of objects.

    Args:
        number: from 1.
        kind: graphic type.
        objects: ``(N, 2)`` or ``(N, 3)`` of each; with Z equal for all it is stored once.
        meaning: of its coded type.
        label: its name.
        drawn: by a person.
        elements: further ones, or others; None for none.
    """
    points = np.concatenate(objects)
    data = item(
        AnnotationGroupNumber=number,
        AnnotationGroupUID=generate_uid(),
        AnnotationGroupLabel=label,
        AnnotationGroupGenerationType="MANUAL" if drawn else "AUTOMATIC",
        AnnotationPropertyCategoryCodeSequence=code("91723000", "Anatomical Structure"),
        AnnotationPropertyTypeCodeSequence=code("84640000", meaning),
        NumberOfAnnotations=len(objects),
        GraphicType=kind,
        AnnotationAppliesToAllOpticalPaths="YES",
    )
    if points.shape[1] == 3 and len(np.unique(points[:, 2])) == 1:
        data.CommonZCoordinateValue = float(points[0, 2])
        points = points[:, :2]
    if points.dtype == np.float64:
        data.DoublePointCoordinatesData = points.tobytes()
    else:
        data.PointCoordinatesData = points.astype("<f4").tobytes()
    if kind in ("POLYGON", "POLYLINE"):
        lengths = [len(each) * points.shape[1] for each in objects]
        data.LongPrimitivePointIndexList = (np.cumsum([0, *lengths[:-1]]) + 1).astype("<i4").tobytes()
    for name, value in elements.items():
        delattr(data, name) if value is None else setattr(data, name, value)
    return data


def measurement(meaning: str, unit: str, values, index=None) -> Dataset:
    content = item(FloatingPointValues=np.asarray(values, "<f4").tobytes())
    if index is not None:
        content.AnnotationIndexList = np.asarray(index, "<i4").tobytes()
    return item(
        ConceptNameCodeSequence=code("42798000", meaning),
        MeasurementUnitsCodeSequence=code(unit, unit, "UCUM"),
        MeasurementValuesSequence=[content],
    )


def write_annotations(path: Path, slide: Dataset, groups, kind: str = "2D", **elements) -> Dataset:
    """Annotations of a slide, of the image of a data set that :func:`write_slide` gave."""
    data = item(
        SOPClassUID=ANNOTATION_CLASS,
        SOPInstanceUID=generate_uid(),
        SeriesInstanceUID=generate_uid(),
        StudyInstanceUID=slide.StudyInstanceUID,
        Modality="ANN",
        PatientID=slide.PatientID,
        ContentLabel="NUCLEI",
        AnnotationCoordinateType=kind,
        ReferencedSeriesSequence=[item(SeriesInstanceUID=slide.SeriesInstanceUID)],
        AnnotationGroupSequence=list(groups),
    )
    if kind == "2D":
        data.PixelOriginInterpretation = "VOLUME"
        data.ReferencedImageSequence = [
            item(ReferencedSOPClassUID=SLIDE_CLASS, ReferencedSOPInstanceUID=slide.SOPInstanceUID)
        ]
    else:
        data.FrameOfReferenceUID = slide.FrameOfReferenceUID
    for name, value in elements.items():
        delattr(data, name) if value is None else setattr(data, name, value)
    return save(path, data)


def on_glass(xy) -> np.ndarray:
    """Level-0 pixels as X, Y, Z in mm, with the slide's rows running along -Y and its columns along -X."""
    xy = np.asarray(xy, np.float64) - 0.5  # the origin is the first pixel's centre
    return np.stack([ORIGIN[0] - xy[:, 1] * MM, ORIGIN[1] - xy[:, 0] * MM, np.zeros(len(xy))], axis=1)
