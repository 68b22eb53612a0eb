"""A canary for every kind of secret, and of what people say, searched for in all output of a run.

Output: the log, what is written at the start and after a bad reload, /metrics, and what clients
get that did not bring it themselves.
"""

import json
import signal

from fakes import HttpProxy, Upstream, chat
from line import dial, exchange
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
