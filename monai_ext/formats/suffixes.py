"""How the names of files end that are read as images."""

__all__ = ["DICOM_SUFFIX", "SLIDE_SUFFIXES", "SUFFIXES", "TIFF_SUFFIXES"]

SLIDE_SUFFIXES = (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide")
#: A file of a slide that OpenSlide reads with the others of its series; no converter but that of slides looks for it.
DICOM_SUFFIX = ".dcm"
TIFF_SUFFIXES = (".tif", ".tiff")
#: Names of files that :func:`~monai_ext.formats.image.read_field` reads end so.
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", *TIFF_SUFFIXES, *SLIDE_SUFFIXES)
