"""No web page can spend the key through 127.0.0.1, and nobody without a key where keys are set.

Host     the names by which the relay may be asked for: no DNS rebinding
Origin   the pages that may ask: its own, and those of the settings
Keys     who asks, by which header; that header ends here
"""

import hmac

import pytest

from fakes import Upstream, chat, reply, sse
from line import dial, exchange
from relaying import relaying

PATHS = ["/", "/healthz", "/chat?question=Hi", "/v1/models", "/pages/typewriter.js", "/nowhere"]
ANN, BOB = "key-of-ann", "key-of-bob"
KEYS = {"keys": f"ann:{ANN},bob:{BOB}"}
EVIL = "https://evil.test"
GOOD = "https://app.example.com"


async def ask(*pairs, path="/v1/models", method="GET", toml="", **settings):
    """Send one request; return the answer and what reached the upstream."""
    async with (
        Upstream(sse(*chat(["Hi"]))) as upstream,
        relaying(upstream.url, toml=toml, **settings) as relay,
    ):
        at = [(name, value.replace("PORT", str(relay.port))) for name, value in pairs]
        answer = await exchange(relay.port, method, path, *at)
    return answer, upstream.requests


def refused(asked, status, code):
    """Assert that this was refused with that status and code, and that nothing went upstream."""
    answer, requests = asked
    assert (answer.status, answer.error["code"]) == (status, code)
    assert answer.error["stage"] == "request"
    assert requests == []
    return answer.error["message"]


# --- Host


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:PORT",
        "127.0.0.1",
        "localhost:PORT",
        "LocalHost:1",
        "[::1]:PORT",
        "[0:0:0:0:0:0:0:1]",
    ],
)
@pytest.mark.parametrize("listening", ["127.0.0.1", "::1", "localhost"])
async def test_the_names_of_a_relay_on_loopback(host, listening):
    """Every name of this machine's loopback is the relay's, with any port: it may be mapped."""
    answer, requests = await ask(("Host", host), host=listening)
    assert answer.status == 200
    assert len(requests) == 1


@pytest.mark.parametrize("path", PATHS)
async def test_a_foreign_name_is_refused_everywhere(path):
    """A page that had its own name resolve to 127.0.0.1 gets 421, on every path."""
    message = refused(await ask(("Host", "evil.test:PORT"), path=path), 421, "wrong_host")
    assert "server.hosts" in message
    assert "evil.test" in message


@pytest.mark.parametrize(
    "host",
    [
        "",
        "127.0.0.1.evil.test",
        "evil.127.0.0.1",
        "localhost.evil.test",
        "127.0.0.2",
        "192.168.1.7:PORT",
        "[::2]:PORT",
        "::1",
        "[::1",
        "0.0.0.0",
        "2130706433",
        "127.1",
        "relay.lan",
    ],
)
async def test_what_is_nearly_its_name_is_not(host):
    """Neither a part of a name nor another spelling of an address will do."""
    refused(await ask(("Host", host)), 421, "wrong_host")


async def test_a_request_without_a_host_is_refused():
    """HTTP/1.0 may leave it out; the relay then does not know who it was meant to be."""
    async with relaying("http://127.0.0.1:9") as relay, dial(relay.port) as line:
        await line.write(b"GET /v1/models HTTP/1.0\r\n\r\n")
        assert (await line.answer()).status == 421


@pytest.mark.parametrize("host", ["relay.lan", "RELAY.lan:8443", "[fd00::7]", "[FD00:0::7]:1"])
async def test_server_hosts_are_its_names_too(host):
    """Names and addresses of the settings, in any case, with and without a port."""
    toml = '[server]\nhosts = ["Relay.LAN", "[fd00:0:0::7]"]'
    answer, _ = await ask(("Host", host), toml=toml)
    assert answer.status == 200
    refused(await ask(("Host", "other.lan"), toml=toml), 421, "wrong_host")


@pytest.mark.parametrize("wildcard", ["0.0.0.0", "::"])
async def test_a_relay_on_all_addresses_knows_addresses_but_no_names(wildcard):
    """No DNS name is taken on trust: an address cannot be rebound."""
    for host in ("192.168.1.7:PORT", "[fd00::7]", "localhost"):
        answer, _ = await ask(("Host", host), host=wildcard, open="1")
        assert answer.status == 200
    refused(await ask(("Host", "evil.test"), host=wildcard, open="1"), 421, "wrong_host")


# --- Origin, Sec-Fetch-Site


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
async def test_another_sites_page_is_refused(path, method):
    """An Origin that is not allowed gets 403, on every path, by any method."""
    message = refused(await ask(("Origin", EVIL), path=path, method=method), 403, "forbidden")
    assert "server.origins" in message


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "http://127.0.0.1",
        "http://127.0.0.1:1",
        "http://localhost:PORT",
        "http://127.0.0.1:PORT.evil.test",
        "http://evil.test/127.0.0.1:PORT",
        "file://127.0.0.1:PORT",
        "chrome-extension://abc",
        "127.0.0.1:PORT",
    ],
)
async def test_what_is_nearly_its_origin_is_not(origin):
    """Another port, another name for the same machine, a file: all are other sites."""
    refused(await ask(("Origin", origin)), 403, "forbidden")


