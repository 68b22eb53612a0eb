"""The real proxies start, carry a request to a TLS and to a plain upstream, and stop."""

import os
import socket
from contextlib import suppress

import aiohttp
import pytest
from aiohttp_socks import ProxyConnector

import real
from fakes import Upstream, reply

SECRET = ("me", "s3cret")
ANSWER = (200, b"hi")
PROGRAMS = [
    real.sing_box,
    real.tinyproxy,
    real.microsocks,
    real.squid,
    real.dante,
    real.shadowsocks,
    real.proxy_py,
]
SPEAKS_HTTP = [real.sing_box, real.tinyproxy]
SPEAKS_SOCKS = [real.sing_box, real.microsocks]


async def through_http(proxy, url, ca):
    """GET through an HTTP proxy's URL."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(url, proxy=proxy, ssl=ca.client) as response,
    ):
        return response.status, await response.read()


async def through_socks(proxy, url, ca):
    """GET through a SOCKS proxy's URL; the proxy resolves."""
    async with (
        aiohttp.ClientSession(connector=ProxyConnector.from_url(proxy)) as session,
        session.get(url, ssl=ca.client) as response,
    ):
        return response.status, await response.read()


@pytest.mark.parametrize("auth", [None, SECRET])
@pytest.mark.parametrize("program", SPEAKS_HTTP)
async def test_http(program, auth, ca, tmp_path):
    """HTTP with and without a password, to http and https; its log shows where it went."""
    async with (
        Upstream(reply(200, "hi"), ssl=ca.server) as tls,
        Upstream(reply(200, "hi")) as plain,
    ):
        with program(tmp_path, auth=auth) as proxy:
            assert await through_http(proxy.url(), tls.url, ca) == ANSWER
            assert await through_http(proxy.url(), plain.url, ca) == ANSWER
            assert f"127.0.0.1:{tls.port}" in proxy.log()
            if auth:
                bare = f"http://127.0.0.1:{proxy.port}"
                with pytest.raises(aiohttp.ClientHttpProxyError):
                    await through_http(bare, tls.url, ca)


@pytest.mark.parametrize("auth", [None, SECRET])
@pytest.mark.parametrize("program", SPEAKS_SOCKS)
async def test_socks(program, auth, ca, tmp_path):
    """SOCKS5 with and without a password, to http and https."""
    async with (
        Upstream(reply(200, "hi"), ssl=ca.server) as tls,
        Upstream(reply(200, "hi")) as plain,
    ):
        with program(tmp_path, auth=auth) as proxy:
            for upstream in (tls, plain):
                assert await through_socks(proxy.url("socks5"), upstream.url, ca) == ANSWER
            assert f"127.0.0.1:{tls.port}" in proxy.log()


@pytest.mark.parametrize("through", [through_http, through_socks])
async def test_sing_box_knows_names_of_its_own(through, ca, tmp_path):
    """A name that only the proxy can resolve works: nobody looked it up here."""
    async with Upstream(reply(200, "hi"), ssl=ca.server) as upstream:
        with real.sing_box(tmp_path, hosts={"upstream.test": "127.0.0.1"}) as proxy:
            url = f"https://upstream.test:{upstream.port}/"
            scheme = "http" if through is through_http else "socks5"
            assert await through(proxy.url(scheme), url, ca) == ANSWER


@pytest.mark.parametrize("program", PROGRAMS)
def test_it_is_stopped(program, tmp_path):
    """After `with` the process is gone and the port refuses."""
    with program(tmp_path) as proxy:
        os.kill(proxy.pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(proxy.pid, 0)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port)).close()


@pytest.mark.parametrize("program", [each for each in PROGRAMS if each is not real.shadowsocks])
def test_a_taken_port_is_not_mistaken_for_the_program(program, tmp_path, monkeypatch):
    """If the port was taken meanwhile, the next is tried."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = [taken.getsockname()[1], real.free_port()]
        monkeypatch.setattr(real, "free_port", lambda: ports.pop(0))
        with program(tmp_path) as proxy:
            assert proxy.port != taken.getsockname()[1]


@pytest.mark.parametrize("program", PROGRAMS)
def test_killed_with_its_children(program, tmp_path):
    """When `kill` returns, nothing of it listens any more."""
    with program(tmp_path) as proxy:
        proxy.kill()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", proxy.port)).close()


@pytest.mark.parametrize("program", [real.tinyproxy, real.microsocks])
def test_a_missing_program_skips_with_the_command_that_installs_it(program, tmp_path, monkeypatch):
    """The reason tells what to do."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(pytest.skip.Exception, match="apt-get install"), suppress(OSError):
        program(tmp_path)


def test_session_proxies(sing_box, tinyproxy, microsocks):
    """The fixtures run one of each for the whole run."""
    for proxy in (sing_box, tinyproxy, microsocks):
        socket.create_connection(("127.0.0.1", proxy.port)).close()
