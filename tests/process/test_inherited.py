"""Whatever differs between two spawned workers differs between two forked ones."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from litellm_resilience.demo.provider import ProviderThread

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")

DRAWN = """
    import atexit, os, uuid

    PREFIXED = f"pod-{uuid.uuid4().hex}"
    LISTED = [PREFIXED, {"inner": str(uuid.uuid4())}]
    WRITTEN_DOWN = "9d1c250a-e61b-44d9-88ed-5944d1962f5e"

    class Singleton:
        of_class = str(uuid.uuid4())
        def __init__(self, name=str(uuid.uuid4())):
            self.again = PREFIXED
    SINGLETON = Singleton()

    def note():
        with open(os.environ["RAN"], "a") as ran:
            ran.write(f"{os.getpid()}\\n")
    atexit.register(note)
"""

SPAWNED = """
    import json, sys
    from litellm_resilience.servers import application
    from litellm_resilience.servers.warmup import warm_up
    import drawn_at_import
    warm_up(application.create_app(), 2)
    from tests.process.worker_report import Drawn
    report = Drawn(("127.0.0.1", int(sys.argv[1]))).report()
    print("REPORT", json.dumps(report))
"""

FORKED = """
    import atexit, json, os, sys
    from litellm_resilience.servers import inheritance
    from litellm_resilience.supervisor import exit_hooks
    from litellm_resilience.supervisor.launch import Forking
    from litellm_resilience.supervisor.preload import share_memory

    exit_hooks.watch()
    inheritance.watch()
    import drawn_at_import
    from litellm_resilience.servers.host import LiteLLMHost
    from tests.process.worker_report import Drawn

    class Later:
        pass

    host = LiteLLMHost()
    drawn = Later()
    prepare = inheritance.prepare
    def prepare_late(log):
        drawn.by_command = Drawn(("127.0.0.1", int(sys.argv[1])))
        prepare(log)
    inheritance.prepare = prepare_late
    assert host.preload(2) is None
    share_memory()

    def work(slot):
        with exit_hooks.worker_hooks():
            host.own(slot)
            sys.stdout.write(f"REPORT {json.dumps(drawn.by_command.report())}\\n")

    before = drawn.by_command.report()
    for slot in range(2):
        with exit_hooks.kept_through_fork():
            worker = Forking(host.own).start_beside(work, [slot], [])
        worker.join()
        assert worker.exitcode == 0
    sys.stdout.flush()
    sys.stdout.write(f"TEMPLATE {json.dumps([before, drawn.by_command.report()])}\\n")
    sys.stdout.flush()
    os._exit(0)
"""


def start(folder: Path, program: str, port: int) -> subprocess.Popen[str]:
    """Start a process that prints what its workers have."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "PYTHONPATH": f"{Path(__file__).parents[2]}:{folder}",
            "RAN": str(folder / "ran"),
        },
    )


def reports(process: subprocess.Popen[str], mark: str = "REPORT ") -> tuple[list[Any], str]:
    """Return what it has printed, decoded, and all of it as text."""
    output, _ = process.communicate(timeout=240)
    lines = [line.partition(mark) for line in output.splitlines()]
    return [json.loads(rest) for _, found, rest in lines if found], output


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what two spawned and two forked workers have found in themselves."""
    folder = tmp_path_factory.mktemp("inheritance")
    (folder / "drawn_at_import.py").write_text(textwrap.dedent(DRAWN))
    with ProviderThread() as provider:
        port = int(provider.base_url.rpartition(":")[2].partition("/")[0])
        processes = [start(folder, program, port) for program in (SPAWNED, SPAWNED, FORKED)]
        printed = [reports(process) for process in processes]
    output = "\n".join(text[-3000:] for _, text in printed)
    assert [len(decoded) for decoded, _ in printed] == [1, 1, 2], output
    template = json.loads(printed[2][1].partition("TEMPLATE ")[2].splitlines()[0])
    return {
        "spawned": [*printed[0][0], *printed[1][0]],
        "forked": printed[2][0],
        "template": template,
        "ran": (folder / "ran").read_text().split(),
    }


def differing(workers: list[dict[str, Any]]) -> dict[str, tuple[str, str]]:
    """Return where both have a text, and not the same."""
    first, second = (worker["texts"] for worker in workers)
    return {
        path: (first[path], second[path])
        for path in first.keys() & second.keys()
        if without_addresses(first[path]) != without_addresses(second[path])
    }


def without_addresses(text: str) -> str:
    """Leave out where objects lie, as pydantic writes it: an address is no identity."""
    return re.sub(r"\d{10,}|0x[0-9a-f]{6,}", "", text)


def test_identities_that_differ_when_spawned_differ_when_forked(found: dict[str, Any]) -> None:
    spawned, forked = differing(found["spawned"]), differing(found["forked"])
    assert any(path.endswith("pod_id") for path in spawned)
    assert {path for path in spawned if path.startswith("drawn_at_import")} == {
        "drawn_at_import.PREFIXED",
        "drawn_at_import.LISTED.0",
        "drawn_at_import.LISTED.1.inner",
        "drawn_at_import.Singleton.of_class",
        "drawn_at_import.Singleton.__init__.0",
        "drawn_at_import.SINGLETON.again",
    }
    shared = {
        path: texts
        for path, texts in spawned.items()
        if path not in forked and all(path in worker["texts"] for worker in found["forked"])
    }
    assert not shared


def test_nothing_else_differs_when_forked(found: dict[str, Any]) -> None:
    """What all spawned workers agree on, such as an identity written in a file, is left alone."""
    spawned, forked = differing(found["spawned"]), differing(found["forked"])
    agreed = found["spawned"][0]["texts"].keys() - spawned.keys()
    assert "drawn_at_import.WRITTEN_DOWN" in agreed
    assert not agreed & forked.keys()


def test_the_same_identity_in_two_places_stays_the_same(found: dict[str, Any]) -> None:
    for worker in found["forked"]:
        texts = worker["texts"]
        assert (
            texts["drawn_at_import.PREFIXED"]
            == texts["drawn_at_import.LISTED.0"]
            == texts["drawn_at_import.SINGLETON.again"]
        )


def test_generators_without_a_seed_differ_and_those_with_one_do_not(found: dict[str, Any]) -> None:
    for kind in ("spawned", "forked"):
        first, second = (worker["numbers"] for worker in found[kind])
        assert [one == two for one, two in zip(first, second, strict=True)] == [False, True] * (
            len(first) // 2
        )
    common = [set(a["others"]) & set(b["others"]) for a, b in (found["spawned"], found["forked"])]
    assert len(common[1]) <= len(common[0])


def test_no_worker_uses_a_connection_of_another(found: dict[str, Any]) -> None:
    before, after = found["template"]
    assert before["connections"] == after["connections"], "the parent's own is not disturbed"
    kept = set(before["connections"])
    assert kept
    connections = [set(worker["connections"]) for worker in found["forked"]]
    assert all(connections)
    assert not connections[0] & connections[1]
    assert not kept & (connections[0] | connections[1])
    assert [worker["inherited connections"] for worker in found["forked"]] == [[], []]


def test_each_worker_runs_the_hooks_of_its_imports_once(found: dict[str, Any]) -> None:
    assert len(found["ran"]) == len(set(found["ran"])) == 4
