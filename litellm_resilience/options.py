"""The options this package adds to LiteLLM's command."""

from __future__ import annotations

import click

SECTION = "Resilience options"
JITTER = "max_requests_jitter"


def both_spellings(name: str) -> list[str]:
    """Return an option's spelling with underscores, as LiteLLM's, and with hyphens."""
    return [f"--{name}", f"--{name.replace('_', '-')}"]


def serving_options() -> list[click.Option]:
    """Return the options that change how the proxy is served."""
    return [
        click.Option(
            both_spellings(JITTER),
            type=click.IntRange(min=0),
            envvar=JITTER.upper(),
            show_envvar=True,
            help=(
                "Let each worker serve up to this many requests more than "
                "--max_requests_before_restart, drawn at random in each worker, so that workers "
                "do not restart together. Has no effect without --max_requests_before_restart."
            ),
        ),
    ]


def inspection_options() -> list[click.Option]:
    """Return the options that tell something and serve nothing."""
    return [
        click.Option(
            ["--doctor"],
            is_flag=True,
            help=(
                "Say what becomes of each patch on this machine, and exit: 0 if all is well, "
                "1 if a patch that should apply cannot."
            ),
        ),
        click.Option(["--json", "as_json"], is_flag=True, help="With --doctor: print JSON."),
    ]


def version_option() -> click.Option:
    """Return `--version`, which takes the place of LiteLLM's own."""
    return click.Option(
        ["--version", "-v"],
        is_flag=True,
        help="Print the versions of litellm-resilience, LiteLLM and uvicorn.",
    )
