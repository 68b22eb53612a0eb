"""curl, with the command lines of the README's kind: every case with GET and POST /chat and /v1."""

from client_cases import Cases, ChatCases
from curl import GET, POST, V1


class TestCurl(Cases):
    """All three."""

    CLIENTS = (GET, POST, V1)


class TestCurlChat(ChatCases):
    """The two of /chat."""

    CLIENTS = (GET, POST)
