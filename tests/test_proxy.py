"""What is read as a proxy, what is shown of it, and what the environment says."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.core.proxy import DIRECT, Proxy, chain, from_environment, parse
from service.core.secret import Secret

CANARY = "hunter2-canary"
HTTPS = "https://api.example.com/v1"
HTTP = "http://api.example.com/v1"


def shape(proxy):
    """Return all that a proxy is made of, its password revealed."""
    return proxy.scheme, proxy.host, proxy.port, proxy.username, proxy.password.reveal()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://127.0.0.1:7890", ("http", "127.0.0.1", 7890, "", "")),
        ("http://127.0.0.1:7890/", ("http", "127.0.0.1", 7890, "", "")),
        ("HTTP://Proxy.Example:3128", ("http", "proxy.example", 3128, "", "")),
        ("https://proxy.example", ("https", "proxy.example", 443, "", "")),
        ("http://proxy.example", ("http", "proxy.example", 80, "", "")),
        ("socks4://10.0.0.1", ("socks4", "10.0.0.1", 1080, "", "")),
        ("socks4a://me@proxy", ("socks4a", "proxy", 1080, "me", "")),
        ("socks5://[::1]:1080", ("socks5", "::1", 1080, "", "")),
        ("socks5h://[2001:DB8:0::1]", ("socks5h", "2001:db8::1", 1080, "", "")),
        ("socks5h://user:pass@host:1081", ("socks5h", "host", 1081, "user", "pass")),
        ("socks5://user@host", ("socks5", "host", 1080, "user", "")),
        ("http://user:@host", ("http", "host", 80, "user", "")),
        ("http://:token@host", ("http", "host", 80, "", "token")),
        ("http://u%40x:p%3A%2F%40%25@host:1", ("http", "host", 1, "u@x", "p:/@%")),
        ("http://u:p@ss:w@host:1", ("http", "host", 1, "u", "p@ss:w")),
        ("socks5h://u:%E5%AF%86@host", ("socks5h", "host", 1080, "u", "密")),
        ("socks5://under_score.local:9", ("socks5", "under_score.local", 9, "", "")),
        ("direct", ("direct", "", 0, "", "")),
    ],
)
def test_reads(text, expected):
    """A proxy's text becomes scheme, host, port and credentials, with the customary defaults."""
    assert shape(parse(text)) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("127.0.0.1:7890", "http://127.0.0.1:7890 or socks5h://127.0.0.1:7890"),
        ("[::1]:7890", "http://[::1]:7890"),
        ("proxy.example", "SCHEME://"),
        ("", "SCHEME://"),
        ("Direct", "or direct"),
        ("ftp://host", "one of http, https, socks4, socks4a, socks5, socks5h"),
        ("socks://host", "socks5h"),
        ("http://", "HOST"),
        ("http://host/path", "no path"),
        ("http://host?query", "no path"),
        ("http://host#fragment", "no path"),
        ("http://host:0", "port from 1 to 65535"),
        ("http://host:65536", "port from 1 to 65535"),
        ("http://host:x", "HOST[:PORT]"),
        ("http://ho st", "HOST[:PORT]"),
        ("http://::1:80", "HOST[:PORT]"),
        ("http://[::g]:80", "HOST[:PORT]"),
        ("http://[::1::]:80", "IP address"),
        ("http://127.0.0.256:80", "IP address"),
        ("http://host:80\n", "HOST[:PORT]"),
        ("http://a:80,http://b:80", "HOST[:PORT]"),
    ],
)
def test_refuses(text, says):
    """What is no proxy is refused with what was expected."""
    with pytest.raises(ValueError, match=re.escape(says)):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        f"me:{CANARY}@127.0.0.1:7890",
        f"127.0.0.1:7890:me:{CANARY}",
        f"http://127.0.0.1:7890:me:{CANARY}",
        f"http:/me:{CANARY}@127.0.0.1:7890",
        f"sokcs5://me:{CANARY}@127.0.0.1:7890",
        f"http://me:{CANARY}/@127.0.0.1:7890",
        f"http://me:{CANARY}@127.0.0.1:99999",
        f"http://me:{CANARY}@127.0.0.1/x",
        f"http://me:{CANARY}@1.2.3.4.5",
        f"socks4://me:{CANARY}@127.0.0.1",
        f"socks5://:{CANARY}@127.0.0.1",
        f"socks5://me:{CANARY}%FF@127.0.0.1",
        f"socks5h://me:{CANARY}%00@127.0.0.1",
        f"socks5h://me:{CANARY * 30}@127.0.0.1",
        f"http://m%3Ae:{CANARY}@127.0.0.1",
        f"{CANARY}",
    ],
)
def test_refusals_hide_passwords(text):
    """No refusal repeats what could be a password, also not in the chain of its causes."""
    with pytest.raises(ValueError, match=r"expected|cannot|knows|takes") as caught:
        parse(text)
    assert CANARY not in repr(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@settings(deadline=None)
@given(st.text() | st.from_regex(r"(http|socks5h)://.{0,20}@?.{0,20}", fullmatch=True))
def test_any_text_is_read_or_refused(text):
    """Any text gives a Proxy or a ValueError."""
    try:
        read = parse(text)
    except ValueError as error:
        read = error
    assert type(read) in {Proxy, ValueError}  # no kin of it, such as UnicodeError: they quote


PRINTABLE = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60)


