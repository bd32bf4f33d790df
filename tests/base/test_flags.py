"""Flags as a command line gives them."""

import pytest

from monai_ext.base.errors import InputError
from monai_ext.base.flags import as_flag
from monai_ext.transforms import BlobDetections


@pytest.mark.parametrize(("value", "expected"), [(True, True), (False, False), ("true", True), ("False", False)])
def test_flags(value, expected):
    assert as_flag(value, "resume") is expected


@pytest.mark.parametrize("value", ["no", "", 1, None])
def test_anything_else_is_refused(value):
    with pytest.raises(InputError, match="resume"):
        as_flag(value, "resume")


def test_text_switches_a_step_off():
    assert BlobDetections(smooth="false").kernel is None
    assert BlobDetections(holistic="false").patch_size == 500
