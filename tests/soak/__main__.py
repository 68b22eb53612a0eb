"""`make soak`: an hour of streams, a line a minute, the ledger, and 1 if a rule is broken."""

import argparse
import asyncio
import sys

from soak.loop import run
from soak.run import MINUTE, Soak, say


def main(arguments: list[str] | None = None) -> int:
    """Run as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, help="how long (60)")
    parser.add_argument("--clients", type=int, default=500, help="at a time (500)")
    parser.add_argument("--seed", type=int, default=9, help="of what happens when (9)")
    given = parser.parse_args(arguments)
    soak = Soak(given.clients, given.minutes * MINUTE, given.seed)
    try:
        broken = run(soak.run())
    except (KeyboardInterrupt, asyncio.CancelledError):
        say("it was stopped")
        return 1
    for rule in broken:
        say(f"BROKEN  {rule}")
    times = soak.ledger.faults.total()
    say(f"{times} times a rule was broken" if times else "every rule holds")
    return 1 if times else 0


if __name__ == "__main__":
    sys.exit(main())
