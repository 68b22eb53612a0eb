"""Who is let in: by a key, by the name that was asked for, and from which page."""

import hmac
from hashlib import sha256

import pytest
from multidict import CIMultiDict

from service.core import access
from service.core.access import ANYONE, Caller, Doors, Grant, Keys
from service.errors import Failure

KEYS = Keys(
    [
        (name, sha256(key.encode()).digest(), Grant())
        for name, key in (("ann", "key-of-ann"), ("bob", "key-of-bob"))
    ]
)


def caller(**headers):
    """Return who sends these headers; `_` stands for `-`."""
    return KEYS.caller(CIMultiDict({name.replace("_", "-"): v for name, v in headers.items()}))


class TestKeys:
    """Key to caller."""

    def test_without_keys_everybody_is_let_in(self):
        """Nobody has a name then, and no header is taken for the relay's key."""
        assert Keys([]).caller({"Authorization": "Bearer x"}) == ANYONE == Caller("anyone", None)

    @pytest.mark.parametrize(
        ("headers", "expected"),
        [
            ({"Authorization": "Bearer key-of-ann"}, ("ann", "Authorization")),
            ({"authorization": "bearer  key-of-bob "}, ("bob", "Authorization")),
            ({"X-Api-Key": "key-of-bob"}, ("bob", "x-api-key")),
            ({"teleprinter-key": "key-of-ann"}, ("ann", "Teleprinter-Key")),
        ],
    )
    def test_where_a_key_may_be(self, headers, expected):
        """The caller knows the header that carried the key, so that it never goes upstream."""
        assert caller(**headers)[:2] == expected

    def test_the_most_particular_header_wins(self):
        """With Teleprinter-Key, the other two are the client's own for the upstream."""
        found = caller(Authorization="Bearer sk-own", x_api_key="own", Teleprinter_Key="key-of-ann")
        assert found == Caller("ann", "Teleprinter-Key")
        assert caller(Authorization="Bearer key-of-bob", x_api_key="own").key_header == (
            "Authorization"
        )

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"Authorization": "Bearer"},
            {"Authorization": "Bearer "},
            {"Authorization": "Basic key-of-ann"},
            {"Authorization": "key-of-ann"},
            {"Authorization": "Bearer KEY-OF-ANN"},
            {"Authorization": "Bearer key-of-an"},
            {"Authorization": "Bearer key-of-annn"},
            {"Authorization": "Bearer ann"},
            {"Authorization": "Bearer ann:key-of-ann"},
            {"Authorization": "Bearer sk-own", "x-api-key": "key-of-ann"},
            {"Teleprinter-Key": "wrong", "x-api-key": "key-of-ann"},
            {"x-api-key": ""},
            {"x-api-key": "\udcff你"},
            {"Authorization": "Bearer key-of-ann\udcff"},
        ],
    )
    def test_refused(self, headers):
        """Without one of the keys nobody comes in, whatever bytes the header has."""
        with pytest.raises(Failure) as caught:
            caller(**headers)
        assert caught.value.code == "unauthorized"
        for name in ("Authorization: Bearer", "x-api-key", "Teleprinter-Key"):
            assert name in caught.value.message

    def test_a_wrong_key_is_not_repeated(self):
        """The message names the header and never the key."""
        with pytest.raises(Failure, match="the key in Authorization is not one of them") as caught:
            caller(Authorization="Bearer sk-own")
        assert "sk-own" not in caught.value.message

    @pytest.mark.parametrize("key", ["key-of-ann", "key-of-bob", "wrong", ""])
    def test_every_key_is_compared(self, monkeypatch, key):
        """All keys, each by compare_digest, on digests of one length: time tells nothing."""
        compared = []

        def compare(one, other):
            compared.append((len(one), len(other)))
            return hmac.compare_digest(one, other)

        monkeypatch.setattr(access, "hmac", type("", (), {"compare_digest": staticmethod(compare)}))
        KEYS._find(key)
        assert compared == [(32, 32), (32, 32)]

    def test_whether_a_key_is_needed(self):
        """With keys one is needed, without none."""
        assert KEYS
        assert not Keys([])

    def test_a_caller_has_its_grant(self):
        """What a key grants goes with it, whatever the other keys grant."""
        grants = {"ann": Grant(streams=1), "bob": Grant(models=("gpt-*",))}
        digests = {name: sha256(name.encode()).digest() for name in grants}
        keys = Keys((name, digests[name], grant) for name, grant in grants.items())
        for name, grant in grants.items():
            found = keys.caller({"Authorization": f"Bearer {name}"})
            assert (found.name, found.grant) == (name, grant)

    @pytest.mark.parametrize(
        ("headers", "carriers"),
        [
            ([("Authorization", "Bearer key-of-ann")], {"authorization"}),
            ([("AUTHORIZATION", "bearer  key-of-ann ")], {"authorization"}),
            ([("Authorization", "key-of-ann")], {"authorization"}),
            ([("X-Api-Key", "key-of-bob"), ("Authorization", "Bearer sk-own")], {"x-api-key"}),
            (
                [("x-api-key", "key-of-ann"), ("Authorization", "Bearer key-of-bob")],
                {"authorization", "x-api-key"},
            ),
            ([("x-api-key", "own"), ("x-api-key", "key-of-ann")], {"x-api-key"}),
            ([("Authorization", "Bearer sk-own"), ("x-api-key", ""), ("X-A", "key-of-ann")], set()),
        ],
    )
    def test_carriers(self, headers, carriers):
        """Every header that carries one of the keys is known, whoever the caller is."""
        assert KEYS.carriers(headers) == carriers
        assert Keys([]).carriers(headers) == set()

    def test_keys_are_kept_as_digests(self):
        """No key can be read from the relay's memory of them."""
        assert "key-of" not in repr(vars(KEYS))


