"""A canary for every kind of secret, and of what people say, searched for in all output of a run.

Output: the log, what is written at the start and after a bad reload, /metrics, and what clients
get that did not bring it themselves; what the commands print; every repr.
`canaries` looks for the secrets of all other tests' relays in the same way.
"""

import gc
import json
import signal

import pytest

import canaries
from examining import examined
from fakes import HttpProxy, Upstream, chat
from line import dial, exchange
from relaying import relaying
from service.__main__ import main
from service.core.secret import Secret
from serving import gone, serving

KEYS = {
    "caller": "canary-caller-key",
    "wrong": "canary-wrong-key",
    "upstream": "canary-upstream-key",
    "header": "canary-upstream-header",
    "own": "canary-own-key",
    "user": "canary-proxy-user",
    "password": "canary-proxy-password",
    "store": "canary-store-password",
}
WORDS = {"prompt": "canary-prompt", "answer": "canary-answer", "query": "canary-query"}
JSON = ("Content-Type", "application/json")
PATH = "/v1/chat/completions"


def toml(upstream, proxy):
    """Return settings with every kind of secret."""
    way = f"http://{KEYS['user']}:{KEYS['password']}@127.0.0.1:{proxy.port}"
    return f"""
[server]
keys = ["alice:{KEYS["caller"]}"]
metrics_open = true
drain = 1
log = "debug"
[store]
url = "redis://:{KEYS["store"]}@127.0.0.1:9/0"
[[upstream]]
name = "up"
url = "{upstream.url}/v1"
key = "{KEYS["upstream"]}"
headers = {{ "X-Project" = "{KEYS["header"]}" }}
[[pool]]
name = "p"
proxies = ["{way}"]
"""


async def script(request, wire):
    """Repeat in an error all that was said, and stream the rest."""
    if "fail" in request.target:
        said = json.dumps({"error": {"message": f"{request.headers} {request.body}"}})
        return await wire.reply(401, said, content_type="application/json")
    await wire.head(content_type="text/event-stream")
    whole = not ("cut" in request.target or "open" in request.target)
    for data in chat([WORDS["answer"]], finish="stop" if whole else None, done=whole):
        await wire.chunk(data)
    if "cut" in request.target:
        return wire.close()
    if "open" in request.target:
        return await gone(wire)
    return await wire.end()


@pytest.mark.shows(KEYS["header"])  # the upstream repeats it, to the one who asked
async def test_no_secret_and_no_word_in_any_output(tmp_path):
    """In the log, in /metrics, in refusals, in an upstream's error that repeats its key."""
    auth = KEYS["user"], KEYS["password"]
    messages = [{"role": "user", "content": WORDS["prompt"]}]
    body = json.dumps({"model": "m", "stream": True, "messages": messages}).encode()
    key = ("Authorization", f"Bearer {KEYS['caller']}")
    own = ("x-api-key", KEYS["own"])
    down = []
    async with (
        Upstream(script) as upstream,
        HttpProxy(auth=auth) as proxy,
        serving(tmp_path, toml(upstream, proxy)) as relay,
    ):
        target = f"{PATH}?q={WORDS['query']}"
        for pairs, path in (
            ([key], target),
            ([key, own], f"{target}&cut"),
            ([key], f"{target}&fail"),
            ([("x-api-key", KEYS["wrong"])], target),
            ([key], f"/chat?question={WORDS['prompt']}&pace={WORDS['query']}"),
            ([key], "/chat"),
        ):
            answer = await exchange(relay.port, "POST", path, JSON, *pairs, body=body)
            down.append(str(answer))
        query = f"question={WORDS['prompt']}&pace={WORDS['query']}"
        await exchange(relay.port, "GET", f"/chat?{query}", key)
        async with dial(relay.port) as line:  # one that leaves
            await line.send("POST", f"{target}&open", JSON, key, body=body)
            await line.until(WORDS["answer"].encode())
        await exchange(relay.port, "GET", f"/x?{WORDS['query'] * 9000}", key)
        async with dial(relay.port) as line:
            await line.write(f"GET / HTTP/1.1\r\nHost : {KEYS['own']}\r\n\r\n".encode())
            await line._reader.read()
        down.append(str(await exchange(relay.port, "GET", "/metrics")))
        event = "the new settings are not used"
        await relay.reload(toml(upstream, proxy) + "bad = 1\n", event=event)
        wanted = {"ok", "cut", "refused", "left"}
        await relay.until(lambda: wanted <= {line.get("outcome") for line in relay.records()})
        relay.signal(signal.SIGTERM)
        await relay.code()
    assert [each for each in (KEYS | WORDS).values() if each in relay.text] == []
    text = "\n".join(down)
    told = [KEYS[name] for name in KEYS if name not in {"header", "own"}]
    assert [each for each in told if each in text] == []
    sent = str([(request.headers, request.target) for request in upstream.requests])
    assert KEYS["caller"] not in sent
    assert KEYS["own"] not in sent  # the upstream has a key of its own


# --- the same for what the settings only name: files, credentials, tickets

CREDENTIAL = "canary-credential-key"
TICKETED = "canary-caller-of-tickets"


