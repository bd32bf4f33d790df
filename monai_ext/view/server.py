"""The pages of the viewer: which address gives what, and who may ask."""

from __future__ import annotations

import hmac
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import wraps
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import orjson
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from monai_ext.base.errors import InputError
from monai_ext.formats.geojson import encode_features
from monai_ext.view.object_index import ORDERS
from monai_ext.view.opened import Opened, Shelf
from monai_ext.view.pictures import KINDS
from monai_ext.view.training import Training

__all__ = ["POLICY", "application"]

_PAGE = Path(__file__).parent / "page"
#: All that the page consists of; no other file of this folder, or of any, can be asked for by a name.
_ASSETS = {
    "index.html": "text/html",
    "view.css": "text/css",
    "view.js": "text/javascript",
    "openseadragon.min.js": "text/javascript",
}
#: The one style that OpenSeadragon adds to the page by itself.
_STYLE = "sha256-9xTiqzfwFaL2SGb1rmr8gysEwVVjIvqWAgmZgqFqpEE="
#: Scripts and styles come from files of this package alone, and the page speaks to this server alone.
POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        f"style-src 'self' '{_STYLE}'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_AWHILE = {"Cache-Control": "private, max-age=60"}  # the files behind pictures may be written anew
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_MOST_BYTES = 150_000  # of what a page sends: an outline is the longest
_WHOLE = 2**53  # no place is further out


def application(shelf: Shelf, token: str = "", training: Training | None = None) -> ASGIApp:
    """The viewer as an ASGI application.

    Images are asked for by their numbers in a list that was made before, never by a path.

    Args:
        shelf: what there is to look at.
        token: what each address has to begin with, where others than this machine may ask; without it the server
            answers only to the names of this machine, so that no other site's page can make it look like its own.
        training: what learns from the corrections; it ends with the application.
    """
    answers = _Answers(shelf, training)
    case = "/api/slides/{slide:int}"
    get = [
        ("/api/slides", answers.table),
        ("/api/learn", answers.learning),
        (case, answers.facts),
        (case + "/{layer:str}/{level:int}/{col:int}_{row:int}.{kind:str}", answers.tile),
        (case + "/picture.jpg", answers.picture),
        (case + "/tissue.png", answers.tissue),
        (case + "/objects", answers.window),
        (case + "/objects/{number:int}.jpg", answers.patch),
        (case + "/objects/{number:int}", answers.about),
        (case + "/missed/{number:int}", answers.missed),
        (case + "/beside", answers.beside),
        (case + "/at", answers.at),
        (case + "/order", answers.order),
        (case + "/measures", answers.measures),
        (case + "/review", answers.decisions),
        (case + "/review.geojson", answers.corrected),
    ]
    post = [(case + "/review", answers.decide), (case + "/export", answers.export), ("/api/learn", answers.learn)]
    routes = [Route(path, _answered(answer), methods=["POST"]) for path, answer in post]
    routes += [Route(path, _answered(answer), methods=["GET"]) for path, answer in get]
    routes += [Route(path, _asset, methods=["GET"]) for path in ("/", "/{name:str}")]

    @asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:  # noqa: ARG001
        yield
        if training is not None:
            await run_in_threadpool(training.cancel)

    return _Guard(Starlette(routes=routes, lifespan=life), token)


