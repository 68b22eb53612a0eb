"""The command line: serve | check | doctor."""

import argparse
import gc
import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from service import __version__
from service.settings import SettingsError, load, redacted

_LONGEST: Final = 86400
_CYCLES: Final = (10_000, 2, 2)
"""When Python looks for cycles: among new objects after so many, not 700 or 2000, as it does that
time and again while fifty requests are answered and finds none, a tenth of what they cost; among
all about as often as it would by itself, or streams that have ended stay in memory."""
_INTERRUPTED: Final = 130  # 128 + SIGINT, as a shell says it


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status, 2 for settings that cannot be used."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        return int(args.command(args))
    except SettingsError as error:
        for line in str(error).splitlines():
            print(f"teleprinter: {line}", file=sys.stderr)  # noqa: T201  to the user
        return 2
    except BrokenPipeError:  # `teleprinter check | head`: who reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:  # serve handles the signal itself
        return _INTERRUPTED


def _serve(args: argparse.Namespace) -> int:
    options = {"server.host": args.host, "server.port": args.port}
    gc.set_threshold(*_CYCLES)
    again = partial(load, options, config=args.config)
    settings = again()
    from service.server import run  # noqa: PLC0415  `check` has no need of a server

    return run(settings, again)


def _check(args: argparse.Namespace) -> int:
    print(redacted(load(config=args.config)), flush=True)  # noqa: T201  to the user
    return 0


def _doctor(args: argparse.Namespace) -> int:
    settings = load(config=args.config)
    from service.doctor import command, examination, shown  # noqa: PLC0415  as above

    wishes = examination.Wishes(args.stream, args.model, args.idle)
    report = shown.shown(sys.stdout, json=args.json)
    return command.run(settings, args.upstream, wishes, report)


class _NoCompletion(argparse.Action):
    """What --print-completion does where the extra is not installed."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Say what it needs; exit with 2."""
        parser.error("--print-completion needs shtab: pip install 'teleprinter[doctor]'")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="teleprinter",
        description="Relays a language model's token stream through an HTTP or SOCKS proxy,"
        " as server-sent events.",
        epilog="Settings, first wins: command line, environment (TELEPRINTER_UPSTREAM_URL, _KEY,"
        " _PROXY, ...), .env, $CREDENTIALS_DIRECTORY, the settings file. `teleprinter serve` shows"
        " a demo without any; `teleprinter doctor` says why no answer comes;"
        " `teleprinter COMMAND --help` tells more.",
    )
    parser.add_argument("--version", action="version", version=f"teleprinter {__version__}")
    files = _add_completion(parser)
    parser.set_defaults(command=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    adders = (_add_serve, _add_check, _add_doctor)
    for command in [add(commands) for add in adders]:
        where = "default ./teleprinter.toml, else /etc/teleprinter/teleprinter.toml"
        config: Any = command.add_argument(
            "--config", metavar="FILE", help=f"the settings file, {where}"
        )
        config.complete = files
    return parser


def _add_completion(parser: argparse.ArgumentParser) -> Any:
    """Add --print-completion; return what completes the names of files."""
    what, shells = "print the completion of that shell, to be sourced", "SHELL"
    try:
        import shtab  # noqa: PLC0415  an extra
    except ImportError:
        parser.add_argument("--print-completion", action=_NoCompletion, metavar=shells, help=what)
        return None
    shtab.add_argument_to(parser, help=what)
    return shtab.FILE


Commands = Any
"""argparse's, which has no public name."""


def _add_serve(commands: Commands) -> argparse.ArgumentParser:
    text = "run the service"
    serve: argparse.ArgumentParser = commands.add_parser(
        "serve",
        help=text,
        description=f"{text.capitalize()}. With no upstream configured a built-in demo answers.",
        epilog="Ctrl-C and SIGTERM drain, twice ends at once; SIGHUP reads the settings again."
        " Exit: 0 stopped, 1 cannot listen, 2 bad settings.",
    )
    serve.add_argument("--host", help="the address to listen on, default 127.0.0.1")
    serve.add_argument("--port", help="the port to listen on, 0 for any, default 8080")
    serve.set_defaults(command=_serve)
    return serve


def _add_check(commands: Commands) -> argparse.ArgumentParser:
    text = "validate the settings and print them, secrets hidden"
    check: argparse.ArgumentParser = commands.add_parser(
        "check", help=text, description=f"{text.capitalize()}.", epilog="Exit: 0 good, 2 bad."
    )
    check.set_defaults(command=_check)
    return check


def _add_doctor(commands: Commands) -> argparse.ArgumentParser:
    text = "try the ways to the upstreams, step by step"
    doctor: argparse.ArgumentParser = commands.add_parser(
        "doctor",
        help=text,
        description=f"{text.capitalize()}: DNS, proxy, TLS, key, and what to do about what fails.",
        epilog="Exit: 0 all ways work, 1 some, 2 none (or bad settings), 130 Ctrl-C. JSON: exit,"
        " works, demo, remarks, ways[upstream, url, way, works,"
        " steps[step, result, seconds, said, cure], stream]; result is ok, warning or failed.",
    )
    doctor.add_argument(
        "--upstream", metavar="NAME", action="append", default=[], help="only this one; repeatable"
    )
    doctor.add_argument(
        "--stream", action="store_true", help="ask for one small answer too: do tokens stream?"
    )
    doctor.add_argument("--model", metavar="NAME", default="", help="the model for it")
    doctor.add_argument(
        "--idle",
        metavar="SECONDS",
        type=_seconds,
        default=0.0,
        help="hold a silent line so long: is it cut?",
    )
    doctor.add_argument("--json", action="store_true", help="one JSON object, for scripts")
    doctor.set_defaults(command=_doctor)
    return doctor


def _seconds(text: str) -> float:
    """Read a number of seconds, as argparse wants it."""
    seconds = float(text)
    if not 0 <= seconds <= _LONGEST:
        raise ValueError
    return seconds


_seconds.__name__ = "number of seconds"  # in argparse's message


if __name__ == "__main__":
    sys.exit(main())
