"""The errors that users catch; :mod:`monai_ext.base.errors` holds them."""

from monai_ext.base.errors import DataListError, InputError, input_error_in, report_plainly

__all__ = ["DataListError", "InputError", "input_error_in", "report_plainly"]
