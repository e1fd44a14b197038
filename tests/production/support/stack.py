"""A supervised proxy in a stack as people run it, and what its processes leave behind."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Mapping, Sized
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from bed import (
    RESILIENT,
    KeepAliveClient,
    LoadReport,
    MarkedLog,
    ProviderThread,
    ProxyProcess,
    RequestRecord,
    Started,
    UnavailableError,
    ask,
    chat,
    default_config,
    run_load,
    settled,
)

from tests.support import engine
from tests.support.postgres import Database

T = TypeVar("T")

LITELLM = tuple(map(int, version("litellm").split(".")))
OPERATOR = Path(__file__).parents[1] / "operator"
READY_SECONDS = 150.0
DEADLINE = 90.0
VANISH_SECONDS = 20.0
BEFORE_UPGRADE, AFTER_UPGRADE = 100, 400
"""How many replies come before it begins, and after the new proxy has taken over."""
MODEL = "demo-openai"
CHAT = "/v1/chat/completions"
READY = re.compile(r"[Ww]orker \d+ \(pid (\d+)\) ready after ([\d.]+) s")
STARTED = re.compile(r"(?:[Ww]orker \d+ \(pid |Booting worker with pid: )(\d+)")
StartStack = Callable[..., "Stack"]
MODULES = ("production_faults", "production_ledger", "production_user", "production_secrets")


def forked(method: str) -> bool:
    """Say whether workers are forked, from the command's own process or from a template."""
    return "forked" in method or "template" in method


