"""Reading, checking and converting data."""

from monai_ext.data.datalist import check_points_item, load_datalist
from monai_ext.data.image import FieldReader, read_field
from monai_ext.data.points import read_points, write_points

__all__ = ["FieldReader", "check_points_item", "load_datalist", "read_field", "read_points", "write_points"]
