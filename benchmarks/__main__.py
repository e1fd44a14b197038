"""``python -m benchmarks``: see ``--help`` for its subcommands."""

from __future__ import annotations

import argparse
import signal
import sys
from typing import TYPE_CHECKING, Protocol

from benchmarks import (
    attach,
    evidence,
    long,
    plan,
    readme,
    recycle,
    request,
    session,
    throughput,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

PARTS = (attach, long, plan, readme, recycle, request, session, throughput)


class Outcome(Protocol):
    """What a benchmark has found."""

    problems: Sequence[str]

    def as_json(self) -> str:
        """All of it as JSON text."""

    def as_markdown(self) -> str:
        """A Markdown section."""


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"{evidence.__doc__}\nAbsolute figures of a busy machine mean little: both "
        "sides are\nmeasured in turns within one run, look at the ratios.\n",
        epilog="Parts of it, and more, are subcommands: "
        f"{', '.join(map(_name, PARTS))}.\nSee python -m benchmarks SUBCOMMAND --help.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parts = {_name(part): part for part in PARTS}
    if argv and argv[0] in parts:
        part = parts[argv[0]]
        commands = parser.add_subparsers(dest="command", required=True)
        chosen = commands.add_parser(
            argv[0],
            description=part.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    else:
        part, chosen = evidence, parser
    part.add_arguments(chosen)
    chosen.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    chosen.set_defaults(run=part.run)
    return parser


def _name(module: object) -> str:
    return str(getattr(module, "__name__", "")).rpartition(".")[2]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one benchmark, or all that the README shows, and print the result.

    Args:
        argv: command-line arguments; None for those of the process.

    Returns:
        0, whether or not the goals were met; 1 if something could not be measured as intended.

    Raises:
        SystemExit: with status 2 for bad arguments.
    """
    argv = sys.argv[1:] if argv is None else argv
    args = _parser(argv).parse_args(argv)
    result: Outcome = args.run(args)
    print(result.as_json() if args.json else result.as_markdown())
    return 1 if result.problems else 0


def _end(signum: int, _frame: object) -> None:
    sys.exit(128 + signum)


if __name__ == "__main__":
    # Whatever ends it, it ends what it has started.
    signal.signal(signal.SIGTERM, _end)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
