"""A worker's small HTTP server: `/metrics` for Prometheus, `/health` for whoever restarts or balances workers.

Does not know what is counted, nor what makes a worker ready: both come as functions. That it is not open to a network
without a token is the settings' rule (`streams.settings`).
"""

from __future__ import annotations

import hmac
from collections.abc import Callable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from mode import Service


class WebServer(Service):  # type: ignore[misc]  # mode is untyped to mypy here
    """Serves from its start to its stop. `ready` returns None, or what the worker still waits for.

    token: what each request has to bring as `Authorization: Bearer ...`; empty lets everyone in.
    """

    def __init__(
        self, host: str, port: int, metrics: Callable[[], bytes], ready: Callable[[], str | None], token: str = ""
    ) -> None:
        super().__init__()
        self._host, self._port = host, port
        self._token = token
        self._metrics, self._ready = metrics, ready
        self._runner: web.AppRunner | None = None

    @property
    def port(self) -> int:
        """The port it listens on, also where 0 asked for a free one."""
        if self._runner is None or not self._runner.addresses:
            return 0
        return int(self._runner.addresses[0][1])

    async def on_start(self) -> None:
        """Begin to listen."""
        app = web.Application(middlewares=[_bearers_of(self._token)] if self._token else [])
        app.add_routes([web.get("/metrics", self._get_metrics), web.get("/health", self._get_health)])
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()

    async def on_stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _get_metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=self._metrics(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _get_health(self, request: web.Request) -> web.Response:
        waiting = self._ready()
        return web.json_response({"ready": waiting is None, "waiting_for": waiting}, status=200 if waiting is None else 503)


def _bearers_of(token: str) -> Middleware:
    """Return a middleware that answers 401 to a request, for whatever page, that does not bring the token."""
    wanted = f"Bearer {token}".encode()

    @web.middleware
    async def admit(request: web.Request, handler: Handler) -> web.StreamResponse:
        brought = request.headers.get("Authorization", "").encode(errors="surrogateescape")
        if hmac.compare_digest(brought, wanted):  # as long for a near miss as for a wild guess
            return await handler(request)
        raise web.HTTPUnauthorized(headers={"WWW-Authenticate": "Bearer"}, text="bring HEADRACE_WEB_TOKEN as a bearer token\n")

    return admit
