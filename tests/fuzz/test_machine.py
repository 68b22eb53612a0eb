"""Clients, an upstream and a proxy that do as they like, against the real application.

A step is one thing that one of them does, or time that passes; after each, and in the end, what
`world` holds to be true is looked at. What fails is printed as the list of steps.
"""

import asyncio
from unittest.mock import patch

from hypothesis import Phase
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from fakes.frames import DONE, chat_frame
from service import responses
from strategies import examples
from world import OK, World, descriptors

WORDS = st.sampled_from(
    ["a ", "word ", "你好，", "👨‍👩‍👧", "\n", "e\u0301", "long " * 30, '{"x": "']
)
PICK = st.integers(0, 1 << 16)
STEPS = 30
PHASES = [Phase.explicit, Phase.reuse, Phase.generate]
"""To make 30 steps shorter may take minutes, and they can be read as they are."""


class Machine(RuleBasedStateMachine):
    """The steps."""

    def __init__(self) -> None:
        super().__init__()
        self.quick = patch.object(responses, "_HEARD_WITHIN", 0)  # real seconds, for real browsers
        self.quick.start()
        self.before = descriptors()
        self.loop = asyncio.new_event_loop()
        self.world: World | None = None
        self.failed = False

    def run(self, work) -> None:
        """Do it, and let what follows from it happen."""

        async def all_of_it() -> None:
            if work is not None:
                await work
            await self.world.settle()

        try:
            self.loop.run_until_complete(all_of_it())
        except BaseException:
            self.failed = True
            raise

    @initialize(attempts=st.integers(1, 2))
    def start(self, attempts):
        """Everything stands."""
        self.world = World(attempts)
        self.run(self.world.open())

    # --- clients

    @rule(
        door=st.sampled_from(["chat", "chat", "v1", "v1", "plain"]),
        keep=st.sampled_from([0, 5, 30]),
        pace=st.sampled_from([None, None, "smooth", "typewriter"]),
        words=st.lists(WORDS, max_size=4),
    )
    def begins(self, door, keep, pace, words):
        """A client asks; it may be that the upstream answers at once."""
        self.run(self.world.begin(door, keep=keep, pace=pace))
        ask = self.world.begun[-1]
        if words and ask.answerable and not ask.headed:
            self._head(ask)
            self._say(ask, *words)
            self.run(None)

    @precondition(lambda self: self.world.visits)
    @rule(pick=PICK, on=st.booleans())
    def reads(self, pick, on):
        """A client stops reading, or reads on."""
        self._any(self.world.visits, pick).read(on=on)
        self.run(None)

    @precondition(lambda self: self.world.visits)
    @rule(pick=PICK, rudely=st.booleans())
    def leaves(self, pick, rudely):
        """A client goes."""
        self._any(self.world.visits, pick).leave(rudely=rudely)
        self.run(None)

    @precondition(lambda self: self._followed())
    @rule(pick=PICK, rudely=st.booleans(), seconds=st.sampled_from([0, 0.5, 4]), word=WORDS)
    def loses_the_line(self, pick, rudely, seconds, word):
        """A client's line breaks, the upstream goes on if it can, and the client comes back."""
        visit = self._any(self._followed(), pick)
        visit.leave(rudely=rudely)
        self.run(None)
        if visit.ask in self._headed():
            self._say(visit.ask, word)
        self.run(self.world.passes(seconds))
        self.run(self.world.come_back(visit))

    @precondition(lambda self: self._gone())
    @rule(pick=PICK)
    def comes_back(self, pick):
        """A client goes on where it stopped."""
        self.run(self.world.come_back(self._any(self._gone(), pick)))

    @precondition(lambda self: any(ask.name for ask in self.world.begun))
    @rule(pick=PICK)
    def deletes(self, pick):
        """A client stops a stream."""
        named = [ask for ask in self.world.begun if ask.name]
        self.run(self.world.delete(self._any(named, pick)))

    # --- the upstream

    @precondition(lambda self: self._asked())
    @rule(pick=PICK, status=st.sampled_from([200, 200, 200, 200, 429, 500, 400]))
    def answers(self, pick, status):
        """The upstream sends a head; a refusal whole."""
        ask = self._any(self._asked(), pick)
        if status == OK:
            self._head(ask)
        else:
            ask.headed, ask.status = True, status
            ask.say(ask.wire.reply, status, b'{"error": {"message": "no", "code": "no"}}')
        self.run(None)

    @precondition(lambda self: self._headed())
    @rule(pick=PICK, words=st.lists(WORDS, min_size=1, max_size=5), joined=st.booleans())
    def tells(self, pick, words, joined):
        """The upstream sends text, in one write or in several."""
        ask = self._any(self._headed(), pick)
        if joined:
            self._say(ask, *words)
        else:
            for word in words:
                self._say(ask, word)
        self.run(None)

    @precondition(lambda self: self._headed())
    @rule(pick=PICK)
    def floods(self, pick):
        """The upstream sends more than buffers hold."""
        ask = self._any(self._headed(), pick)
        ask.flooded = True
        for number in range(8):
            self._say(ask, f"{number} " * 16_000)
        self.run(None)

    @precondition(lambda self: self._streaming())
    @rule(
        pick=PICK,
        frame=st.sampled_from(
            [
                b": ping\n\n",
                b"data: {no\n\n",
                b"data: \n\n",
                b"retry: 5\n\n",
                chat_frame({"role": "assistant", "content": ""}),
                chat_frame(usage={"prompt_tokens": 1}),
            ]
        ),
    )
    def mumbles(self, pick, frame):
        """The upstream sends what is no text: a comment, a role, something malformed."""
        ask = self._any(self._streaming(), pick)
        ask.say(ask.wire.chunk, frame)
        self.run(None)

    @precondition(lambda self: self._streaming())
    @rule(pick=PICK)
    def tears(self, pick):
        """The upstream sends half a frame."""
        ask = self._any(self._streaming(), pick)
        ask.say(ask.wire.chunk, b'data: {"choices": [')
        ask.torn = True
        self.run(None)

    @precondition(lambda self: self._headed())
    @rule(pick=PICK, how=st.sampled_from(["finish", "done", "both", "end", "end"]), word=WORDS)
    def finishes(self, pick, how, word):
        """The upstream says that it is done; it may end its body after that, or wait."""
        ask = self._any(self._headed(), pick)
        self._say(ask, word)
        ask.finished = True
        if not ask.framed:
            self._say(ask, '"}')
            ask.say(ask.wire.end)
        else:
            if how != "done":
                ask.say(ask.wire.chunk, chat_frame({}, finish="stop"))
            if how != "finish":
                ask.say(ask.wire.chunk, DONE)
            if how == "end":
                ask.say(ask.wire.end)
        self.run(None)

    @precondition(lambda self: self._streaming())
    @rule(pick=PICK)
    def stops_short(self, pick):
        """The upstream ends its body as HTTP says, and has not said that the answer is whole."""
        ask = self._any(self._streaming(), pick)
        ask.torn = True
        ask.say(ask.wire.end)
        self.run(None)

    @precondition(lambda self: self._streaming())
    @rule(pick=PICK)
    def complains(self, pick):
        """The upstream says in its stream that it failed."""
        ask = self._any(self._streaming(), pick)
        ask.erred = True
        ask.say(ask.wire.chunk, b'data: {"error": {"message": "broken", "code": "broken"}}\n\n')
        self.run(None)

    @precondition(lambda self: self._answerable())
    @rule(pick=PICK, rudely=st.booleans())
    def cuts(self, pick, rudely):
        """The upstream hangs up."""
        ask = self._any(self._answerable(), pick)
        (ask.wire.reset if rudely else ask.wire.close)()
        self.run(None)

    # --- the way, and time

    @precondition(lambda self: self.world.proxy.alive and self.world.begun)
    @rule(for_long=st.sampled_from([False, False, True]))
    def dies(self, for_long):
        """The proxy is killed; mostly somebody starts it again."""
        self.world.proxy.die()
        self.run(None)
        if not for_long:
            self.run(self.world.proxy.revive())

    @precondition(lambda self: not self.world.proxy.alive)
    @rule()
    def revives(self):
        """The proxy is there again."""
        self.run(self.world.proxy.revive())

    @rule(seconds=st.sampled_from([0.05, 0.5, 0.5, 3, 3, 12, 25, 70]))
    def waits(self, seconds):
        """Time passes."""
        self.run(self.world.passes(seconds))

    # --- what is true

    @invariant()
    def holds(self):
        """After every step."""
        if self.world is None:
            return
        try:
            self.world.check()
        except BaseException:
            self.failed = True
            raise

    def teardown(self):
        """In the end; after a failure only tidy."""
        try:
            if self.world is not None:
                self.loop.run_until_complete(self._end(self.world))
        finally:
            self.loop.close()
            self.quick.stop()
        if self.world is not None and not self.failed:
            assert descriptors() == self.before, "a descriptor is left"

    async def _end(self, world):
        try:
            if not self.failed:
                await world.close()
        except BaseException:
            self.failed = True
            raise
        finally:
            await world.shut()

    # --- who there is

    def _any(self, found, pick):
        return found[pick % len(found)]

    def _head(self, ask):
        ask.headed, ask.framed = True, ask.door != "plain"
        kind = "text/event-stream" if ask.framed else "application/json"
        ask.say(ask.wire.head, OK, ("Content-Type", kind))
        if not ask.framed:
            self._say(ask, '{"said": "')

    def _say(self, ask, *texts):
        ask.sent += "".join(texts)
        frames = [chat_frame({"content": t}) if ask.framed else t.encode() for t in texts]
        ask.say(ask.wire.chunk, b"".join(frames))

    def _answerable(self):
        return [ask for ask in self.world.begun if ask.answerable]

    def _asked(self):
        return [ask for ask in self._answerable() if not ask.headed]

    def _headed(self):
        """Those whose answer is under way and has not said its end."""
        return [
            ask
            for ask in self._answerable()
            if ask.headed and ask.status == OK and not (ask.finished or ask.erred or ask.torn)
        ]

    def _streaming(self):
        return [ask for ask in self._headed() if ask.framed]

    def _followed(self):
        """Clients that are in the middle of a stream, and could come back to it."""
        return [
            v for v in self.world.visits if not (v.left or v.ended) and v.heard.last and v.ask.keep
        ]

    def _gone(self):
        """Clients whose connection is over, and who know where they stopped."""
        return [v for v in self.world.visits if (v.left or v.ended) and v.heard.last]


Machine.TestCase.settings = examples(15, stateful_step_count=STEPS, phases=PHASES)


class TestWhateverTheyDo(Machine.TestCase):
    """Any order of events: one outcome a stream, no text lost or doubled, no false end, no leak."""
