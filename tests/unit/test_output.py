"""What cannot be written is lost, and nothing fails."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PROGRAM = textwrap.dedent(
    """
    import logging, os, sys
    from litellm_resilience.supervisor.output import lossy_output

    with lossy_output():
        for _ in range(2000):
            print("to stdout")
            print("to stderr", file=sys.stderr)
        sys.stdout.flush()
        sys.stdout.buffer.write(b"bytes")
        sys.stdout.flush()
        assert (sys.stdout.fileno(), sys.stderr.fileno()) == (1, 2)
        assert sys.stdout.encoding.lower() == "utf-8"
    os._exit(7)
    """
)


def run(*options: str, stdout: int, stderr: int) -> int:
    command = [sys.executable, *options, "-c", PROGRAM]
    return subprocess.run(command, stdout=stdout, stderr=stderr, check=False, timeout=60).returncode


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("options", [(), ("-u",)])
def test_a_full_disk_fails_no_print(options: tuple[str, ...]) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        assert run(*options, stdout=full, stderr=full) == 7
    finally:
        os.close(full)


@pytest.mark.parametrize("options", [(), ("-u",)])
def test_a_reader_that_has_gone_fails_no_print(options: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert run(*options, stdout=writer, stderr=writer) == 7
    finally:
        os.close(writer)


@pytest.mark.parametrize("options", [(), ("-u",)])
def test_what_can_be_written_is_written(options: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as log:
        assert run(*options, stdout=log.fileno(), stderr=subprocess.DEVNULL) == 7
    assert path.read_bytes() == b"to stdout\n" * 2000 + b"bytes"


def test_streams_are_as_before_afterwards(capsys: pytest.CaptureFixture[str]) -> None:
    from litellm_resilience.supervisor.output import lossy_output

    before = sys.stdout, sys.stderr
    with lossy_output():
        sys.stdout.write("captured\n")
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr().out == "captured\n"
