"""A worker's HTTP server: what it answers to whom, and which settings may open it to a network."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import aiohttp
import pytest

from streams.settings import PREFIX, SettingsError, load
from streams.web import WebServer

TOKEN = "canary-token-0123456789"
PATHS = ("/metrics", "/health", "/none")


@asynccontextmanager
async def served(token: str, ready: str | None = None) -> AsyncIterator[str]:
    """Run a server for the block, and yield its address."""
    server = WebServer("127.0.0.1", 0, lambda: b"n 1.0\n", lambda: ready, token)
    await server.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        await server.stop()


async def statuses(address: str, headers: Mapping[str, str]) -> list[int]:
    """Return the status that each path is answered with."""
    async with aiohttp.ClientSession(headers=headers) as session:
        found = []
        for path in PATHS:
            async with session.get(address + path) as answer:
                assert TOKEN not in await answer.text()
                found.append(answer.status)
        return found


async def test_without_a_token_everyone_on_this_machine_may_ask() -> None:
    """No token set: metrics and health are there, and what is sent as one is not looked at."""
    async with served("") as address:
        assert await statuses(address, {}) == [200, 200, 404]
        assert await statuses(address, {"Authorization": f"Bearer {TOKEN}"}) == [200, 200, 404]


async def test_the_token_lets_in() -> None:
    """Who brings the token gets what there is, also that the worker is not ready."""
    async with served(TOKEN) as address:
        assert await statuses(address, {"Authorization": f"Bearer {TOKEN}"}) == [200, 200, 404]
    async with served(TOKEN, ready="items") as address:
        assert await statuses(address, {"Authorization": f"Bearer {TOKEN}"}) == [200, 503, 404]


@pytest.mark.parametrize(
    "brought",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN.upper()}"},
        {"Authorization": "Bearer ünïcödé"},
        {"Authorization": TOKEN},
        {"Authorization": f"Basic {TOKEN}"},
        {"X-Token": TOKEN},
    ],
)
async def test_nobody_else_gets_anything(brought: dict[str, str]) -> None:
    """Without the very token each path, one that does not exist too, is answered 401 and what to bring."""
    async with served(TOKEN) as address:
        assert await statuses(address, brought) == [401, 401, 401]
        async with aiohttp.ClientSession() as session, session.get(f"{address}/metrics", headers=brought) as answer:
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert await answer.text() == "bring HEADRACE_WEB_TOKEN as a bearer token\n"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "worker-1", "127.0.0.1.example.org"])
def test_a_network_needs_a_token(host: str) -> None:
    """An address that others can reach is refused without a token, with the two ways on; where nothing is served it is not."""
    with pytest.raises(SettingsError) as caught:
        load(web_host=host, web_port=9100)
    assert str(caught.value) == (
        f"HEADRACE_WEB_HOST is {host}, which others can reach: set HEADRACE_WEB_TOKEN to what they must send, "
        "as `openssl rand -hex 32` makes it, or HEADRACE_WEB_HOST=127.0.0.1"
    )
    assert load(web_host=host, web_port=9100, web_token=TOKEN).web_host == host
    assert load(web_host=host).web_port == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "localhost"])
def test_this_machine_needs_none(host: str) -> None:
    """An address that only this machine reaches needs no token, and the default is one."""
    assert load(web_host=host, web_port=9100).web_host == host
    assert load().web_host == "127.0.0.1"


@pytest.mark.parametrize(
    "token", ["short", "x" * 15, "a token with blanks in it", "tökentökentökentöken", "line\nline\nline\nline", 7]
)
def test_a_token_must_be_hard_to_guess_and_fit_a_header(token: object) -> None:
    """A token that is short, or that a header cannot carry, is refused without being shown."""
    with pytest.raises(SettingsError) as caught:
        load(web_token=token)
    assert str(caught.value).startswith("HEADRACE_WEB_TOKEN is the value given: ")
    assert str(token) not in str(caught.value)


def test_a_worker_that_would_be_open_to_all_does_not_start() -> None:
    """`headrace worker` on a network without a token is one line and exit code 2, before it looks for a broker."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    done = subprocess.run(
        [sys.executable, "-m", "streams", "worker"],
        env={**own, "HEADRACE_WEB_HOST": "0.0.0.0", "HEADRACE_WEB_PORT": "9100"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("headrace: HEADRACE_WEB_HOST is 0.0.0.0, which others can reach: set HEADRACE_WEB_TOKEN")
    assert done.stderr.count("\n") == 1
