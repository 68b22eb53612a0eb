"""Which upstream answers a request, and which headers go either way."""

from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.core.routes import (
    CREDENTIALS,
    Place,
    choose,
    client_headers,
    credentials,
    place,
    ranked,
    upstream_headers,
)
from service.errors import Failure


def words(text):
    """Return the words of a text."""
    return text.split()


PREFIXES = ranked(["", "/tokyo", "/tokyo/east", "/to"])
NOT_UP = words("""
    Connection Keep-Alive Proxy-Authenticate Proxy-Authorization Proxy-Connection TE Trailer
    Transfer-Encoding Upgrade Host Content-Length Accept-Encoding Expect
    X-Forwarded-For X-Forwarded-Host X-Forwarded-Proto X-Forwarded-Anything X-Forwarded Forwarded
    X-Real-IP X-Client-IP True-Client-IP X-Original-Forwarded-For Client-IP
    CF-Connecting-IP CF-Ray Via Cookie Origin Referer Last-Event-ID
    Sec-Fetch-Site Sec-CH-UA Sec-WebSocket-Key
    Teleprinter-Key Teleprinter-Pace Teleprinter-Delay Teleprinter-Keep
""")
UP = words("""
    Authorization x-api-key Content-Type Accept User-Agent OpenAI-Organization OpenAI-Beta
    anthropic-version anthropic-beta Idempotency-Key X-Stainless-Lang traceparent X-Request-Id
    Secret Cf Forwarded-By
""")
NOT_DOWN = words("""
    Connection Keep-Alive Proxy-Authenticate Trailer Transfer-Encoding Upgrade
    Set-Cookie Strict-Transport-Security Alt-Svc
    Access-Control-Allow-Origin Access-Control-Expose-Headers Access-Control-Allow-Credentials
""")
DOWN = words("""
    Content-Type Cache-Control x-request-id openai-processing-ms Retry-After ETag Date Server
    x-ratelimit-remaining-requests Content-Disposition request-id
""")


class Upstream(NamedTuple):
    """What routing needs to know of an upstream."""

    name: str
    prefix: str = ""
    models: tuple[str, ...] = ("*",)


def other_cases(name):
    """Return the ways to write a header's name."""
    return [name, name.lower(), name.upper()]


