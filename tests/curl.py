"""curl, and what its output says."""

import asyncio
import json
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from client import Client
from client_scene import KEY
from program import PATIENT, Program, running

FLAGS = ("--no-buffer", "--silent", "--fail-with-body")
STATUS = '\\n{"status": %{http_code}}\\n'
JSON = ("--header", "Content-Type: application/json")


class Output:
    """What a curl that runs writes: event streams, or a refusal's JSON; at last the status."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._event = "message"
        self._refusal: dict[str, Any] = {}

    async def says(self) -> Any:
        """Return the next report; None at the end."""
        while (line := await self._program.line()) is not None:
            if (report := self._read(line)) is not None:
                return report
        return None

    async def rest(self) -> list[Any]:
        """Return the reports up to the end, and the exit code unless it is 0."""
        said = []
        async with asyncio.timeout(PATIENT):
            while (report := await self.says()) is not None:
                said.append(report)
        code = await self._program.code()
        return [*said, {"lost": code}] if code > 0 else said

    async def abort(self) -> None:
        """Interrupt it as Ctrl-C does."""
        self._program.process.send_signal(signal.SIGINT)

    def _read(self, line: str) -> Any:
        name, _, value = line.partition(": ")
        if name == "event":
            self._event = value
        elif name == "data" and value != "[DONE]":
            event, self._event = self._event, "message"
            return _report(event, json.loads(value))
        elif line.startswith("{"):
            return self._read_json(json.loads(line))
        return None

    def _read_json(self, told: dict[str, Any]) -> Any:
        if "error" in told:
            self._refusal = told["error"]
        return {"error": {**self._refusal, **told}} if self._refusal and "status" in told else None


def _report(event: str, data: dict[str, Any]) -> Any:
    """Return the report that an event of `/chat` or a chunk of `/v1` stands for."""
    if "error" in data or event == "error":
        return {"error": data.get("error", data)}
    choice = data["choices"][0] if data.get("choices") else {}
    text = data.get("content") or choice.get("delta", {}).get("content")
    finish = data.get("finish_reason") or choice.get("finish_reason")
    if "tool_calls" in data:
        return {"tools": data["tool_calls"]}
    if finish:
        return {"done": finish}
    return {"reasoning" if event == "reasoning" else "text": text} if text else None


@dataclass(frozen=True)
class Curl(Client):
    """A command line."""

    post: bool = False

    @asynccontextmanager
    async def run(self, url: str, question: str = "Hi", **_: Any) -> AsyncIterator[Output]:
        """Ask the relay at this URL."""
        program = shutil.which("curl")
        if program is None:
            pytest.skip("curl is not installed: apt-get install curl")
        command = (program, *FLAGS, "--write-out", STATUS, *self._asks(url, question))
        async with running(*command) as process:
            yield Output(process)

    def _asks(self, url: str, question: str) -> tuple[str, ...]:
        if not self.chat:
            messages = [{"role": "user", "content": question}]
            body = {"model": "m", "messages": messages, "stream": True}
            key = ("--header", f"Authorization: Bearer {KEY}")
            return (*JSON, *key, "--data-binary", json.dumps(body), f"{url}/v1/chat/completions")
        if self.post:
            body = {"question": question, "keep": 0}
            return (*JSON, "--data-binary", json.dumps(body), f"{url}/chat")
        return ("--get", "--data-urlencode", f"question={question}", f"{url}/chat?keep=0")


CUT = {"lost": 18}
"""CURLE_PARTIAL_FILE: the body lacks its last chunk."""
REFUSED = {"lost": 22}
"""CURLE_HTTP_RETURNED_ERROR, by --fail-with-body."""

GET = Curl("curl-get", chat=True, lost=(CUT,), refused=(REFUSED,))
POST = Curl("curl-post", chat=True, lost=(CUT,), refused=(REFUSED,), post=True)
V1 = Curl("curl-v1", lost=(CUT,), refused=(REFUSED,))