@settings(deadline=None)
@given(PRINTABLE.filter(bool), PRINTABLE)
def test_url_and_back(username, password):
    """The URL with its credentials encoded is read back as the same proxy."""
    proxy = Proxy("socks5h", "::1", 1080, username, Secret(password))
    assert parse(proxy.url) == proxy


def test_shown_without_credentials():
    """Text, repr and address never carry a credential; the URL does, percent-encoded."""
    proxy = parse(f"socks5h://me%40home:{CANARY}%2F@[::1]:1080")
    assert str(proxy) == f"{proxy}" == "socks5h://[::1]:1080"
    assert repr(proxy) == "Proxy(socks5h://[::1]:1080)"
    assert proxy.address == "[::1]:1080"
    assert proxy.url == f"socks5h://me%40home:{CANARY}%2F@[::1]:1080"
    assert parse("http://127.0.0.1:7890").address == "127.0.0.1:7890"


def test_direct():
    """`direct` is the one way without a proxy, and looks like it."""
    assert parse("direct") == DIRECT
    assert (str(DIRECT), DIRECT.url, DIRECT.address) == ("direct",) * 3


def test_equal_and_hashable():
    """Proxies are equal by all their parts, the password included."""
    one, same, other = (parse(f"http://u:{p}@h:1") for p in ("a", "a", "b"))
    assert len({one, same, other}) == 2


@pytest.mark.parametrize(
    ("scheme", "remote"),
    [
        ("http", True),
        ("https", True),
        ("socks4", False),
        ("socks4a", True),
        ("socks5", False),
        ("socks5h", True),
    ],
)
def test_remote_dns(scheme, remote):
    """The proxy resolves the upstream's name for http, https, socks4a and socks5h."""
    assert parse(f"{scheme}://h").remote_dns is remote


def test_secret_is_never_printed():
    """A secret prints as ***, is empty or not, compares and hashes by its text."""
    secret = Secret(CANARY)
    shown = [str(secret), repr(secret), f"{secret}", f"{secret:>9}", f"{secret!r}", str([secret])]
    assert CANARY not in "".join(shown)
    assert shown[0] == "***"
    assert secret.reveal() == CANARY
    assert (bool(secret), bool(Secret())) == (True, False)
    assert len({secret, Secret(CANARY), Secret("x")}) == 2
    assert secret != CANARY


