"""A forked worker runs the exit hooks that its imports would have registered, once, in time."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from litellm_resilience.supervisor import exit_hooks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")

HOOKED_MODULE = """
    import atexit, os, shutil, tempfile
    from pathlib import Path
    DIRECTORY = Path(tempfile.mkdtemp(dir="."))
    atexit.register(shutil.rmtree, DIRECTORY)
    def note(): open("ran", "a").write(f"{os.getpid()}\\n")
    atexit.register(note)
"""

PROGRAM = """
    import atexit, multiprocessing, os, sys, threading, time
    from multiprocessing import Process
    from litellm_resilience.supervisor import exit_hooks
    from litellm_resilience.supervisor.launch import Forking

    exit_hooks.watch()
    import hooked

    class FromHere(Forking):
        def start(self, task):
            with exit_hooks.kept_through_fork():
                return self.start_beside(work, [task], [])

    def work(task):
        with exit_hooks.worker_hooks(limit=LIMIT):
            task()

    LIMIT = 60
    helper = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
    helper.start()
    atexit.register(helper.terminate)
    atexit.register(print, "the command's")
"""


def run(tmp_path: Path, body: str) -> subprocess.CompletedProcess[str]:
    """Run the body in a command that has registered hooks of all kinds."""
    (tmp_path / "hooked.py").write_text(textwrap.dedent(HOOKED_MODULE))
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM) + textwrap.dedent(body)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env={"PYTHONPATH": f"{Path(exit_hooks.__file__).parents[2]}:{tmp_path}"},
        check=False,
    )


def test_hooks_of_imports_run_once_in_each_worker_and_the_parents_do_not(tmp_path: Path) -> None:
    ended = run(
        tmp_path,
        """
        workers = [FromHere(print).start(lambda: None) for _ in range(2)]
        for worker in workers:
            worker.join()
        ran = open("ran").read().split()
        assert sorted(ran) == sorted(str(worker.pid) for worker in workers), ran
        assert helper.is_alive()
        assert hooked.DIRECTORY.is_dir()
        assert [worker.exitcode for worker in workers] == [0, 0]
        print("as it should be")
        """,
    )
    assert ended.stdout.split("\n") == ["as it should be", "the command's", ""], ended.stderr


def test_hooks_run_after_an_exit_with_a_status_and_after_the_threads_have_ended(
    tmp_path: Path,
) -> None:
    ended = run(
        tmp_path,
        """
        def task():
            atexit.register(lambda: open("order", "a").write("hook "))
            end = threading.Event()
            def last():
                end.wait()
                open("order", "a").write("thread ")
            threading.Thread(target=last).start()
            threading.Timer(0.01, end.set).start()
            sys.exit(3)
        worker = FromHere(print).start(task)
        worker.join()
        assert open("order").read().split() == ["thread", "hook"]
        assert worker.exitcode == 3, worker.exitcode
        print("as it should be")
        """,
    )
    assert "as it should be" in ended.stdout, ended.stderr


@pytest.mark.parametrize("status", [0, 3])
def test_a_hook_that_hangs_does_not_hold_the_worker_nor_change_its_status(
    tmp_path: Path, status: int
) -> None:
    ended = run(
        tmp_path,
        f"""
        LIMIT = 0.2
        def task():
            atexit.register(threading.Event().wait)
            sys.exit({status})
        worker = FromHere(print).start(task)
        worker.join()
        assert worker.exitcode == {status}, worker.exitcode
        print("as it should be")
        """,
    )
    assert "as it should be" in ended.stdout, ended.stderr
    assert "did not end within 0.2 s" in ended.stderr
    assert "most recent call first" in ended.stderr


def test_multiprocessing_clears_hooks_again_after_the_fork() -> None:
    """What is not a worker keeps no hooks where Python clears them."""
    clear = exit_hooks._atexit._clear
    with exit_hooks.kept_through_fork():
        assert exit_hooks._atexit._clear is not clear
    assert exit_hooks._atexit._clear is clear