@pytest.mark.parametrize("site", ["cross-site", "same-site", "anything"])
@pytest.mark.parametrize("path", [path for path in PATHS if path != "/"])
async def test_a_request_that_another_site_caused_is_refused(path, site):
    """An image, a script or a link of another page sends no Origin: Fetch Metadata tells."""
    for mode in ("no-cors", "cors"):
        pairs = ("Sec-Fetch-Site", site), ("Sec-Fetch-Mode", mode)
        refused(await ask(*pairs, path=path), 403, "forbidden")


@pytest.mark.parametrize("path", ["/chat?question=Hi", "/v1/models"])
async def test_a_link_of_another_site_asks_no_question(path):
    """To follow a link, or to open a window, must not spend the key either."""
    pairs = ("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate")
    refused(await ask(*pairs, path=path), 403, "forbidden")


async def test_a_link_of_another_site_may_lead_to_the_page():
    """The page itself may be linked to: it asks nothing by itself."""
    pairs = ("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate")
    answer, _ = await ask(*pairs, path="/")
    assert answer.status == 200


@pytest.mark.parametrize("path", ["/", "/chat?question=Hi", "/v1/models"])
@pytest.mark.parametrize(
    "pairs",
    [
        [("Origin", "http://127.0.0.1:PORT"), ("Sec-Fetch-Site", "same-origin")],
        [("Origin", "https://relay.lan"), ("Host", "relay.lan")],
        [("Origin", "http://localhost"), ("Host", "localhost:80")],
        [("Origin", "http://[::1]:PORT"), ("Host", "[::1]:PORT")],
        [("Sec-Fetch-Site", "same-origin")],
        [("Sec-Fetch-Site", "none"), ("Sec-Fetch-Mode", "navigate")],
        [],
    ],
)
async def test_its_own_page_and_programs_are_let_in(path, pairs):
    """The page's requests, an address typed by hand, and programs, which send neither header."""
    answer, _ = await ask(*pairs, path=path, toml='[server]\nhosts = ["relay.lan"]')
    assert answer.status == 200
    assert "access-control-allow-origin" not in answer.names()


ORIGINS = f'[server]\norigins = ["{GOOD}", "http://LocalHost:3000/"]\n'


@pytest.mark.parametrize("origin", [GOOD, "http://localhost:3000"])
@pytest.mark.parametrize("path", ["/chat?question=Hi", "/v1/models", "/nowhere"])
async def test_a_page_of_server_origins_may_ask_and_read(origin, path):
    """Its origin is named in the answer, errors too, so that the browser hands it over."""
    pairs = ("Origin", origin), ("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "cors")
    answer, _ = await ask(*pairs, path=path, toml=ORIGINS)
    assert answer.status == (404 if path == "/nowhere" else 200)
    assert answer.get_all("access-control-allow-origin") == [origin]
    assert "Origin" in answer.get_all("vary")
    assert "access-control-allow-credentials" not in answer.names()
    refused(await ask(("Origin", EVIL), path=path, toml=ORIGINS), 403, "forbidden")


async def test_a_preflight_needs_no_key():
    """A browser asks without a key whether it may send one; only for an allowed origin."""
    pairs = [
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "authorization, content-type"),
    ]
    asked = {"path": "/v1/chat/completions", "method": "OPTIONS", "toml": ORIGINS, **KEYS}
    answer, requests = await ask(("Origin", GOOD), *pairs, **asked)
    assert (answer.status, requests) == (204, [])
    assert answer.get("access-control-allow-origin") == GOOD
    assert answer.get("access-control-allow-methods") == "POST"
    assert answer.get("access-control-allow-headers") == "authorization, content-type"
    refused(await ask(("Origin", EVIL), *pairs, **asked), 403, "forbidden")


# --- keys

BEARER = ("Authorization", f"Bearer {ANN}")


@pytest.mark.parametrize("path", ["/chat?question=Hi", "/v1/models"])
@pytest.mark.parametrize(
    "pair",
    [
        BEARER,
        ("authorization", f"bearer {BOB}"),
        ("x-api-key", BOB),
        ("X-API-Key", ANN),
        ("Teleprinter-Key", ANN),
    ],
)
async def test_a_key_opens(pair, path):
    """Each key, in each of the three headers; that header does not go upstream."""
    answer, [request] = await ask(pair, path=path, **KEYS)
    assert answer.status == 200
    assert not request.names() & {"authorization", "x-api-key", "teleprinter-key"}
    assert pair[1] not in request.head.decode()


