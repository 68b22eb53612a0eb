"""What the SDKs find around them: nobody's settings, and one certificate.

Each client that is made reads the machine's whole store of certificates, 60 ms of work, though all
that is asked here is on loopback; SSL_CERT_FILE spares that.
"""

import os
import re

import pytest

THEIRS = re.compile(r"(ANTHROPIC|LANGCHAIN|LANGSMITH)_.*")


@pytest.fixture(autouse=True)
def _around_the_sdks(monkeypatch: pytest.MonkeyPatch, ca) -> None:
    for name in filter(THEIRS.fullmatch, list(os.environ)):
        monkeypatch.delenv(name)
    monkeypatch.setenv("SSL_CERT_FILE", str(ca.file))
