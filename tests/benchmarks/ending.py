"""A server with the options of LiteLLM's command: uvicorn, one worker, which ends at its limit."""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import Any

import uvicorn


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer every request, a stream if that is asked for; uvicorn counts ten times a second."""
    if scope["type"] != "http":
        return
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    await asyncio.sleep(0.05)
    answer = b"data: [DONE]\n\n" if body and json.loads(body).get("stream") else b"{}"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": answer})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--max_requests_before_restart", type=int)
    options, _ = parser.parse_known_args()
    uvicorn.run(
        app,
        host=options.host,
        port=options.port,
        limit_max_requests=options.max_requests_before_restart,
        lifespan="off",
    )
