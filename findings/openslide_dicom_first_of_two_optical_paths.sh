#!/usr/bin/env bash
# OpenSlide shows the first optical path of a DICOM slide that has two, as if it were the slide.
#
# Seen with OpenSlide 4.0.1 (openslide-python 1.4.7, openslide-bin 4.0.1.2) and pydicom 3.0.2: a TILED_FULL image with
# Number of Optical Paths 2 has the tiles of the first path, then those of the second. OpenSlide opens it without a word
# and reads the first one alone. Of several focal planes it says so and refuses: "TotalPixelMatrixFocalPlanes value 2".
# Why it surprises: the sister attribute is checked, the pixels are plausible (a DAPI channel, a polarised image), and
# nothing but the property dicom.NumberOfOpticalPaths tells that half of the file was not shown.
# Who meets it: readers of multi-stain or fluorescence slides in DICOM, who take what opens for the whole image.
# Source: DICOM PS3.3 C.7.6.17.3 (order of frames), C.8.12.5 (optical paths); OpenSlide's list of DICOM constraints.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check \
    openslide-python==1.4.7 openslide-bin==4.0.1.2 pydicom==3.0.2 numpy==2.2.6
cd "$work"
cat > try.py <<'PY'
import numpy as np
import openslide
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

print(f"OpenSlide {openslide.__library_version__}")


def item(**elements):
    data = Dataset()
    for name, value in elements.items():
        setattr(data, name, value)
    return data


def write(path, planes, paths):
    data = item(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.77.1.6", SOPInstanceUID=generate_uid(), SeriesInstanceUID=generate_uid(),
        StudyInstanceUID=generate_uid(), FrameOfReferenceUID=generate_uid(), Modality="SM",
        ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], DimensionOrganizationType="TILED_FULL",
        TotalPixelMatrixRows=64, TotalPixelMatrixColumns=64, Rows=64, Columns=64, NumberOfFrames=2, SamplesPerPixel=3,
        PhotometricInterpretation="RGB", PlanarConfiguration=0, BitsAllocated=8, BitsStored=8, HighBit=7,
        PixelRepresentation=0, ImagedVolumeWidth=0.016, ImagedVolumeHeight=0.016, ImagedVolumeDepth=0.001,
        TotalPixelMatrixOriginSequence=[item(XOffsetInSlideCoordinateSystem=0.0, YOffsetInSlideCoordinateSystem=0.0)],
        ImageOrientationSlide=[0, -1, 0, -1, 0, 0], NumberOfOpticalPaths=paths, TotalPixelMatrixFocalPlanes=planes,
        SharedFunctionalGroupsSequence=[item(PixelMeasuresSequence=[item(PixelSpacing=[0.00025] * 2, SliceThickness=1)])],
        OpticalPathSequence=[item(OpticalPathIdentifier=str(number)) for number in range(paths)],
        PixelData=b"".join(np.full((64, 64, 3), value, np.uint8).tobytes() for value in (100, 200)),
    )
    data["PixelData"].VR = "OB"
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.save_as(path, enforce_file_format=True)


write("paths.dcm", planes=1, paths=2)
write("planes.dcm", planes=2, paths=1)
with openslide.OpenSlide("paths.dcm") as slide:
    values = np.unique(np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]).tolist()
    print(f"two optical paths, of 100 and of 200: opened, {slide.level_count} level, all of it {values}")
try:
    openslide.OpenSlide("planes.dcm")
    refused = ""
except openslide.OpenSlideError as error:
    refused = str(error)
print(f"two focal planes: {refused or 'opened'}")
raise SystemExit(values != [100] or "TotalPixelMatrixFocalPlanes" not in refused)
PY
env/bin/python try.py
