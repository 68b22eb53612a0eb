"""TLS on the relay's own port."""

import ssl

import aiohttp
import pytest
import trustme

from fakes import Upstream, chat, sse
from serving import ASK, PATIENT, serving, upstream_toml


@pytest.fixture
def certified(tmp_path):
    """Return [server] with a certificate for 127.0.0.1, and TLS that trusts its authority."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(key))
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    return f'[server]\ntls_cert = "{chain}"\ntls_key = "{key}"\n\n', trust


async def test_a_stream_over_tls(tmp_path, certified):
    """Https is spoken with the certificate of the settings, and the start says so; http is not."""
    toml, trust = certified
    timeout = aiohttp.ClientTimeout(total=PATIENT)
    async with (
        Upstream(sse(*chat(["Hi"]))) as upstream,
        serving(tmp_path, toml + upstream_toml(upstream)) as relay,
        aiohttp.ClientSession(timeout=timeout) as session,
    ):
        assert relay.url.startswith("https://")
        url, kind = f"{relay.url}/v1/chat/completions", {"Content-Type": "application/json"}
        async with session.post(url, data=ASK, headers=kind, ssl=trust) as response:
            assert (await response.read()).endswith(b"data: [DONE]\n\n")
        with pytest.raises(aiohttp.ClientError):
            await session.get(url.replace("https", "http"))


async def test_a_certificate_that_cannot_be_used_ends_the_start(tmp_path, certified):
    """Exit 2, and the words name the setting; no traceback."""
    (tmp_path / "key.pem").write_text("no key")
    with pytest.raises(AssertionError, match=r"server\.tls_cert") as failure:
        async with serving(tmp_path, certified[0]):
            pass
    assert "Traceback" not in str(failure.value)