class TestGrant:
    """What a caller may do."""

    @pytest.mark.parametrize("model", ["gpt-4o", "o3", None])
    def test_models_let_in(self, model):
        """One of the globs must fit; a request that names no model is the upstream's affair."""
        Grant(models=("gpt-*", "o?")).check_model(model)
        Grant().check_model(model)

    @pytest.mark.parametrize("model", ["GPT-4o", "o33", ""])
    def test_models_refused(self, model):
        """The message tells the model that was asked for and those that may be."""
        with pytest.raises(
            Failure, match=rf"the model '{model}': it may use gpt-\*, o\?$"
        ) as caught:
            Grant(models=("gpt-*", "o?")).check_model(model)
        assert caught.value.code == "forbidden"

    def test_without_bounds(self):
        """A key that nothing is said of may do everything."""
        assert Grant() == (("*",), 0, 0, 0)


def refusal(doors, *, link=False, **headers):
    """Return the code with which a request is refused, None if it is let in; `_` is `-`."""
    sent = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    try:
        doors.check(sent, link=link)
    except Failure as failure:
        return failure.code
    return None


LOOPBACK = Doors(["127.0.0.1"])
NAMES = ["localhost", "LocalHost", "localhost:8080", "127.0.0.1", "127.0.0.1:80", "[::1]",
         "[::1]:8080", "[0:0:0:0:0:0:0:1]:8080"]  # fmt: skip
FOREIGN = [
    "evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8080", "xlocalhost",
    "localhost@evil.example", "localhost.", "0.0.0.0", "0.0.0.0:8080", "192.168.1.5",
    "10.0.0.1:8080", "[::]", "[fe80::1]", "2130706433", "127.1", "", ":8080", "[::1", "::1", "[",
    "local\udcffhost",
]  # fmt: skip


class TestHost:
    """A request for a foreign name is not for the relay: DNS rebinding ends here."""

    @pytest.mark.parametrize("host", NAMES)
    @pytest.mark.parametrize("listening", ["127.0.0.1", "::1", "localhost", "LOCALHOST"])
    def test_loopback(self, listening, host):
        """Who listens on one name of this machine is known by all of them, at any port."""
        assert refusal(Doors([listening]), Host=host) is None

    @pytest.mark.parametrize("host", FOREIGN)
    def test_foreign_names(self, host):
        """Any other name is refused, also a name that resolves to this machine."""
        assert refusal(LOOPBACK, Host=host) == "wrong_host"

    def test_no_host(self):
        """A request that names nobody is refused."""
        assert refusal(LOOPBACK) == "wrong_host"

    def test_the_message_says_what_to_do(self):
        """It names the host, without control characters, and the setting."""
        with pytest.raises(Failure, match=r"'evil\\x1b': .* server.hosts"):
            LOOPBACK.check({"Host": "evil\x1b"})

    def test_another_loopback_address(self):
        """It counts beside the usual names."""
        doors = Doors(["127.0.0.5"])
        assert refusal(doors, Host="127.0.0.5:8080") is None
        assert refusal(doors, Host="localhost") is None
        assert refusal(LOOPBACK, Host="127.0.0.5") == "wrong_host"

    def test_one_address(self):
        """Who listens on one address is known by it alone."""
        doors = Doors(["192.168.1.5"])
        assert refusal(doors, Host="192.168.1.5:8080") is None
        assert refusal(doors, Host="192.168.1.6") == "wrong_host"
        assert refusal(doors, Host="localhost") == "wrong_host"

    @pytest.mark.parametrize("host", ["[2001:db8::1]:8080", "[2001:DB8:0:0::1]"])
    @pytest.mark.parametrize("listening", ["2001:db8::1", "2001:DB8:0::1"])
    def test_ipv6_in_any_form(self, listening, host):
        """An IPv6 address is the same however it is written."""
        assert refusal(Doors([listening]), Host=host) is None

    @pytest.mark.parametrize("listening", ["0.0.0.0", "::", ""])
    @pytest.mark.parametrize(
        ("host", "code"),
        [
            ("192.168.1.5:8080", None),
            ("[2001:db8::1]:8080", None),
            ("localhost", None),
            ("relay.lan", "wrong_host"),
            ("evil.example", "wrong_host"),
            ("192.168.1.5.nip.io", "wrong_host"),
            ("", "wrong_host"),
        ],
    )
    def test_wildcard(self, listening, host, code):
        """Who listens everywhere is known by any address, but by no name: names can be rebound."""
        assert refusal(Doors([listening]), Host=host) == code

    @pytest.mark.parametrize("host", ["relay.lan", "RELAY.lan:8080", "[2001:db8::7]"])
    def test_names_of_the_settings(self, host):
        """`server.hosts` adds names."""
        doors = Doors(["127.0.0.1"], ["Relay.LAN", "2001:DB8::7"])
        assert refusal(doors, Host=host) is None
        assert refusal(doors, Host="localhost") is None
        assert refusal(doors, Host="other.lan") == "wrong_host"

    def test_several_sockets(self):
        """Each socket's address counts."""
        doors = Doors(["192.168.1.5", "127.0.0.1"])
        assert refusal(doors, Host="192.168.1.5") is refusal(doors, Host="localhost") is None


