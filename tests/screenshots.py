"""The pictures of the pages: `python tests/screenshots.py [FOLDER]` makes them anew."""

import asyncio
import base64
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from chromium import Chromium, chromium
from statuses import busy, told
from visiting import Look, Stub, Visit, answers, event, visiting

if TYPE_CHECKING:
    from playwright.async_api import Page

ENGLISH = """\
The proxy in front closes a line on which **nothing was said for 60 seconds**, and a model that \
thinks says nothing. Two things help:

1. Give the line more time, and let nothing be held back:

```nginx
location / {
    proxy_pass http://127.0.0.1:8080;
    proxy_buffering off;
    proxy_read_timeout 1h;
}
```

2. Send something in between. A comment line such as `: keep-alive` is no event, but it is a byte.

| who | waits | setting |
|:----|------:|:--------|
| nginx | 60 s | `proxy_read_timeout` |
| HAProxy | 50 s | `timeout server` |
| AWS ALB | 60 s | idle timeout |

If the line drops all the same, ask again with the"""

CHINESE = """\
因为**地铁里的网络会断**，而普通的流一断就没有了。这里不同：

- 每个事件都有自己的编号；
- 中继会把回答**继续读完**，替你保管；
- 网络恢复后，页面带着 `Last-Event-ID` 回来，从断处继续。

```http
POST /chat
Last-Event-ID: k3Jx…Q.42
```

所以模型只被问一次，一个字也"""

STILL = {"device_scale_factor": 2, "reduced_motion": "reduce"}


async def typing(stub: Stub, visit: Visit, question: str, text: str, ending: str) -> None:
    """Let the page type this; wait until its ending stands there."""
    await visit.ask(question)
    wire = await stub.answering()
    await wire.chunk(event(1, "reasoning", content="…") + answers(text, first=2))
    await visit.sees_within(ending)


async def picture(page: "Page", *, whole: bool = False) -> bytes:
    """Take the picture as WebP, of what can be seen or of the whole page."""
    devtools = await page.context.new_cdp_session(page)
    how = {"format": "webp", "quality": 80, "captureBeyondViewport": whole}
    if whole:
        size = (await devtools.send("Page.getLayoutMetrics"))["cssContentSize"]
        how["clip"] = {**size, "scale": 1}
    shot = await devtools.send("Page.captureScreenshot", how)
    return base64.b64decode(shot["data"])


async def desk(scheme: str) -> bytes:
    """On a desk, `light` or `dark`: an answer that types itself."""
    look = Look(1280, scheme, "en-US")
    async with Stub() as stub, visiting(stub.url, look, **STILL) as visit:
        await visit.page.set_viewport_size({"width": 1000, "height": 1080})
        await visit.page.locator("#model").fill("gpt-4o-mini")
        question = "Why does my stream stop after a minute behind nginx?"
        await typing(stub, visit, question, ENGLISH, "ask again with the")
        return await picture(visit.page)


async def phone() -> bytes:
    """On a phone, in the dark, in Chinese: the line is gone."""
    look = Look(390, "dark", "zh-CN")
    async with Stub() as stub, visiting(stub.url, look, **STILL) as visit:
        await typing(stub, visit, "坐地铁时回答为什么会断在一半？", CHINESE, "一个字也")
        stub._server.close()
        stub.reset_connections()
        await visit.status("1 秒后重试")
        visit.errors.clear()  # Chromium's own words for the cut
        return await picture(visit.page)


async def status(width: int, scheme: str, locale: str, *, whole: bool = False) -> bytes:
    """Show the status of a relay at work, of which one proxy is down."""
    look = {"viewport": {"width": width, "height": 844}, "color_scheme": scheme, "locale": locale}
    profile = await Chromium.running.new_context(**look, **STILL)
    async with Stub() as stub:
        page = await profile.new_page()
        body = told(busy())
        await page.route(
            "**/status/events",
            lambda route: route.fulfill(body=body, content_type="text/event-stream"),
        )
        await page.goto(f"{stub.url}/status.html")
        await page.locator("#streams li").last.wait_for()
        shot = await picture(page, whole=whole)
        await profile.close()
    return shot


async def pictures() -> dict[str, bytes]:
    """Make all, by their names."""
    async with chromium():
        desks = {f"page-{scheme}.webp": await desk(scheme) for scheme in ("light", "dark")}
        return {
            **desks,
            "page-dark-phone.webp": await phone(),
            "status-light.webp": await status(1200, "light", "en-GB", whole=True),
            "status-dark-phone.webp": await status(390, "dark", "zh-CN"),
        }


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs")
    for name, data in asyncio.run(pictures()).items():
        (folder / name).write_bytes(data)
