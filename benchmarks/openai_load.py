"""A load made with the `openai` package: a request fails if that raises; it may not retry."""

from __future__ import annotations

import asyncio
import importlib
import time
from typing import TYPE_CHECKING, Any

from benchmarks.commands import MODEL
from benchmarks.setups import TIMEOUT
from litellm_resilience.demo.load import CONNECT_BACKOFF, FailureKind, LoadReport, RequestRecord

if TYPE_CHECKING:
    from benchmarks.setups import Load


async def run_load(
    port: int, key: str, load: Load, *, stream: bool, path: str = "/v1"
) -> LoadReport:
    """Send requests over the connections of one `AsyncOpenAI`.

    Args:
        port: TCP port on 127.0.0.1.
        key: of the proxy.
        load: its clients are requests at a time.
        stream: whether to ask for streams.
        path: where the API is.
    """
    openai: Any = importlib.import_module("openai")
    report = LoadReport()
    client = openai.AsyncOpenAI(
        base_url=f"http://127.0.0.1:{port}{path}",
        api_key=key,
        max_retries=0,
        timeout=TIMEOUT,
        http_client=openai.DefaultAsyncHttpxClient(trust_env=False),
    )
    began = time.monotonic()

    async def one_client() -> None:
        while (now := time.monotonic()) < began + load.seconds:
            failure, status, detail = await _request(client, stream, report, began)
            ended = time.monotonic()
            report.records.append(
                RequestRecord(
                    timestamp=ended - began,
                    ok=failure is None,
                    latency=ended - now,
                    failure=failure,
                    status=status,
                    reused_connection=False,
                    done=failure is None if stream else None,
                    detail=detail,
                )
            )
            if failure is not None:
                await asyncio.sleep(CONNECT_BACKOFF)
        report.sending = report.sending or time.monotonic() - began

    async with client:
        await asyncio.gather(*(one_client() for _ in range(load.clients)))
    report.duration = time.monotonic() - began
    return report


async def _request(
    client: Any, stream: bool, report: LoadReport, began: float
) -> tuple[FailureKind | None, int | None, str]:
    try:
        answer = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Hello"}], stream=stream
        )
        reason = None
        if stream:
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
