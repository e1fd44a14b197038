"""The command as process 1 of a container that has no init."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from supervised import wait_for

UNSHARE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
IMPORTING = """
    import os, signal, time

    signal.signal(signal.SIGHUP, lambda *_: os.write(1, b"hangup\\n"))
    print("importing", flush=True)
    time.sleep(600)
"""
CHILDREN = """
    import os, subprocess, sys, time
    from pathlib import Path

    assert subprocess.run(["sh", "-c", "exit 7"]).returncode == 7
    shell = subprocess.run(["sh", "-c", "sleep 0.1 >&2 & echo $!"], stdout=subprocess.PIPE)
    orphan = Path(f"/proc/{int(shell.stdout)}")
    deadline = time.monotonic() + 20
    while orphan.exists():
        assert time.monotonic() < deadline, (orphan / "status").read_text()
        time.sleep(0.01)
    print("importing", flush=True)
    os._exit(5)
"""

pytestmark = [
    pytest.mark.any_line,
    pytest.mark.skipif(
        sys.platform != "linux"
        or subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode != 0,
        reason="no process may be made number 1 here",
    ),
]
Start = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start the command as process 1, with a LiteLLM whose import does what is given."""
    started: list[subprocess.Popen[str]] = []

    def run(litellm: str) -> subprocess.Popen[str]:
        (tmp_path / "litellm.py").write_text(textwrap.dedent(litellm))
        path = os.pathsep.join([str(tmp_path), *sys.path])
        process = subprocess.Popen(
            [*UNSHARE, sys.executable, "-m", "litellm_resilience", "--port", "4000"],
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def process_one(unshare: subprocess.Popen[str]) -> int:
    """Return what the first process in there is called outside."""
    return int(Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children").read_text())


def test_a_signal_while_litellm_is_imported_ends_it(start: Start) -> None:
    process = start(IMPORTING)
    os.kill(process_one(process), signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM


def test_a_signal_reaches_the_command(start: Start) -> None:
    process = start(IMPORTING)
    os.kill(process_one(process), signal.SIGHUP)
    assert process.stdout is not None
    assert process.stdout.readline() == "hangup\n"
    assert process.poll() is None


def test_orphans_are_reaped_and_no_status_is_taken_from_anybody(start: Start) -> None:
    assert start(CHILDREN).wait(20) == 5


def test_a_command_that_is_killed_takes_all_with_it(start: Start) -> None:
    process = start(IMPORTING)
    first = process_one(process)
    (command,) = Path(f"/proc/{first}/task/{first}/children").read_text().split()
    os.kill(int(command), signal.SIGKILL)
    assert process.wait(20) == 128 + signal.SIGKILL
    wait_for(lambda: not Path(f"/proc/{first}").exists(), "end of process 1")