class TestPlace:
    """A path, taken apart."""

    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("/chat", ("", "chat", "")),
            ("/v1/chat/completions", ("", "v1", "chat/completions")),
            ("/v1/models", ("", "v1", "models")),
            ("/v1/models/", ("", "v1", "models/")),
            ("/v1//models", ("", "v1", "/models")),
            ("/v1/v1/chat", ("", "v1", "v1/chat")),
            ("/v1/files/a%20b%3F", ("", "v1", "files/a%20b%3F")),
            ("/v1/models/org%2Fname", ("", "v1", "models/org%2Fname")),
            ("/v1/a...b/.hidden", ("", "v1", "a...b/.hidden")),
            ("/tokyo/chat", ("/tokyo", "chat", "")),
            ("/tokyo/v1/responses", ("/tokyo", "v1", "responses")),
            ("/tokyo/east/v1/responses", ("/tokyo/east", "v1", "responses")),
            ("/to/v1/responses", ("/to", "v1", "responses")),
        ],
    )
    def test_known(self, path, expected):
        """Prefix, door and the rest with its encoding kept; the longest prefix wins."""
        assert place(path, PREFIXES) == Place(*expected)

    @pytest.mark.parametrize("prefixes", [["/a", "/a/v1"], ["/a/v1", "/a"]])
    def test_the_longest_prefix(self, prefixes):
        """A prefix that another one begins with wins, in whatever order they are set."""
        assert place("/a/v1/v1/models", ranked(prefixes)) == Place("/a/v1", "v1", "models")
        assert place("/a/v1/models", ranked(prefixes)) == Place("/a", "v1", "models")

    def test_without_prefixes(self):
        """The paths without a prefix are always there."""
        assert place("/chat", ranked([])) == Place("", "chat", "")

    @pytest.mark.parametrize(
        "path",
        ["/", "/v1", "/v1/", "/v2/x", "/chat/", "/Chat", "/chatty", "/v1x/x", "*", "",
         "/kyoto/v1/x", "/tokyov1/x", "/tokyo", "/tokyo/", "/east/v1/x"],
    )  # fmt: skip
    def test_unknown(self, path):
        """What is no door says where the doors are."""
        with pytest.raises(Failure, match="page is at /, the event stream at /chat") as caught:
            place(path, PREFIXES)
        assert caught.value.code == "not_found"

    @pytest.mark.parametrize(
        ("path", "right"),
        [
            ("/chat/completions", "/v1/chat/completions"),
            ("/chat/completions/", "/v1/chat/completions/"),
            ("/responses", "/v1/responses"),
            ("/messages", "/v1/messages"),
            ("/models", "/v1/models"),
            ("/embeddings", "/v1/embeddings"),
            ("/audio/speech", "/v1/audio/speech"),
            ("/api/chat/completions", "/v1/chat/completions"),
            ("/tokyo/chat/completions", "/tokyo/v1/chat/completions"),
            ("/tokyo/east/models", "/tokyo/east/v1/models"),
        ],
    )
    def test_the_api_without_v1(self, path, right):
        """A path of the API that lacks its `/v1` is told where to go."""
        with pytest.raises(Failure, match=rf"nothing at {path}: .* ask for {right}$") as caught:
            place(path, PREFIXES)
        assert caught.value.code == "not_found"

    @pytest.mark.parametrize(
        "path",
        [
            "/v1/../admin",
            "/v1/..",
            "/v1/./models",
            "/../v1/models",
            "/v1/a/%2e%2e/b",
            "/v1/%2E%2e/admin",
            "/v1/.%2e/admin",
            "/v1/%2e/admin",
            "/v1/a%2f..%2fb",
            "/v1/a%2F%2e%2e",
            "/chat/..",
            "/tokyo/v1/../../kyoto",
        ],
    )
    def test_dot_segments(self, path):
        """A path that leads out of the upstream's base is refused, however it is written."""
        with pytest.raises(Failure, match="dot segment") as caught:
            place(path, PREFIXES)
        assert caught.value.code == "bad_request"

    @settings(deadline=None)
    @given(st.text(st.sampled_from("/.%25eEfF-v1chattokyo"), max_size=30))
    def test_any_path(self, path):
        """Any path is refused, or has a place, which put together is the path."""
        try:
            found = place(path, PREFIXES)
        except Failure:
            return
        rest = f"/{found.rest}" if found.door == "v1" else ""
        assert f"{found.prefix}/{found.door}{rest}" == path


class TestChoose:
    """The first upstream whose prefix and models fit."""

    UPSTREAMS = (
        Upstream("gpt", models=("gpt-*", "o?")),
        Upstream("any"),
        Upstream("tokyo", "/tokyo", ("gpt-4o",)),
    )

    @pytest.mark.parametrize(
        ("prefix", "model", "name"),
        [
            ("", "gpt-4o", "gpt"),
            ("", "o3", "gpt"),
            ("", "o33", "any"),
            ("", "GPT-4o", "any"),
            ("", "meta/llama-3.1:free", "any"),
            ("", None, "gpt"),
            ("/tokyo", "gpt-4o", "tokyo"),
            ("/tokyo", None, "tokyo"),
        ],
    )
    def test_fitting(self, prefix, model, name):
        """Models are globs and case-sensitive; without a model it is the prefix's first."""
        assert choose(self.UPSTREAMS, prefix, model).name == name

    def test_no_model_fits(self):
        """The message tells which models there are."""
        with pytest.raises(Failure, match=r"the model 'llama': there is gpt-4o$") as caught:
            choose(self.UPSTREAMS, "/tokyo", "llama")
        assert caught.value.code == "not_found"

    @pytest.mark.parametrize(("prefix", "told"), [("/kyoto", "/kyoto"), ("", "/")])
    def test_no_prefix_fits(self, prefix, told):
        """The message tells the prefix."""
        with pytest.raises(Failure, match=rf"prefix {told}$") as caught:
            choose(self.UPSTREAMS[2:], prefix, "gpt-4o")
        assert caught.value.code == "not_found"


