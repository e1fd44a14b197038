"""What an operator may tell a running supervisor: a table of commands.

A command is added as a row of `COMMANDS`. The command line and the supervisor's socket both read
the table: one to check what is typed, the other to do it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from litellm_resilience.supervisor.journal import counted
from litellm_resilience.supervisor.takeover import UpgradeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from litellm_resilience.supervisor.journal import Journal
    from litellm_resilience.supervisor.loop import Supervisor

WHOLE_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


class RefusedError(Exception):
    """The supervisor does not do that, and why."""


@dataclass(frozen=True)
class Done:
    """What a command has done.

    Args:
        what: in words.
        details: the same as data, ready for JSON.
    """

    what: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Argument:
    """The argument of a command.

    Args:
        name: what it is called in messages.
        convert: makes it of the text; raises ValueError, with the reason, if it is bad.
        optional: whether it may be missing; the command is given None then.
    """

    name: str
    convert: Callable[[str], Any]
    optional: bool = False


@dataclass(frozen=True)
class Command:
    """One command.

    Args:
        means: what it does, for `--help`.
        do: does it, without waiting: is given the supervisor, the argument or None, and the
            supervisor's time; raises `RefusedError` if it does not.
        argument: what it takes; None for nothing.
        while_ending: whether it makes sense once the supervisor ends.
    """

    means: str
    do: Callable[[Supervisor, Any, float], Done]
    argument: Argument | None = None
    while_ending: bool = False


def parse(words: Sequence[str]) -> tuple[str, Any]:
    """Return a command's name and its argument.

    Args:
        words: the name, and what follows it.

    Raises:
        ValueError: there is no such command, or it is not called like that.
    """
    name, *given = words
    if name not in COMMANDS:
        raise ValueError(f"there is no command {name!r}, only {', '.join(COMMANDS)}")
    argument = COMMANDS[name].argument
    if argument is None:
        if given:
            raise ValueError(f"{name} takes no argument")
        return name, None
    if not given and argument.optional:
        return name, None
    if len(given) != 1:
        raise ValueError(f"{name} takes one argument, {argument.name}")
    return name, argument.convert(given[0])


def perform(
    supervisor: Supervisor, journal: Journal, words: Sequence[str], now: float
) -> dict[str, Any]:
    """Do what somebody has asked for; return the answer.

    Args:
        supervisor: what it is done to.
        journal: told what was done.
        words: the command's name and its argument, unchecked.
        now: seconds of the supervisor's clock.
    """
    try:
        name, argument = parse(words)
        if supervisor.ending and not COMMANDS[name].while_ending:
            return {"refused": f"it is {supervisor.ending} already"}
        done = COMMANDS[name].do(supervisor, argument, now)
    except (RefusedError, ValueError) as error:
        return {"refused": str(error)}
    journal.asked(f"Command {name}: {done.what}")
    return {"command": name, "done": done.what, **done.details}


def _roll(supervisor: Supervisor, _: None, now: float) -> Done:
    numbers = supervisor.reload("started before the roll", now)
    return Done(f"replacing all workers: {_listed(numbers)}", {"workers": numbers})


def _recycle(supervisor: Supervisor, number: int, now: float) -> Done:
    name = supervisor.recycle(number, "was chosen by --ctl recycle", now)
    if name is None:
        raise RefusedError(f"there is no worker {number} that serves or starts")
    return Done(f"replacing {name}", {"workers": [number]})


def _workers(supervisor: Supervisor, number: int, now: float) -> Done:
    del now
    if number > supervisor.most_workers:
        raise RefusedError(f"there is room for {supervisor.most_workers} workers only")
    supervisor.set_target(number)
    return Done(f"{counted(number)} from now on", {"target": number})


def _drain(supervisor: Supervisor, _: None, now: float) -> Done:
    seconds = supervisor.drain(now)
    return Done(f"draining, ending within {seconds:g} s", {"seconds": seconds})


def _stop(supervisor: Supervisor, _: None, now: float) -> Done:
    seconds = supervisor.stop(now)
    return Done(f"stopping, ending within {seconds:g} s", {"seconds": seconds})


def _upgrade(supervisor: Supervisor, program: Path | None, now: float) -> Done:
    del now
    try:
        return Done(supervisor.upgrade(program))
    except UpgradeError as error:
        raise RefusedError(str(error)) from error


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) or "there are none"


def _absolute(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute():
        raise ValueError(f"{text!r} is not an absolute path")
    return path


def _whole(text: str) -> int:
    if not WHOLE_NUMBER.fullmatch(text):
        raise ValueError(f"{text!r} is not a whole number above 0")
    return int(text)


COMMANDS = {
    "roll": Command("replace all workers", _roll),
    "recycle": Command("replace worker N", _recycle, Argument("N", _whole)),
    "workers": Command("keep N workers", _workers, Argument("N", _whole)),
    "upgrade": Command(
        "start what is installed now, or in PATH, which takes over when its workers serve",
        _upgrade,
        Argument("PATH", _absolute, optional=True),
    ),
    "drain": Command("accept nothing new, end when everything is answered", _drain),
    "stop": Command("end as at a SIGTERM", _stop, while_ending=True),
}
