"""The command line: serve | check."""

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial

from service import __version__
from service.settings import SettingsError, load, redacted


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


def _serve(args: argparse.Namespace) -> int:
    options = {"server.host": args.host, "server.port": args.port}
    again = partial(load, options, config=args.config)
    settings = again()
    from service.server import run  # noqa: PLC0415  `check` has no need of a server

    return run(settings, again)


def _check(args: argparse.Namespace) -> int:
    print(redacted(load(config=args.config)), flush=True)  # noqa: T201  to the user
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="teleprinter",
        description="Relays a language model's token stream through an HTTP or SOCKS proxy,"
        " as server-sent events.",
    )
    parser.add_argument("--version", action="version", version=f"teleprinter {__version__}")
    parser.set_defaults(command=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    serve = commands.add_parser("serve", help="run the service")
    serve.add_argument("--host", help="the address to listen on, default 127.0.0.1")
    serve.add_argument("--port", help="the port to listen on, 0 for any, default 8080")
    serve.set_defaults(command=_serve)
    check = commands.add_parser(
        "check", help="validate the settings and print them, secrets hidden"
    )
    check.set_defaults(command=_check)
    for command in (serve, check):
        where = "default ./teleprinter.toml, else /etc/teleprinter/teleprinter.toml"
        command.add_argument("--config", metavar="FILE", help=f"the settings file, {where}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