@pytest.mark.parametrize(
    "path", [path for path in PATHS if path not in {"/", "/healthz", "/pages/typewriter.js"}]
)
@pytest.mark.parametrize(
    "pairs",
    [
        [],
        [("Authorization", "Bearer wrong")],
        [("Authorization", f"Basic {ANN}")],
        [("Authorization", ANN)],
        [("x-api-key", "wrong")],
        [("x-api-key", "ann")],
        [("x-api-key", f"ann:{ANN}")],
        [("Teleprinter-Key", "wrong"), BEARER],
        [("Authorization", "Bearer \xff\xfe")],
        [("Cookie", f"key={ANN}")],
    ],
)
async def test_without_a_key_nothing_else_opens(pairs, path):
    """No key or a wrong one: 401 that says where the key belongs, and shows none."""
    message = refused(await ask(*pairs, path=path, **KEYS), 401, "unauthorized")
    for word in ("Authorization: Bearer", "x-api-key", "Teleprinter-Key"):
        assert word in message
    assert ANN not in message
    assert "wrong" not in message


@pytest.mark.parametrize(
    ("path", "status"), [("/", 200), ("/healthz", 200), ("/readyz", 200), ("/favicon.ico", 204)]
)
async def test_what_is_open_without_a_key(path, status):
    """The page, its icon and the health checks."""
    answer, _ = await ask(path=path, **KEYS)
    assert answer.status == status


@pytest.mark.parametrize(
    "path",
    [
        "/healthz/../v1/models",
        "/pages/../v1/models",
        "/pages/%2e%2e/v1/models",
        "/pages/..%2fv1%2fmodels",
        "//v1/models",
        "/./chat?question=Hi",
        "/?/v1/models",
        "/pages/v1/models",
        "/healthz/v1/models",
        "/V1/models",
    ],
)
async def test_no_detour_leads_past_the_key(path):
    """Whatever the path pretends to be, nothing goes upstream without a key."""
    answer, requests = await ask(path=path, **KEYS)
    assert requests == []
    assert answer.status in ({200} if path.startswith("/?") else {400, 401, 404})


async def test_open_paths_are_open_to_get_only():
    """POST to an open path is no open path."""
    for path in ("/", "/healthz", "/readyz"):
        answer, requests = await ask(path=path, method="POST", **KEYS)
        assert answer.status in {401, 404, 405}
        assert requests == []


async def test_with_teleprinter_key_the_sdks_own_key_goes_upstream():
    """The relay's key in Teleprinter-Key, the upstream's in Authorization and x-api-key."""
    own = [("Authorization", "Bearer sk-own"), ("x-api-key", "sk-own-too")]
    answer, [request] = await ask(("Teleprinter-Key", ANN), *own, **KEYS)
    assert answer.status == 200
    assert [pair for pair in request.headers if pair in own] == own
    assert "teleprinter-key" not in request.names()


async def test_a_key_shown_twice_goes_upstream_in_neither_header():
    """SDKs that fill two headers with their one key do not give the relay's key away."""
    pairs = [BEARER, ("x-api-key", ANN)]
    answer, [request] = await ask(*pairs, **KEYS)
    assert answer.status == 200
    assert ANN not in request.head.decode()
    answer, [request] = await ask(("Teleprinter-Key", BOB), *pairs, **KEYS)
    assert answer.status == 200
    assert ANN not in request.head.decode()


async def test_the_relays_key_is_not_the_upstreams():
    """Where the upstream has a key, it goes instead of the client's."""
    answer, [request] = await ask(BEARER, upstream_key="sk-up", **KEYS)
    assert answer.status == 200
    assert request.get_all("authorization") == ["Bearer sk-up"]
    assert ANN not in request.head.decode()


async def test_without_keys_no_header_is_taken_for_one():
    """An open relay hands on Authorization, and knows no caller."""
    answer, [request] = await ask(("Authorization", "Bearer sk-own"))
    assert answer.status == 200
    assert request.get("authorization") == "Bearer sk-own"


async def test_keys_are_compared_in_constant_time(monkeypatch):
    """Right or wrong, the first or the last: every key is compared, by compare_digest."""
    compared = []

    def compare(one, other):
        compared.append((one, other))
        return hmac.compare_digest(one, other)

    monkeypatch.setattr("service.core.access.hmac", type("Module", (), {"compare_digest": compare}))
    counts = {}
    async with Upstream(reply(200)) as upstream, relaying(upstream.url, **KEYS) as relay:
        for key in (ANN, BOB, "wrong", "key-of-bo", "key-of-bob2"):
            compared.clear()
            answer = await exchange(relay.port, "GET", "/nowhere", ("x-api-key", key))
            assert answer.status == (404 if key in {ANN, BOB} else 401)
            counts[key] = len(compared)
            lengths = {len(side) for pair in compared for side in pair}
            assert len(lengths) == 1  # the length of a key does not show either
    assert set(counts.values()) == {2}
