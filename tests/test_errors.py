"""Every failure is one of the codes, and says whose fault it is and what may happen next."""

import ast
from pathlib import Path

import pytest

import service
from service.errors import CODES, Failure, Whose

CLIENT, PROXY, UPSTREAM, OURS = Whose
PROMISED = {
    "bad_request": (400, CLIENT),
    "unauthorized": (401, CLIENT),
    "forbidden": (403, CLIENT),
    "not_found": (404, CLIENT),
    "method_not_allowed": (405, CLIENT),
    "request_timeout": (408, CLIENT),
    "client_too_slow": (408, CLIENT),
    "stream_gone": (410, CLIENT),
    "too_large": (413, CLIENT),
    "wrong_host": (421, CLIENT),
    "rate_limited": (429, CLIENT),
    "too_many_streams": (429, CLIENT),
    "not_implemented": (501, CLIENT),
    "proxy_unreachable": (502, PROXY),
    "proxy_timeout": (504, PROXY),
    "proxy_refused": (502, PROXY),
    "proxy_protocol": (502, PROXY),
    "upstream_unreachable": (502, UPSTREAM),
    "upstream_tls": (502, UPSTREAM),
    "upstream_malformed": (502, UPSTREAM),
    "upstream_cut": (502, UPSTREAM),
    "upstream_error": (502, UPSTREAM),
    "upstream_timeout_headers": (504, UPSTREAM),
    "upstream_timeout_first_token": (504, UPSTREAM),
    "upstream_stalled": (504, UPSTREAM),
    "too_long": (504, OURS),
    "no_proxy": (503, OURS),
    "draining": (503, OURS),
    "resume_lost": (503, OURS),
    "stopped": (503, OURS),
    "internal": (500, OURS),
}
TRANSIENT = {
    "request_timeout", "rate_limited", "too_many_streams", "proxy_unreachable", "proxy_timeout",
    "upstream_unreachable", "upstream_malformed", "upstream_cut", "upstream_timeout_headers",
    "upstream_timeout_first_token", "upstream_stalled", "draining", "internal",
    "resume_lost", "no_proxy",
}  # fmt: skip


@pytest.mark.parametrize(("code", "promise"), PROMISED.items())
def test_status_and_blame(code, promise):
    """Each code has the status and the party that users rely on."""
    failure = Failure(code, "…")
    assert (failure.status, failure.whose) == promise


def test_no_code_is_without_a_promise():
    """A code that is new is to be added above, and to docs/http.md."""
    assert CODES.keys() == PROMISED.keys()


@pytest.mark.parametrize("code", CODES)
def test_what_is_worth_another_try(code):
    """What passes by itself may be tried again; what will be the same next time may not."""
    assert Failure(code, "…").retryable is (code in TRANSIENT)


@pytest.mark.parametrize("code", CODES)
def test_the_type_is_one_that_sdks_know(code):
    """`type` is a word of OpenAI's or Anthropic's API."""
    assert CODES[code].type in {
        "invalid_request_error", "authentication_error", "permission_error", "not_found_error",
        "request_too_large", "rate_limit_error", "api_error", "overloaded_error", "timeout_error",
    }  # fmt: skip


def test_what_a_client_is_told():
    """Message, type, code, stage and whether it is worth another try; nothing else."""
    assert Failure("upstream_cut", "it ended", stage="stream").fields() == {
        "message": "it ended",
        "type": "api_error",
        "code": "upstream_cut",
        "stage": "stream",
        "retryable": True,
    }
    assert Failure("not_found", "…").fields()["retryable"] is False


def test_one_failure_may_differ_from_its_code():
    """The upstream's own status and the number of seconds to wait are those of this failure."""
    failure = Failure("upstream_error", "quota", status=429, retryable=True, retry_after=2.5)
    assert (failure.status, failure.retryable, failure.retry_after) == (429, True, 2.5)
    assert Failure("upstream_cut", "…", retryable=False).retryable is False


def test_a_failure_is_an_exception_with_words():
    """It can be raised, and prints its message; in a log it also tells code and stage."""
    failure = Failure("not_found", "there is nothing")
    assert str(failure) == "there is nothing"
    assert repr(failure) == "Failure(not_found, request: there is nothing)"
    with pytest.raises(Failure, match="nothing"):
        raise failure


def test_an_unknown_code_is_a_fault_of_the_relay():
    """No failure is made up."""
    with pytest.raises(KeyError):
        Failure("nonsense", "…")


def codes_in(file):
    """Return the codes of the failures that a source file names."""
    calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    made = [call.args[0] for call in calls if getattr(call.func, "id", "") == "Failure"]
    return {code.value for code in made if isinstance(code, ast.Constant)}


def test_every_code_in_the_sources_is_known():
    """A misspelt code would be found only when its failure happens."""
    folder = Path(service.__file__).parent
    used = set().union(*map(codes_in, folder.rglob("*.py")))
    assert used
    assert used <= CODES.keys()