class Stack(MarkedLog, Started):
    """A proxy with a database, and all that it needs of its own; a context manager.

    Args:
        database: its database; not told to the proxy, which is up to `environment` or `config`.
        engines: where the query engine is installed.
        provider: its upstream.
        options: of the command.
        workers: how many serve when all is well.
        environment: further variables.
        config: further sections of LiteLLM's config; callbacks are `operator/` modules or names.
        argv: the command.
        price: of a token.

    Attributes:
        proxy: the process.
        folder: config, modules of the operator, notes of both.
    """

    def __init__(
        self,
        database: Database,
        engines: Path,
        provider: ProviderThread,
        *options: str,
        workers: int = 2,
        environment: Mapping[str, str] | None = None,
        config: Mapping[str, Any] | None = None,
        argv: tuple[str, ...] = RESILIENT,
        price: float = 0.0,
    ) -> None:
        self.database = database
        self.provider = provider
        self.workers = workers
        self.folder = Path(tempfile.mkdtemp(prefix="production-"))
        self._socket = self.folder / "status.sock"
        given = dict(config or {})
        settings = {"callbacks": ["production_faults.handler"], **given.pop("litellm_settings", {})}
        general = {"proxy_batch_write_at": 1, **given.pop("general_settings", {})}
        models = default_config(provider.base_url, ["openai"])
        for model in models["model_list"]:
            for kind in ("input", "output"):
                model["litellm_params"][f"{kind}_cost_per_token"] = price
        self.proxy = ProxyProcess(
            argv,
            {
                **models,
                "litellm_settings": settings,
                "general_settings": general,
                **given,
            },
            (
                # The last one counts: operators' modules lie beside their config.
                *("--config", str(self.folder / "config.yaml")),
                *("--num_workers", str(workers), "--status_socket", str(self._socket)),
                *options,
            ),
            env={
                "LITELLM_LOG": "INFO",
                "LITELLM_SALT_KEY": "sk-production-salt",
                "LITELLM_MIGRATION_DIR": str(self.folder / "migrations"),
                "PRISMA_CLI_LOG": str(self.folder / "prisma.log"),
                "QE_LOG": str(self.folder / "engines.log"),
                **engine.environment(engines),
                **(environment or {}),
            },
        )

    def start(self) -> Stack:
        """Start it and wait until all workers serve."""
        (self.folder / "migrations").mkdir()
        (self.folder / "config.yaml").write_text(json.dumps(self.proxy.config, indent=1))
        for name in MODULES:
            shutil.copy(OPERATOR / f"{name}.py", self.folder)
        self.proxy.start()
        try:
            self.proxy.wait_workers(self.workers, READY_SECONDS)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End it, and what it left."""
        self.proxy.stop()
        for pid in self.engines():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def until(self, condition: Callable[[], T], what: str, seconds: float = DEADLINE) -> T:
        """Return the condition's first true value; the proxy may have ended."""
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < deadline, (
                f"no {what} within {seconds:g} s\n{self.proxy.log_tail()}"
            )
            time.sleep(0.05)
        return value

    def status(self) -> dict[str, Any]:
        """What ``--status --json`` prints."""
        return ask(self._socket)

    def tell(self, *words: str) -> dict[str, Any]:
        """What ``--ctl --json`` prints."""
        return ask(self._socket, list(words))

    @property
    def method(self) -> str:
        """How workers are started, in the words of the status."""
        method: str = self.status()["supervisor"]["start_method"]
        return method

    @property
    def announced(self) -> str:
        """How workers are started, in the words of the log."""
        return self.proxy.wait_for_log(r"Supervising \d+ workers?, (.*)", DEADLINE)[1]

    def pids(self, *states: str) -> list[int]:
        """Process ids of the workers in one of these states, or in any; none while unknown."""
        return [each["pid"] for each in self._known() if not states or each["state"] in states]

    def _known(self) -> list[dict[str, Any]]:
        try:
            known: list[dict[str, Any]] = self.status()["workers"]
        except (UnavailableError, ValueError):
            return []
        return known

    def well(self) -> list[int]:
        """Wait until all workers serve and there are no others; return their process ids."""
        what = f"{self.workers} workers that serve, and no others"
        return self.until(lambda: settled(self._known(), self.workers), what)

    def logs(self, text: str, times: int = 1) -> None:
        """Wait for a text in the log since `mark`."""
        self.until(lambda: self.log().count(text) >= times, f"{text!r} in the log")

    def ready_after(self) -> list[float]:
        """How long each worker has taken to be ready, in seconds, in order."""
        return [float(seconds) for _, seconds in READY.findall(self.proxy.log_text())]

    def signal(self, number: int) -> None:
        """Send the supervisor a signal."""
        os.kill(self.proxy.pid, number)

    def roll(self) -> list[int]:
        """Replace all workers, wait for the end of the former, return the new ones."""
        before = set(self.pids())
        self.signal(signal.SIGHUP)
        self.until(lambda: not before & set(self.proxy.processes()), "end of the former workers")
        return self.well()

    def ended(self) -> int | None:
        """Wait for the end of the supervisor; return its status."""
        self.until(lambda: self.proxy.exit_status() is not None, "end")
        return self.proxy.exit_status()

    def fault(self, name: str) -> None:
        """Break each later start after it has connected: ``raise``, ``hang``, or empty for not."""
        (self.folder / "fault").write_text(name)

    def key(self) -> dict[str, str]:
        """Return the header fields of a new virtual key."""
        return {"Authorization": f"Bearer {self.proxy.new_key(MODEL)}"}

    def spends(self) -> tuple[float, float]:
        """Return the spend of all rows, and that of all virtual keys' counters."""
        rows = 'select coalesce(sum(spend), 0) from "LiteLLM_SpendLogs"'
        table = '"LiteLLM_VerificationToken"'
        keys = f"select sum(spend) from {table} where '{MODEL}' = any(models)"
        spent, counted = (float(self.database.query(each)[0]) for each in (rows, keys))
        return spent, counted

    def load(
        self,
        headers: Mapping[str, str],
        requests: int = 20_000,
        *,
        clients: int = 4,
        think_time: float = 0.0,
        user: str = "",
        stream: bool = False,
        look: Callable[[int], bool] = lambda _: False,
    ) -> LoadReport:
        """Send keep-alive requests without retries.

        Args:
            headers: who sends them.
            requests: how many.
            clients: how many connections.
            think_time: seconds a client waits after each reply.
            user: what `operator/production_user.py` should do.
            stream: ask for streams.
            look: from the number of replies so far to whether that is enough.
        """

        async def send() -> LoadReport:
            stop = asyncio.Event()
            replies = 0

            def count(_: RequestRecord) -> None:
                nonlocal replies
                replies += 1
                if look(replies):
                    stop.set()

            return await run_load(
                self.proxy.host,
                self.proxy.port,
                clients=clients,
                seconds=240,
                max_requests=requests,
                think_time=think_time,
                body=chat(MODEL, **({"user": user} if user else {})),
                headers=headers,
                stream=stream,
                notice_idle_close=False,
                on_result=count,
                stop=stop,
            )

        return asyncio.run(send())

    def supervisor(self) -> dict[str, Any]:
        """What the status says of it, or nothing while one takes over from the other."""
        try:
            found: dict[str, Any] = self.status()["supervisor"]
        except UnavailableError:
            return {}
        return found

    def upgrade(self, headers: Mapping[str, str], *program: str) -> int:
        """Upgrade in the middle of a load; return the number of replies.

        Args:
            headers: who sends the load.
            program: another virtual environment.
        """
        former, after = self.supervisor()["pid"], 0

        def look(replies: int) -> bool:
            nonlocal after
            if replies == BEFORE_UPGRADE:
                assert "started" in self.tell("upgrade", *program)["done"]
            if replies > BEFORE_UPGRADE and (
                after or self.supervisor().get("pid", former) != former
            ):
                after += 1
            return after >= AFTER_UPGRADE

        load = self.load(headers, clients=8, look=look)
        assert load.failures == {}
        assert after >= AFTER_UPGRADE
        return load.successes

    def in_each_worker(self, action: str) -> dict[int, list[dict[str, Any]]]:
        """Have every worker do something; return what each noted, by process id.

        Args:
            action: one of `production_user.ACTIONS`, with ``=`` and its argument.
        """
        name = action.partition("=")[0]
        workers = set(self.well())

        async def ask_until_all_have() -> None:
            for _ in range(200):
                # Each has a connection of its own: who accepts it is up to the workers.
                async with KeepAliveClient(
                    self.proxy.host, self.proxy.port, headers=self.proxy.headers, timeout=30.0
                ) as client:
                    reply = await client.request("POST", CHAT, chat(MODEL, user=action))
                    assert reply.status == 200, reply.body
                if workers <= self.notes(name).keys():
                    return

        asyncio.run(ask_until_all_have())
        notes = self.notes(name)
        assert workers <= notes.keys(), f"{workers - notes.keys()} did not {action}"
        return {pid: notes[pid] for pid in workers}

    def notes(self, action: str) -> dict[int, list[dict[str, Any]]]:
        """What workers noted of an action, by process id."""
        path = self.folder / "notes.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        found: dict[int, list[dict[str, Any]]] = {}
        for note in map(json.loads, lines):
            if note["action"] == action:
                found.setdefault(note["pid"], []).append(note)
        return found

    def engines(self) -> list[int]:
        """Process ids of the query engines that live and that this proxy has started."""
        return engine.running(str(self.folder / "engines.log"))

    def engines_of(self, worker: int) -> set[int]:
        """Process ids of the engines that a worker has started and that live."""
        text = (self.folder / "engines.log").read_text()
        started = re.findall(rf"pid=(\d+) ppid={worker} start", text)
        return {int(pid) for pid in started} & set(self.engines())

    def engines_serve_workers_only(self) -> None:
        """Wait until each engine and each connection belongs to a worker that serves."""
        self.well()
        self._vanishes("engines without a worker", self._orphans)
        names = {f"prisma-engine-{pid}" for pid in self.engines()}
        self._vanishes(
            "connections without a worker", lambda: set(self.database.connections()) - names
        )

    def forget_orphans(self) -> None:
        """Kill what earlier tests have left: each test is about its own."""
        for pid in self._orphans():
            os.kill(pid, signal.SIGKILL)

    def _orphans(self) -> set[int]:
        return set(self.engines()).difference(*map(self.engines_of, self.pids()))

    def leaves_nothing(self) -> None:
        """Wait until no worker, engine or connection is there."""

        def processes() -> list[int]:
            return [pid for pid in self._started() if Path(f"/proc/{pid}/exe").exists()]

        assert self._started()
        self._vanishes("workers", processes)
        self._vanishes("engines", self.engines)
        self._vanishes("connections", self.database.connections)

    def _vanishes(self, what: str, look: Callable[[], Sized]) -> None:
        deadline = time.monotonic() + VANISH_SECONDS
        while left := look():
            assert time.monotonic() < deadline, f"{what} left: {left}"
            time.sleep(0.1)

    def _started(self) -> list[int]:
        return [int(pid) for pid in STARTED.findall(self.proxy.log_text())]
