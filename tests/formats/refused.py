"""Files that are refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monai_ext.base.errors import InputError


def refusal(path: Path, *ways: Callable[[Path], Any]) -> str:
    """The one line that refuses a file, the same by each way to read it."""
    lines = []
    for read in ways:
        with pytest.raises(InputError) as caught:
            read(path)
        lines.append(str(caught.value))
    assert len(set(lines)) == 1
    assert "\n" not in lines[0]
    return lines[0]