class _Guard:
    """Lets through who may ask, and says on each answer what a browser may do with it.

    Args:
        app: what answers.
        token: see :func:`application`.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = self._refusal(scope)
        if refusal:
            await PlainTextResponse(refusal, 403)(scope, receive, guarded)
            return
        if self.token:
            scope = {**scope, "path": scope["path"][len(self.token) + 1 :] or "/"}
        await self.app(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> str:
        headers = Headers(scope=scope)
        if self.token:
            before, _, given = scope["path"].partition("/")
            if before or not hmac.compare_digest(given.partition("/")[0].encode(), self.token.encode()):
                return "The address lacks its token: use the one that was printed at the start."
        elif _host(headers.get("host", "")) not in _LOOPBACK:
            return "Only addresses of this machine are answered: http://127.0.0.1"
        # a form of another site's page cannot send JSON; a script of it has to ask first, which nothing here answers
        is_json = headers.get("content-type", "").partition(";")[0].strip() == "application/json"
        if scope["method"] == "POST" and not is_json:
            return "Only JSON is taken."
        return ""


def _host(header: str) -> str | None:
    """The name in a header ``Host``, without the port."""
    try:
        return urlsplit(f"//{header}").hostname
    except ValueError:
        return None


def _asset(request: Request) -> Response:
    name = request.path_params.get("name", "index.html")
    if name not in _ASSETS:
        return PlainTextResponse("no such page", 404)
    return Response((_PAGE / name).read_bytes(), media_type=_ASSETS[name], headers={"Cache-Control": "no-cache"})


def _json(content: Any, status: int = 200) -> Response:
    options = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
    return Response(orjson.dumps(content, option=options), status, media_type="application/json")


def _answered(answer: Callable[[Request, Any], Response]) -> Callable[[Request], Any]:
    """An answer made by a thread; what is wrong is told in one line."""

    @wraps(answer)
    async def endpoint(request: Request) -> Response:
        try:
            sent = await _content(request) if request.method == "POST" else None
            return await run_in_threadpool(answer, request, sent)
        except InputError as error:
            return _json({"error": str(error)}, 422)
        except IndexError:
            return _json({"error": "there is no such slide, tile or object"}, 404)
        except OSError as error:
            return _json({"error": f"not saved: {error}"}, 507)

    return endpoint


async def _content(request: Request) -> dict[str, Any]:
    """The object that a page sends."""
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > _MOST_BYTES:
            raise InputError("request", f"at most {_MOST_BYTES} bytes", "more")
    try:
        content = orjson.loads(data or b"{}")
    except orjson.JSONDecodeError as error:
        raise InputError("request", "JSON", str(error)) from error
    if not isinstance(content, dict):
        raise InputError("request", "a JSON object", type(content).__name__)
    return content


def _numbers(request: Request, name: str, count: int = 1) -> list[float]:
    """Numbers of a query, parted by commas."""
    text = request.query_params.get(name, "")
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != count or not all(math.isfinite(value) and abs(value) < _WHOLE for value in values):
        raise InputError(name, f"{count} number(s)", repr(text[:80]))
    return values


def _compares(request: Request) -> bool:
    """Whether a page shows what differs from the objects beside."""
    return request.query_params.get("beside") == "1"


class _Answers:
    """What each address gives."""

    def __init__(self, shelf: Shelf, training: Training | None) -> None:
        self.shelf, self.training = shelf, training

    def table(self, request: Request, sent: Any) -> Response:  # noqa: ARG002
        return _json(self.shelf.table())

    def facts(self, request: Request, sent: Any) -> Response:  # noqa: ARG002
        return _json(self._slide(request).facts())

    def tile(self, request: Request, sent: Any) -> Response:  # noqa: ARG002
        where = request.path_params
        slide = self._slide(request)
        tiles = {"tiles": lambda: slide.tiles, "heat": lambda: slide.heat}.get(where["layer"], lambda: None)()
        if tiles is None:
            raise IndexError(where["layer"])
        data = tiles.tile(where["level"], where["row"], where["col"], where["kind"])
        # the address names the state of the file: see the page's "v"
        return Response(data, media_type=KINDS[where["kind"]], headers={"Cache-Control": "private, max-age=86400"})

    def picture(self, request: Request, sent: Any) -> Response:  # noqa: ARG002
        return Response(self._slide(request).picture(), media_type=KINDS["jpg"], headers=_AWHILE)

    def patch(self, request: Request, sent: Any) -> Response:  # noqa: ARG002
        picture = self._slide(request).picture(request.path_params["number"])
        return Response(picture, media_type=KINDS["jpg"], headers=_AWHILE)

    def tissue(self, request: Request, sent: Any) -> Response:  # noqa: ARG002
        return Response(self._slide(request).tissue(), media_type=KINDS["png"], headers=_AWHILE)

    def window(self, request: Request, sent: Any) -> Response:  # noqa: ARG002
        box, [px] = _numbers(request, "box", 4), _numbers(request, "px")
        return _json(self._slide(request).window(tuple(box), max(px, 0.0), _compares(request)))

    def about(self, request: Request, sent: Any) -> Response:  # noqa: ARG002
        return _json(self._slide(request).about(request.path_params["number"]))

    def missed(self, request: Request, sent: Any) -> Response:  # noqa: ARG002
        return _json(self._slide(request).about(-1 - request.path_params["number"]))

    def beside(self, request: Request, sent: Any) -> Response:  # noqa: ARG002
        return _json(self._slide(request).differences())

    def at(self, request: Request, sent: Any) -> Response:  # noqa: ARG002
        return _json(self._slide(request).at(*_numbers(request, "place", 3), _compares(request)))

    def order(self, request: Request, sent: Any) -> Response:  # noqa: ARG002
        return _json(self._slide(request).order(request.query_params.get("by", ORDERS[0]), _compares(request)))

    def measures(self, request: Request, sent: Any) -> Response:  # noqa: ARG002
        return _json(self._slide(request).measures())

    def decisions(self, request: Request, sent: Any) -> Response:  # noqa: ARG002
        return _json(self._slide(request).decisions())

    def decide(self, request: Request, sent: dict[str, Any]) -> Response:
        """Add a correction or an object, or take the last one back; all corrections, and the object of this one."""
        slide = self._slide(request)
        log, reviewer = slide.log, self.shelf.settings.reviewer
        if log is None:
            raise InputError(slide.case.name, "results of a run", "none: there is nothing to review")
        action, place = sent.get("action"), sent.get("object")
        if action == "undo":
            done = log.undo(reviewer)
            number = done and done.object
        elif action == "draw":
            number = slide.draw(sent.get("type"), sent.get("points"), sent.get("class"))
        elif action in ("accept", "class") and isinstance(place, int) and place < 0:
            number = slide.adopt(-1 - place, sent.get("class"))
        else:
            number = log.decide(place, action, sent.get("class"), reviewer=reviewer).object
        return _json({"object": number, "decisions": slide.decisions()})

    def corrected(self, request: Request, sent: Any) -> Response:  # noqa: ARG002
        slide = self._slide(request)
        features = b",\n".join(encode_features(slide.corrected(), slide.case.name))
        name = quote(Path(slide.case.reviewed or "reviewed.geojson").name)
        headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{name}"}
        content = b'{"type": "FeatureCollection", "features": [\n' + features + b"\n]}\n"
        return Response(content, media_type="application/geo+json", headers=headers)

    def export(self, request: Request, sent: Any) -> Response:  # noqa: ARG002
        return _json({"files": [path.name for path in self._slide(request).export()]})

    def learning(self, request: Request, sent: Any) -> Response:  # noqa: ARG002
        return _json(self.training and self.training.status())

    def learn(self, request: Request, sent: dict[str, Any]) -> Response:  # noqa: ARG002
        """Start or cancel a training; how it stands then."""
        action = sent.get("action")
        if self.training is None or action not in ("start", "cancel"):
            raise InputError("action", "start or cancel", repr(action)[:80])
        if action == "start":
            self.training.start(sent)
        else:
            self.training.cancel()
        return _json(self.training.status())

    def _slide(self, request: Request) -> Opened:
        return self.shelf[request.path_params["slide"]]
