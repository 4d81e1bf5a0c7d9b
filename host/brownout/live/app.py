"""The pages: runs in a table, one run as it happens, two groups compared, the switches of a rig, and metrics.

Every request is checked for its Host, every page carries a policy that lets it fetch from here alone. What a run's
folder holds is shown in a sandbox: a report may come from somebody else. Must not switch anything itself; see control.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio.to_thread
import jinja2
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from .. import store
from ..analysis.compare import compare
from ..contracts import RigError, UsageError
from . import guard, metrics
from .clients import Client
from .control import Control
from .follow import Follower, encode
from .library import Library

HEARTBEAT_S = 1.0
MOST_CLIENTS = 64
HERE = Path(__file__).parent
REPORT_STYLE = HERE.parent / "report" / "style.css"
# A report may run the scripts it holds and save pictures; it belongs to no origin, so it can ask nothing of this one.
REPORT_POLICY = "sandbox allow-scripts allow-downloads; default-src 'none'; script-src 'unsafe-inline'; "
REPORT_POLICY += "style-src 'unsafe-inline'; img-src data: blob:"

Handler = Callable[[Request], Awaitable[Response]]


class HostCheck:
    """Refuses what was asked of another name; see guard.py."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            host = next((value for name, value in scope["headers"] if name == b"host"), b"")
            if not guard.is_own_host(host.decode("latin-1")):
                await PlainTextResponse("this Host is not served here\n", 403)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class Pages:
    """closing: set when the server is about to end; those who look on are told so."""

    def __init__(self, library: Library, control: Control | None = None, *, single: bool = False) -> None:
        self.library = library
        self.control = control
        self.single = single
        self.closing = asyncio.Event()
        self.clients: set[Client] = set()
        self.looked_at = asyncio.Event()  # somebody has had a look
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    def app(self) -> Starlette:
        routes = [
            Route("/", self.runs),
            Route("/live", self.run),
            Route("/live/events", self.events),
            Route("/run/{name}", self.run),
            Route("/run/{name}/events", self.events),
            Route("/run/{name}/report", self.report),
            Route("/compare", self.comparison),
            Route("/metrics", self.metrics),
        ]
        if self.control is not None:
            routes.append(Route("/control", self.switches))
            routes.append(Route("/control/{what}", self.switch, methods=["GET", "POST", "PUT", "DELETE", "PATCH"]))

        @contextlib.asynccontextmanager
        async def lifespan(_app: Starlette) -> AsyncIterator[None]:
            self.library.start()
            try:
                yield
            finally:
                await anyio.to_thread.run_sync(self.library.close)

        errors: Any = {UsageError: self._wrong, RigError: self._wrong}
        return Starlette(
            routes=routes, lifespan=lifespan, exception_handlers=errors, middleware=[Middleware(HostCheck)]
        )

    async def _wrong(self, _request: Request, error: Exception) -> Response:
        return PlainTextResponse(f"{error}\n", 404 if isinstance(error, UsageError) else 502)

    def close(self) -> None:
        """Tell those who look on that this is the end."""
        self.closing.set()
        for client in self.clients:
            client.wake()

    # Pages.

    def _page(self, template: str, *scripts: str, **values: Any) -> HTMLResponse:
        nonce = secrets.token_urlsafe(16)
        style = REPORT_STYLE.read_text(encoding="utf-8") + (HERE / "live.css").read_text(encoding="utf-8")
        text = self._templates.get_template(template).render(
            style=style,
            nonce=nonce,
            scripts=[(HERE / script).read_text(encoding="utf-8") for script in ("page.js", *scripts)],
            control=self.control is not None,
            single=self.single,
            **values,
        )
        policy = (
            f"default-src 'none'; style-src 'unsafe-inline'; script-src 'nonce-{nonce}'; connect-src 'self'; "
            "img-src data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
        )
        headers = {
            "content-security-policy": policy,
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
            "cache-control": "no-store",
        }
        return HTMLResponse(text, headers=headers)

    async def runs(self, _request: Request) -> Response:
        rows = await anyio.to_thread.run_sync(self.library.table)
        return self._page("runs.html", rows=rows, base=str(self.library.base))

    async def run(self, request: Request) -> Response:
        name = request.path_params.get("name")
        if name is not None:
            await anyio.to_thread.run_sync(self.library.follower, name)
        return self._page("run.html", "plots.js", "live.js", name=name or "", events=f"{request.url.path}/events")

    async def report(self, request: Request) -> Response:
        follower = await anyio.to_thread.run_sync(self.library.follower, request.path_params["name"])
        path = follower.folder / store.REPORT
        if not path.exists():
            raise UsageError(f"{follower.folder.name} has no report yet")
        return FileResponse(path, media_type="text/html", headers={"content-security-policy": REPORT_POLICY})

    async def comparison(self, request: Request) -> Response:
        names, by = request.query_params.getlist("run"), request.query_params.get("by", "").strip() or "campaign"
        rows = await anyio.to_thread.run_sync(self.library.table)
        document, wrong = None, None
        if names:
            known = {row["name"] for row in rows}
            folders = [self.library.base / name for name in names if name in known]
            try:
                document = await anyio.to_thread.run_sync(compare, folders, by)
            except (UsageError, RigError) as error:
                wrong = str(error)
        return self._page("compare.html", rows=rows, chosen=set(names), by=by, document=document, wrong=wrong)

    async def metrics(self, _request: Request) -> Response:
        text = await anyio.to_thread.run_sync(metrics.exposition, self.library.followed())
        return Response(text, headers={"content-type": metrics.CONTENT_TYPE})

    # Events.

    async def events(self, request: Request) -> Response:
        if len(self.clients) >= MOST_CLIENTS:
            return PlainTextResponse(f"{MOST_CLIENTS} pages look on already\n", 503)
        name = request.path_params.get("name")
        fixed = None if name is None else await anyio.to_thread.run_sync(self.library.follower, name)
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(self._stream(fixed), media_type="text/event-stream", headers=headers)

    async def _stream(self, fixed: Follower | None) -> AsyncIterator[bytes]:
        """A snapshot, then what changes; anew where the client lagged, or where another run has begun."""
        client = Client(asyncio.get_running_loop())
        current: Follower | None = None
        self.clients.add(client)
        try:
            yield b"retry: 1000\n\n"
            while not self.closing.is_set():
                wanted = fixed or self.library.live()
                if wanted is None:
                    yield b": nothing goes on\n\n"
                    await asyncio.sleep(0.2)
                    continue
                if wanted is not current or client.lagged:
                    if current is not None and wanted is not current:
                        current.leave(client)
                    current = wanted
                    yield await anyio.to_thread.run_sync(current.join, client)
                    self.looked_at.set()
                message = await client.next(HEARTBEAT_S)
                if message is not None:
                    yield message
                elif not client.lagged:
                    yield b": still here\n\n"
            if current is not None:
                yield await anyio.to_thread.run_sync(current.join, client)
            yield encode("goodbye", {})
        finally:
            self.clients.discard(client)
            if current is not None:
                current.leave(client)

    # Switches.

    async def switches(self, _request: Request) -> Response:
        assert self.control is not None
        return self._page("control.html", "control.js", boards=self.control.boards, rig=self.control.rig_name)

    async def switch(self, request: Request) -> Response:
        """POST with the token: {"action": .., "boards": [..]}."""
        assert self.control is not None
        refused = guard.refusal(request.method, request.headers, self.control.token)
        if refused is not None:
            return JSONResponse({"error": refused[1]}, refused[0])
        try:
            body = await _body(request)
            told = await self.control.ask(request.path_params["what"], body)
        except UsageError as error:
            return JSONResponse({"error": str(error)}, 400)
        except RigError as error:
            return JSONResponse({"error": str(error)}, 502)
        return JSONResponse(told)


MOST_BODY = 16384


async def _body(request: Request) -> dict[str, Any]:
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > MOST_BODY:
            raise UsageError(f"a request of more than {MOST_BODY} bytes")
    try:
        document = json.loads(data or b"{}")
    except ValueError:
        raise UsageError("the request is no JSON") from None
    if not isinstance(document, dict):
        raise UsageError("the request must be a JSON object")
    return document
