"""``python -m benchmarks``: see ``--help`` for its subcommands."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from benchmarks import attach, plan, recycle, request, throughput

if TYPE_CHECKING:
    from collections.abc import Sequence


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Compare litellm-resilience with the plain LiteLLM that is installed. Both "
        "sides are measured in turns within one run, because absolute figures of a busy machine "
        "mean little: look at the ratios.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    modules = (attach, plan, recycle, request, throughput)
    for name, module in ((each.__name__.rpartition(".")[2], each) for each in modules):
        command = commands.add_parser(
            name,
            description=module.__doc__,
            help=(module.__doc__ or "").partition("\n")[0],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
        command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one benchmark and print its result.

    Args:
        argv: command-line arguments; None for those of the process.

    Returns:
        0, whether or not the goals were met; 1 if something could not be measured as intended.

    Raises:
        SystemExit: with status 2 for bad arguments.
    """
    args = _parser().parse_args(argv)
    result = args.run(args)
    print(result.as_json() if args.json else result.as_markdown())
    return 1 if result.problems else 0


if __name__ == "__main__":
    sys.exit(main())