class TestOrigin:
    """No web page can spend the key, but for the relay's own and those that are allowed."""

    DOORS = Doors(["127.0.0.1"], ["relay.lan"], ["https://app.example", "http://localhost:3000"])

    @pytest.mark.parametrize(
        ("host", "origin"),
        [
            ("localhost:8080", "http://localhost:8080"),
            ("LOCALHOST:8080", "http://localhost:8080"),
            ("127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("[::1]:8080", "http://[::1]:8080"),
            ("localhost", "http://localhost"),
            ("localhost:80", "http://localhost"),
            ("relay.lan", "https://relay.lan"),
            ("relay.lan:443", "https://relay.lan"),
            ("localhost:8080", "https://app.example"),
            ("localhost:8080", "http://localhost:3000"),
        ],
    )
    def test_let_in(self, host, origin):
        """The relay's own page, also behind a TLS front end, and an allowed origin."""
        assert refusal(self.DOORS, Host=host, Origin=origin) is None
        assert refusal(self.DOORS, Host=host, Origin=origin, Sec_Fetch_Site="same-site") is None

    @pytest.mark.parametrize(
        "origin",
        [
            "https://evil.example",
            "http://localhost:8081",
            "http://localhost",
            "http://127.0.0.1:8080",
            "https://app.example:444",
            "http://app.example",
            "https://app.example.evil.example",
            "null",
            "",
            "localhost:8080",
            "file://",
            "ftp://localhost:8080",
            "chrome-extension://localhost:8080",
            "http://localhost:8080/",
            "http://localhost:8080@evil.example",
            "h\udcff",
        ],
    )
    @pytest.mark.parametrize("link", [False, True])
    def test_refused(self, origin, link):
        """Any other origin, port and scheme included, whatever else the request says."""
        headers = {"Host": "localhost:8080", "Origin": origin}
        assert refusal(self.DOORS, **headers, link=link) == "forbidden"
        assert refusal(self.DOORS, **headers, Sec_Fetch_Site="none", link=link) == "forbidden"

    def test_the_message_says_what_to_do(self):
        """It names the origin and the setting, in characters that can be sent."""
        with pytest.raises(Failure, match=r"'h\\udcff' .* server.origins") as caught:
            self.DOORS.check({"Host": "localhost", "Origin": "h\udcff"})
        assert caught.value.message.encode()


class TestFetchMetadata:
    """Requests without an Origin, as images, links and forms make them."""

    @pytest.mark.parametrize(
        ("site", "code"),
        [
            ("none", None),
            ("same-origin", None),
            ("same-site", "forbidden"),
            ("cross-site", "forbidden"),
            ("", "forbidden"),
            ("anything", "forbidden"),
        ],
    )
    def test_sites(self, site, code):
        """Another origin's page is refused, on the same site too: another port is another app."""
        assert refusal(LOOPBACK, Host="localhost", Sec_Fetch_Site=site) == code

    def test_programs(self):
        """A program sends none of these headers and is let in."""
        assert refusal(LOOPBACK, Host="localhost") is None

    @pytest.mark.parametrize("site", ["cross-site", "same-site"])
    def test_links(self, site):
        """Where a link may lead, it may come from anywhere."""
        assert refusal(LOOPBACK, Host="localhost", Sec_Fetch_Site=site, link=True) is None

    def test_the_host_comes_first(self):
        """A foreign name is refused as such, also from an allowed page or a link."""
        doors = Doors(["127.0.0.1"], origins=["https://app.example"])
        headers = {"Host": "evil.example", "Origin": "https://app.example"}
        assert refusal(doors, **headers, link=True) == "wrong_host"

    def test_a_page_of_a_rebound_name(self):
        """A name that was rebound to this machine is its own page's origin: the host tells."""
        headers = {"Host": "evil.example:8080", "Origin": "http://evil.example:8080"}
        assert refusal(LOOPBACK, **headers, Sec_Fetch_Site="same-origin") == "wrong_host"
