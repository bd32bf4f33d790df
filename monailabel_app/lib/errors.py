"""What went wrong, as an HTTP answer instead of a bare 500."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

from fastapi import HTTPException
from monailabel.interfaces.exception import ImageNotFoundException, MONAILabelException

from monai_ext.base.errors import InputError, input_error_in

__all__ = ["check_name", "http_errors"]


@contextmanager
def http_errors() -> Iterator[None]:
    """Turn errors into answers: 404 for what is not there, 422 for what cannot be used, each with its one line."""
    try:
        yield
    except ImageNotFoundException as error:
        raise HTTPException(HTTPStatus.NOT_FOUND, error.msg) from error
    except InputError as error:
        raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from error
    except RuntimeError as error:  # MONAI wraps what a configuration raises
        if (cause := input_error_in(error)) is None:
            raise
        raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, str(cause)) from error
    except MONAILabelException as error:
        raise HTTPException(HTTPStatus.BAD_REQUEST, error.msg) from error


def check_name(name: str, names: list[str], what: str) -> None:
    """Answer 404 for an unknown name."""
    if name not in names:
        raise HTTPException(HTTPStatus.NOT_FOUND, f"{what}: expected one of {', '.join(names) or 'none'}, found {name}")