@pytest.mark.parametrize(
    ("url", "environ", "expected"),
    [
        (HTTPS, {}, "direct"),
        (HTTPS, {"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        (HTTPS, {"https_proxy": "http://q:2", "HTTPS_PROXY": "http://p:1"}, "http://q:2"),
        (HTTPS, {"HTTPS_PROXY": "p:1"}, "http://p:1"),
        (HTTPS, {"HTTPS_PROXY": "p"}, "http://p:80"),
        (HTTPS, {"HTTPS_PROXY": " http://p:1 "}, "http://p:1"),
        (HTTPS, {"HTTPS_PROXY": "", "ALL_PROXY": "socks5h://a:3"}, "socks5h://a:3"),
        (HTTPS, {"ALL_PROXY": "socks5://a:3"}, "socks5://a:3"),
        (HTTPS, {"all_proxy": "http://b:4", "ALL_PROXY": "http://a:3"}, "http://b:4"),
        (HTTPS, {"HTTPS_PROXY": "http://p:1", "all_proxy": "http://b:4"}, "http://p:1"),
        (HTTPS, {"http_proxy": "http://p:1"}, "direct"),
        (HTTP, {"http_proxy": "http://p:1"}, "http://p:1"),
        (HTTP, {"HTTP_PROXY": "http://p:1"}, "direct"),
        (HTTP, {"HTTPS_PROXY": "http://p:1", "ALL_PROXY": "http://a:3"}, "http://a:3"),
    ],
)
def test_environment(url, environ, expected):
    """As in curl: the scheme's own variable, lower case first, then all_proxy; no HTTP_PROXY."""
    assert str(from_environment(url, environ)) == expected


@pytest.mark.parametrize(
    ("url", "no_proxy", "excepted"),
    [
        (HTTPS, "*", True),
        (HTTPS, "api.example.com", True),
        (HTTPS, "API.Example.COM", True),
        (HTTPS, "example.com", True),
        (HTTPS, ".example.com", True),
        (HTTPS, "*.example.com", True),
        (HTTPS, "other.org , example.com", True),
        (HTTPS, "other.org example.com", True),
        (HTTPS, "ample.com", False),
        (HTTPS, "example.com.org", False),
        (HTTPS, "www.api.example.com", False),
        (HTTPS, ".", False),
        (HTTPS, ",, ,", False),
        (HTTPS, "api.example.com:443", True),
        (HTTPS, "api.example.com:8443", False),
        ("https://api.example.com:8443", "example.com:8443", True),
        (HTTP, "api.example.com:80", True),
        ("https://api.example.com.", "example.com", True),
        ("http://127.0.0.1:9", "127.0.0.1", True),
        ("http://127.0.0.1:9", "127.0.0.1:9", True),
        ("http://127.0.0.1:9", "127.0.0.1:10", False),
        ("http://127.0.0.1", "127.0.0.0/8", True),
        ("http://10.1.2.3", "127.0.0.0/8", False),
        ("http://10.1.2.3", "10.1.2.0/99", False),
        ("http://127.0.0.1", "1", False),
        ("http://127.0.0.1", "0.1", False),
        ("http://[::1]:9", "::1", True),
        ("http://[::1]:9", "[::1]", True),
        ("http://[::1]:9", "[::1]:9", True),
        ("http://[fd00::7]", "fd00::/8", True),
        ("http://[fd00::7]", "10.0.0.0/8", False),
        ("http://localhost", "localhost", True),
        (HTTPS, "10.0.0.0/8", False),
    ],
)
@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_no_proxy(url, no_proxy, excepted, name):
    """NO_PROXY: *, names with their subdomains, addresses, networks; each also with a port."""
    way = from_environment(url, {"ALL_PROXY": "http://p:1", name: no_proxy})
    assert (way == DIRECT) is excepted


@pytest.mark.parametrize("name", ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])
def test_bad_variable_is_named(name):
    """A bad value is refused under the variable's own name, without its password."""
    with pytest.raises(ValueError, match=f"^{name}: ") as caught:
        from_environment(HTTPS, {name: f"sokcs5://me:{CANARY}@h"})
    assert CANARY not in str(caught.value)


# --- chains


def test_a_chain():
    """The last hop, dialled via those before; what is shown has all of them and no password."""
    way = chain(["http://127.0.0.1:7890", f"socks5h://me:{CANARY}@far", "https://[::1]:1"])
    assert shape(way) == ("https", "::1", 1, "", "")
    assert str(way) == "http://127.0.0.1:7890 -> socks5h://far:1080 -> https://[::1]:1"
    assert way.via == chain(["http://127.0.0.1:7890", f"socks5h://me:{CANARY}@far"])
    assert [hop.host for hop in way.hops] == ["127.0.0.1", "far", "::1"]
    assert way.title == "proxy [::1]:1, reached through 127.0.0.1:7890 and far:1080,"
    assert CANARY not in repr(way) + way.title
    assert way.via is not None
    assert way.via.url == f"socks5h://me:{CANARY}@far:1080"


def test_chains_are_ways_of_their_own():
    """The same last hop through another is another way; a chain of one is the proxy itself."""
    one, two = "http://a:1", "socks5h://b:1"
    assert chain([one, two]) == chain([one, two])
    assert len({chain([one, two]), chain([two, one]), parse(one), parse(two)}) == 4
    assert chain([one]) == parse(one)
    assert (DIRECT.hops, parse(one).hops) == ((), (parse(one),))
    assert parse(one).title == "proxy a:1"


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ([], "at least one proxy"),
        (["http://a", "direct"], "hop 2: expected a proxy, direct cannot be part of a chain"),
        (["env", "http://a"], "hop 1: expected a proxy, env cannot be part of a chain"),
        (["http://a", "b:1"], "hop 2: expected a proxy with its kind: http://b:1"),
        (["http://a", f"ftp://me:{CANARY}@b"], "hop 2: unknown kind"),
        (["socks4://a", "http://[::1]:1"], "hop 1: SOCKS4 cannot carry an IPv6 address"),
    ],
)
def test_no_chain(texts, says):
    """The number of the hop, what was expected, and no password."""
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        chain(texts)
    assert CANARY not in str(caught.value)
