"""How the names of files end that are read as images."""

__all__ = ["SLIDE_SUFFIXES", "SUFFIXES", "TIFF_SUFFIXES"]

SLIDE_SUFFIXES = (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide")
TIFF_SUFFIXES = (".tif", ".tiff")
#: Names of files that :func:`~monai_ext.formats.image.read_field` reads end so.
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", *TIFF_SUFFIXES, *SLIDE_SUFFIXES)
