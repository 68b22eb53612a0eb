"""What the tests of the doctor share: an API to be examined, proxies that gather, an examination.

async with Upstream(api()) as upstream:
    found, text = await examined(tmp_path, toml_of(upstream.url + "/v1"))
"""

import asyncio
import io
import json
from contextlib import suppress

from fakes import HttpProxy, SocksProxy, chat_frame
from fakes.frames import DONE
from fakes.tunnel import end
from service.doctor.command import examine
from service.doctor.examination import Wishes
from service.doctor.shown import Plain
from service.settings import load

KEY = "sk-right"
MODELS = json.dumps({"object": "list", "data": [{"id": "gpt-4o-mini"}]})
PAGE = "<!doctype html><title>Nothing here</title>"
JSON = "application/json"
TOKENS = 30


def api(base="/v1", *, clock=None, pause=0.0):
    """Return the script of an API at that path.

    A clock is moved on after each token, or each takes a `pause` of so many real seconds.
    """

    async def script(request, wire):
        path = request.target
        if not path.startswith(f"{base}/"):
            return await wire.reply(404, PAGE, content_type="text/html")
        if request.get("authorization") != f"Bearer {KEY}":
            said = json.dumps({"error": {"message": f"no: {request.get('authorization')}"}})
            return await wire.reply(401, said, content_type=JSON)
        if path == f"{base}/models":
            return await wire.reply(200, MODELS, content_type=JSON)
        await wire.head(content_type="text/event-stream")
        for number in range(TOKENS):
            if clock is not None:
                clock.advance(0.05)
            await asyncio.sleep(pause)
            await wire.chunk(chat_frame({"content": f"{number} "}))
        await wire.chunk(chat_frame({}, finish="stop"))
        await wire.chunk(DONE)
        return await wire.end()

    return script


class Gatherer(HttpProxy):
    """An HTTP proxy that hands an answer on in lumps of so many bytes, and what ends with DONE."""

    def __init__(self, lump, **options):
        super().__init__(**options)
        self._lump = lump

    async def tunnel(self, connection, target):
        """Copy at once what goes up, and in lumps what comes down."""
        up = asyncio.create_task(self._copy(connection.reader, target[1], 1))
        down = asyncio.create_task(self._copy(target[0], connection.writer, self._lump))
        try:
            await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end(target[1], up, down)

    async def _copy(self, source, target, lump):
        held, streaming = b"", False
        with suppress(OSError):
            while data := await source.read(1 << 16):
                held += data
                streaming = streaming or b"event-stream" in held
                if not streaming or len(held) >= lump or b"\r\n0\r\n\r\n" in held:
                    target.write(held)
                    await target.drain()
                    held = b""


class Cutter(SocksProxy):
    """A proxy that, on `cut`, is done with what goes through it, as with a line that is idle.

    forgets   it closes nothing: what is sent from then on goes nowhere, as behind a NAT
    """

    def __init__(self, *, forgets=False):
        super().__init__()
        self.cut = asyncio.Event()
        self._forgets = forgets

    async def tunnel(self, connection, target):
        """Carry until the cut."""
        carried = asyncio.create_task(super().tunnel(connection, target))
        cut = asyncio.create_task(self.cut.wait())
        await asyncio.wait([carried, cut], return_when=asyncio.FIRST_COMPLETED)
        if self.cut.is_set() and self._forgets:
            self.notify()
            await connection.gone.wait()
        cut.cancel()
        carried.cancel()
        await asyncio.gather(carried, cut, return_exceptions=True)


def toml_of(url, *ways, key=KEY, **more):
    """Return settings of one upstream through these ways; a list is a chain."""
    own = "".join(f"{name} = {json.dumps(value)}\n" for name, value in more.items())
    pool = f'[[pool]]\nname = "ways"\nproxies = {json.dumps(ways)}\n' if ways else ""
    return f'[[upstream]]\nname = "up"\nurl = "{url}"\nkey = "{key}"\n{own}{pool}'


def settings_of(folder, toml):
    """Return the settings in that text."""
    file = folder / "examined.toml"
    file.write_text(toml)
    return load(config=str(file), environ={}, cwd=folder)


async def examined(folder, toml, *names, clock=None, **wishes):
    """Examine these settings; return the report and the lines that were printed."""
    out = io.StringIO()
    found = await examine(settings_of(folder, toml), names, Wishes(**wishes), Plain(out), clock)
    return found, out.getvalue()


async def last_step(folder, toml, **more):
    """Examine the only way; return its last step, which failed."""
    found, _ = await examined(folder, toml, **more)
    (way,) = found.ways
    assert (found.exit, found.works, way.works) == (2, "none", False)
    assert way.steps[-1].result == "failed", way
    return way.steps[-1]


def step_of(way, name):
    """Return the step of that name."""
    (step,) = [step for step in way.steps if step.step == name]
    return step
