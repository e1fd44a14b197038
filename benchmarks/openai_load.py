"""A load made with the `openai` package, as a process of the LiteLLM line's own interpreter.

``python -m benchmarks.openai_load`` reads a `Wanted` as JSON from standard input and writes a
`LoadReport` as JSON to standard output. A request fails if the package raises; it may not retry.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from litellm_resilience.demo.load import CONNECT_BACKOFF, FailureKind, LoadReport, RequestRecord

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

GRACE_SECONDS = 60.0
"""What the process may take beyond the load and its last request."""


@dataclass(frozen=True)
class Wanted:
    """The load to make.

    Attributes:
        base_url: of the proxy, with ``/v1``.
        api_key: its key.
        model: to ask for.
        clients: requests at a time, over the connections of one `AsyncOpenAI`.
        seconds: length of the load.
        timeout: seconds of one request.
        stream: whether to ask for streams.
    """

    base_url: str
    api_key: str
    model: str
    clients: int
    seconds: float
    timeout: float
    stream: bool


def run(python: Sequence[str], wanted: Wanted, env: Mapping[str, str]) -> LoadReport:
    """Make the load in a process.

    Args:
        python: the interpreter, which has the package.
        wanted: the load.
        env: the environment.

    Raises:
        subprocess.SubprocessError: the process failed, or did not end in time.
    """
    finished = subprocess.run(
        [*python, "-m", "benchmarks.openai_load"],
        input=json.dumps(asdict(wanted)),
        stdout=subprocess.PIPE,
        text=True,
        env=env,
        timeout=wanted.seconds + wanted.timeout + GRACE_SECONDS,
        check=True,
    )
    values = json.loads(finished.stdout)
    records = [RequestRecord(**record) for record in values.pop("records")]
    return LoadReport(records=records, **values)


async def make(wanted: Wanted) -> LoadReport:
    """Make the load in this process."""
    openai: Any = importlib.import_module("openai")
    report = LoadReport()
    client = openai.AsyncOpenAI(
        base_url=wanted.base_url,
        api_key=wanted.api_key,
        max_retries=0,
        timeout=wanted.timeout,
    )
    began = time.monotonic()

    async def one_client() -> None:
        while (now := time.monotonic()) < began + wanted.seconds:
            failure, status, detail = await _request(client, wanted, report, began)
            ended = time.monotonic()
            report.records.append(
                RequestRecord(
                    timestamp=ended - began,
                    ok=failure is None,
                    latency=ended - now,
                    failure=failure,
                    status=status,
                    reused_connection=False,
                    done=failure is None if wanted.stream else None,
                    detail=detail,
                )
            )
            if failure is not None:
                await asyncio.sleep(CONNECT_BACKOFF)
        report.sending = report.sending or time.monotonic() - began

    async with client:
        await asyncio.gather(*(one_client() for _ in range(wanted.clients)))
    report.duration = time.monotonic() - began
    return report


async def _request(
    client: Any, wanted: Wanted, report: LoadReport, began: float
) -> tuple[FailureKind | None, int | None, str]:
    try:
        answer = await client.chat.completions.create(
            model=wanted.model,
            messages=[{"role": "user", "content": "Hello"}],
            stream=wanted.stream,
        )
        reason = None
        if wanted.stream:
            async for event in answer:
                report.events.append(time.monotonic() - began)
                for choice in event.choices:
                    reason = choice.finish_reason or reason
            if reason is None:
                return "truncated", 200, "the stream ended without a finish_reason"
    except Exception as error:
        status = getattr(error, "status_code", None)
        return _kind(error, status), status, f"{type(error).__name__}: {error}"[:200]
    return None, 200, ""


def _kind(error: Exception, status: int | None) -> FailureKind:
    if status is not None:
        return "http_5xx" if status >= 500 else "http_4xx"
    causes = f"{error!r} {error.__cause__!r}"
    if "Timeout" in causes:
        return "timeout"
    if "ConnectError" in causes:
        return "connect_refused"
    if "without sending a response" in causes:
        return "closed_before_reply"
    return "truncated" if "RemoteProtocolError" in causes else "reset"


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(make(Wanted(**json.load(sys.stdin)))))))