class TestUpstreamHeaders:
    """Upstream goes nothing of the relay's own and nothing that tells who the client is."""

    @pytest.mark.parametrize("name", [case for name in NOT_UP for case in other_cases(name)])
    def test_stays_here(self, name):
        """Names are compared without their case."""
        assert upstream_headers([(name, "x")]) == []

    @pytest.mark.parametrize("name", UP)
    def test_goes_up(self, name):
        """Anything else goes up as it came."""
        assert upstream_headers([(name, "x")]) == [(name, "x")]

    def test_order_and_repeats_are_kept(self):
        """A header that comes twice goes twice, also from an iterator."""
        headers = [("B", "1"), ("a", "2"), ("B", "3")]
        assert upstream_headers(iter(headers)) == headers

    def test_what_connection_names(self):
        """`Connection` names headers of this hop, in any case, in lists and more than once."""
        headers = [
            ("X-Hop", "1"),
            ("connection", "close, x-hop"),
            ("CONNECTION", "X-B"),
            ("x-b", ""),
        ]
        assert upstream_headers([*headers, ("X-C", "1")]) == [("X-C", "1")]

    def test_without(self):
        """What the caller names stays too, such as the header that carried the relay's key."""
        headers = [("Authorization", "Bearer k"), ("X-A", "1")]
        assert upstream_headers(headers, ["AUTHORIZATION"]) == [("X-A", "1")]


class TestCredentials:
    """How an upstream is shown its key."""

    @pytest.mark.parametrize(
        ("api", "expected"),
        [
            ("openai", {"Authorization": "Bearer k"}),
            ("azure", {"api-key": "k"}),
            ("anthropic", {"x-api-key": "k", "Authorization": "Bearer k"}),
        ],
    )
    def test_apis(self, api, expected):
        """Each API has its headers, and all of them are known as such."""
        sent = credentials(api, "k")
        assert sorted(sent) == sorted(expected.items())
        assert {name.lower() for name, _ in sent} <= CREDENTIALS


class TestClientHeaders:
    """Downstream goes nothing that is the upstream's word about its own site or connection."""

    @pytest.mark.parametrize("name", [case for name in NOT_DOWN for case in other_cases(name)])
    def test_stays_here(self, name):
        """Names are compared without their case."""
        assert client_headers([(name, "x")]) == []

    @pytest.mark.parametrize("name", DOWN)
    def test_goes_down(self, name):
        """Anything else goes down as it came."""
        assert client_headers([(name, "x")]) == [(name, "x")]

    def test_what_connection_names(self):
        """`Connection` names headers of that hop, in this direction too."""
        headers = [("X-Hop", "1"), ("Connection", "X-Hop"), ("X-C", "1")]
        assert client_headers(iter(headers)) == [("X-C", "1")]


@pytest.mark.parametrize("pass_on", [upstream_headers, client_headers])
class TestCodings:
    """Content-Encoding goes with the body that it describes."""

    @pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "GZIP"])
    def test_decoded(self, pass_on, coding):
        """A body that was decoded on the way in is not said to be coded."""
        assert pass_on([("Content-Encoding", coding)]) == []

    @pytest.mark.parametrize("coding", ["identity", "aws-chunked", "gzip, br"])
    def test_not_decoded(self, pass_on, coding):
        """A coding that the relay does not know goes on with its body."""
        assert pass_on([("Content-Encoding", coding)]) == [("Content-Encoding", coding)]