def settings_of(folder, upstream, proxy, ca):
    """Return settings whose secrets are in files; write the files."""
    (folder / "credentials").mkdir()
    (folder / "credentials" / "PROVIDER").write_text(CREDENTIAL + "\n")
    both = ca.write_server(folder / "client.pem", "client.test")
    way = f"http://{KEYS['user']}:{KEYS['password']}@127.0.0.1:{proxy.port}"
    return f"""
[server]
keys = ["alice:{TICKETED}"]
[store]
retain = 1
[[upstream]]
name = "up"
url = "{upstream.url}/v1"
key = "${{PROVIDER}}"
headers = {{ "X-Project" = "{KEYS["header"]}" }}
ca_file = "{ca.file}"
client_cert = "{both}"
client_key = "{both}"
[[pool]]
name = "p"
proxies = ["{way}"]
"""


def reprs():
    """Return the repr and the str of every object of ours that is alive."""
    found = gc.get_objects()
    ours = [each for each in found if str(type(each).__module__).startswith("service.")]
    assert len(ours) > 50
    return "\n".join(f"{each!r} {each}" for each in ours)


@pytest.fixture
async def place(tmp_path, ca, monkeypatch):
    """Yield an upstream that asks for a certificate, the proxy before it, and their settings."""
    auth = KEYS["user"], KEYS["password"]
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    async with Upstream(script, ssl=ca.server) as upstream, HttpProxy(auth=auth) as proxy:
        yield upstream, proxy, settings_of(tmp_path, upstream, proxy, ca)


@pytest.mark.shows(KEYS["header"])  # the upstream repeats it
async def test_no_secret_in_files_and_no_ticket_in_any_output(place, tmp_path, capsys):
    """In the log, the status, /metrics, and no repr shows one."""
    upstream, _, toml = place
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")}
    key = {"Authorization": f"Bearer {TICKETED}"}
    async with relaying(toml=toml + "[chat]\nkeep = 1\n", environ=environ) as relay:
        async with relay.session.post(f"{relay.url}/tickets", headers=key) as response:
            ticket = (await response.json())["ticket"]
        canaries.add(ticket, WORDS["prompt"], WORDS["query"])
        question = {"question": WORDS["prompt"], "ticket": ticket}
        async with relay.get("/chat", **question) as response:
            assert WORDS["answer"] in await response.text()
        async with relay.get("/chat", **question) as response:  # it is used
            assert response.status == 401
        for path in ("/status.json", "/metrics", f"/v1/models?q={WORDS['query']}&fail"):
            async with relay.get(path, headers=key) as response:
                shown = await response.text()
                assert KEYS["header"] in shown or "fail" not in path
        told = reprs()
    assert upstream.requests[0].get("authorization") == f"Bearer {CREDENTIAL}"
    assert canaries.known > {CREDENTIAL, TICKETED, ticket, KEYS["user"], KEYS["password"]}
    assert any(len(each) == 64 for each in canaries.known)  # lines of the private key
    canaries.look("a repr", told)
    canaries.look("a repr", WORDS["answer"] if WORDS["answer"] in told else "")
    assert "request" in capsys.readouterr().out


async def test_no_command_prints_a_secret(place, tmp_path, capsys):
    """`check` prints the settings, `doctor` what it tried: both without them."""
    _, proxy, toml = place
    file = tmp_path / "teleprinter.toml"
    file.write_text(toml)
    assert main(["check", "--config", str(file)]) == 0
    printed = capsys.readouterr().out
    assert f"127.0.0.1:{proxy.port}" in printed
    found, text = await examined(tmp_path, toml.replace("${PROVIDER}", CREDENTIAL))
    assert found.ways
    canaries.look("the doctor", text)
    canaries.look("the doctor's findings", repr(found))


# --- whether anybody would notice


@pytest.mark.parametrize(
    ("where", "text", "seen"),
    [
        ("alone", "key canary-key-one.", True),
        ("in quotes", '{"key": "canary-key-one"}', True),
        ("as a part of another word", "canary-key-one-more", False),
        ("not at all", "key ***", False),
    ],
)
def test_a_secret_is_noticed(where, text, seen):
    """One that stands alone, wherever it stands."""
    Secret("canary-key-one")
    canaries.look(where, text)
    assert canaries.shown == ([f"{where} shows the secret 'canary-key-one'"] if seen else [])
    canaries.shown.clear()


def test_a_secret_in_two_writes_is_noticed():
    """At the seam, too."""

    class Sink:
        write = staticmethod(bytes)

    Secret("canary-key-one")
    line = canaries.Watched(Sink(), "a response")
    for piece in (b"a: canary-", b"key-", b"one\r\n"):
        line.write(piece)
    assert canaries.shown
    canaries.shown.clear()


async def test_what_a_relay_sends_is_looked_at():
    """Any byte of any response of a relay in this process."""
    Secret("canary-key-one")

    async def told(_request, wire):
        await wire.reply(200, "canary-key-one", content_type="text/plain")

    async with (
        Upstream(told) as upstream,
        relaying(upstream.url) as relay,
        relay.get("/v1/x") as response,
    ):
        assert await response.text() == "canary-key-one"
    assert canaries.shown == ["a response shows the secret 'canary-key-one'"]
    canaries.shown.clear()
