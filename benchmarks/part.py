"""One part of the evidence, measured by a process of the LiteLLM line's own interpreter.

``python -m benchmarks.part NAME`` calls `part` of the module of that name: keyword arguments are
read as JSON from standard input, what it returns is written as JSON to standard output.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from benchmarks.commands import checkout_environment
from benchmarks.setups import ROOT

if TYPE_CHECKING:
    from pathlib import Path

END_SECONDS = 60.0
"""So long an interrupted part may take to end what it has started."""


def measured(python: str | Path, name: str, **arguments: Any) -> Any:
    """Measure a part.

    Args:
        python: the interpreter.
        name: of the module.
        arguments: JSON values.

    Raises:
        RuntimeError: it could not be measured; the process has said why.
    """
    command = [str(python), "-m", "benchmarks.part", name]
    env = {**os.environ, **checkout_environment()}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=env
    ) as process:
        try:
            output, _ = process.communicate(json.dumps(arguments))
        except BaseException:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_SECONDS)
            process.kill()
            raise
    if process.returncode:
        raise RuntimeError(f"it ended with status {process.returncode}")
    return json.loads(output)


def end_with_what_is_started() -> None:
    """Let SIGTERM end this process as Ctrl-C does: with all that it has started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


if __name__ == "__main__":
    end_with_what_is_started()
    part = importlib.import_module(f"benchmarks.{sys.argv[1]}").part
    # What LiteLLM prints while it starts must not mix with the result.
    with contextlib.redirect_stdout(sys.stderr):
        found = part(**json.load(sys.stdin))
    print(json.dumps(found))
