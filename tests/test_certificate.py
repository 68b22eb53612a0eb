"""What is read of a certificate that nobody verified."""

import ssl

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from service.core.certificate import Certificate, read


def der(leaf):
    """Return a trustme certificate as DER."""
    return ssl.PEM_cert_to_DER_cert(leaf.cert_chain_pems[0].bytes().decode())


@pytest.fixture(scope="module")
def authority():
    """Return an authority called after a firewall."""
    return trustme.CA(organization_name="Fortinet CA")


def test_names_and_issuer(authority):
    """The names are the alternative ones, addresses too; the issuer is who signed it."""
    leaf = authority.issue_cert("api.test", "*.api.test", "127.0.0.1", "::1")
    assert read(der(leaf)) == Certificate(
        "Fortinet CA", ("api.test", "*.api.test", "127.0.0.1", "::1")
    )


def test_the_subject_where_there_are_no_other_names(authority):
    """An authority's own certificate has none."""
    own = ssl.PEM_cert_to_DER_cert(authority.cert_pem.bytes().decode())
    assert read(own) == Certificate("Fortinet CA", ("Fortinet CA",))


def test_a_common_name_goes_before_an_organisation(authority):
    """It says more."""
    leaf = authority.issue_cert(common_name="common.test", organization_name="Org")
    assert read(der(leaf)).names == ("common.test",)


def test_at_most_a_few_names(authority):
    """A CDN's certificate may have a hundred."""
    leaf = authority.issue_cert(*(f"n{number}.test" for number in range(50)))
    assert len(read(der(leaf)).names) == 5


def test_texts_are_one_short_line():
    """Whoever made the certificate writes no log lines of its own."""
    made = trustme.CA(organization_name="a\nb\x1b[31m" + "c" * 40).issue_cert("a.test")
    issuer = read(der(made)).issuer
    assert issuer.isprintable()
    assert issuer.startswith("a?b?[31m")


def test_other_names_are_no_servers():
    """An address of mail in a certificate is none that a server answers to."""
    leaf = trustme.CA().issue_cert("someone@mail.test", "api.test")
    assert read(der(leaf)).names == ("api.test",)


FEW = b"\x30\x04\x30\x02\x05\x00"
NAMELESS = b"\x30\x12\x30\x10\x05\x00\x05\x00\x30\x06\x31\x04\x30\x02\x05\x00\x05\x00\x05\x00"


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"\x30\x00", b"\x30\x80", b"\x30\x84\xff\xff\xff\xff", FEW, NAMELESS],
)
def test_what_is_no_certificate(data):
    """ValueError, whatever it is."""
    with pytest.raises(ValueError, match=r"."):
        read(data)


@given(st.data())
def test_a_broken_certificate_is_read_or_refused(authority_der, data):
    """Cut or changed anywhere: no other error than ValueError."""
    broken = bytearray(authority_der)
    for _ in range(data.draw(st.integers(1, 3))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = read(bytes(broken[: data.draw(st.integers(0, len(broken)))]))
    except ValueError:
        return
    assert all(text.isprintable() for text in (found.issuer, *found.names))


@pytest.fixture(scope="module")
def authority_der(authority):
    """Return one certificate for all examples."""
    return der(authority.issue_cert("api.test", "127.0.0.1"))
