"""Flags as a command line gives them."""

from __future__ import annotations

from monai_ext.base.errors import InputError

__all__ = ["as_flag"]


def as_flag(value: bool | str, name: str) -> bool:
    """``True`` or ``False``, also where a command line made it text: ``--resume false`` arrives as ``"false"``.

    Args:
        value: a bool, or "true" or "false" in any case.
        name: the argument's name, for the error.

    Raises:
        InputError: anything else; a text would otherwise count as true.
    """
    if isinstance(value, bool):
        return value
    if str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    raise InputError(name, "true or false", repr(value))
