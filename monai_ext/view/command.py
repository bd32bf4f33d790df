"""``monai-ext view``: start the viewer."""

from __future__ import annotations

import getpass
import os
import secrets
import socket
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from ipaddress import ip_address

from monai_ext.base.errors import InputError

__all__ = ["listen", "view"]

_NEEDED = ("starlette", "uvicorn")
_MOST = 65535


def view(
    src: str | os.PathLike,
    *,
    slides: str | os.PathLike | None = None,
    beside: str | os.PathLike | None = None,
    radius_um: float = 7.5,
    classes: Sequence[str] | str | None = None,
    reviewer: str | None = None,
    mpp: float | None = None,
    formats: Sequence[str] | str | None = None,
    bundle: str | os.PathLike | None = None,
    ckpt_dir: str | os.PathLike | None = None,
    host: str = "127.0.0.1",
    port: int = 8777,
) -> str:
    """Show slides and results in the browser, and save corrections of them; Ctrl-C ends it.

    Args:
        src: the output folder of a run of any bundle; the folder of a data set; a folder of images; or one image.
        slides: the folder that the run's images lie in now, or its only image, where they have been moved.
        beside: another result of the same images, a data set, or a folder of GeoJSON, to be compared with: what both
            have, what is found here alone, and what is missed.
        radius_um: within which a point is that of the other; outlines match by an IoU above .5.
        classes: that objects may be given, besides those that the result has.
        reviewer: whose corrections these are; by default the name that you are logged in by.
        mpp: um/px of the images, in place of what they state.
        formats: that corrected objects are written in besides GeoJSON, such as ``csv,dicom-ann``; those of ``convert``.
        bundle: the folder of the bundle that the run was of: with it the page can start ``learn``.
        ckpt_dir: the folder of the run's weights, to go on from; the bundle's ``models`` by default.
        host: address to listen at. Any other than this machine's own asks for a token, which is in the address that
            is printed; what is sent is not encrypted.
        port: to listen at; 0 for any that is free.

    Returns:
        Nothing, when it has been ended.

    Raises:
        InputError: there is nothing to show, no such bundle, a slide is not where it was, nothing beside it is of the
            same images, the port is in use, a package is missing.
    """
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise InputError("view", 'the packages of pip install "monai_ext[view]"', f"no {', '.join(missing)}")
    import uvicorn

    from monai_ext.exchange.registry import Exchange
    from monai_ext.view.cases import find_beside, find_cases
    from monai_ext.view.opened import Settings, Shelf
    from monai_ext.view.server import application
    from monai_ext.view.training import Training

    for name, value, unit in (("--mpp", mpp, "um/px"), ("--radius_um", radius_um, "um")):
        if value is not None and not (isinstance(value, int | float) and value > 0):
            raise InputError(name, f"{unit}, a positive number", repr(value))
    exchange = Exchange(_names(formats))
    settings = Settings(str(reviewer or _user()), _names(classes), mpp, exchange.names, radius_um)
    cases = find_cases(src, slides)
    shelf = Shelf(cases, settings, None if beside is None else find_beside(cases, beside))
    training = Training(src, cases, bundle, {"slides": slides, "mpp": mpp, "ckpt_dir": ckpt_dir})
    token = "" if _is_loopback(host) else secrets.token_urlsafe(24)
    with listen(host, port) as listening:
        shown = f"[{host}]" if ":" in host else host
        print(f"http://{shown}:{listening.getsockname()[1]}/{token + '/' if token else ''}", flush=True)
        config = uvicorn.Config(application(shelf, token, training), log_level="warning", lifespan="on", ws="none")
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])
    return ""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Args:
        host: address or name.
        port: 0 for any.

    Raises:
        InputError: the port is in use or no port, or the address is none of this machine's.
    """
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= _MOST:
        raise InputError("--port", f"0 to {_MOST}", repr(port))
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise InputError("--host", "an address of this machine", f"{host}: {error.strerror}") from error
    try:
        if os.name == "posix":  # a port that was closed a moment ago is free
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError as error:
        listening.close()
        expected = "an address of this machine, and a port that is free; --port 0 takes any"
        raise InputError("--host and --port", expected, f"{host} {port}: {error.strerror}") from error
    return listening


def _names(listed: Sequence[str] | str | None) -> list[str]:
    """Of a list, or of text with commas."""
    return [name.strip() for name in (listed.split(",") if isinstance(listed, str) else listed or ())]


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no name, as in containers
        return "reviewer"
