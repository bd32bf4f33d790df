"""The order in which configurations are laid over each other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from monai_ext.base.errors import InputError

__all__ = ["check_order"]

_OVER, _AND = "_over_", " + "  # the stacks that a configuration goes over, each of them names


def check_order(files: Sequence[str | Path]) -> None:
    """Refuse configurations that are laid under what they are made to go over, which would undo them in silence.

    Args:
        files: of a stack, from the lowest to the last; each may say under ``_over_`` which stacks it goes over. What
            says nothing, or is not among those that it names, goes anywhere.

    Raises:
        InputError: one that stands before another one of the stack that it goes over.
    """
    names = [Path(file).stem for file in files]
    for index, file in enumerate(files):
        content = json.loads(Path(file).read_text(encoding="utf-8")) if Path(file).suffix == ".json" else {}
        stacks = [stack.split(_AND) for stack in content.get(_OVER, ()) if set(stack.split(_AND)) <= set(names)]
        late = [[name for name in stack if name not in names[:index]] for stack in stacks]
        if late and all(late):
            after = " and ".join(str(files[names.index(name)]) for name in min(late, key=len))
            raise InputError(file, f"to stand after {after} in --config_file, as it changes that", "it before")
