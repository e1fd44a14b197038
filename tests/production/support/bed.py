"""What the test bed takes from elsewhere, in one place."""

from litellm_resilience.demo.lifetime import Repeating, Started
from litellm_resilience.demo.load import KeepAliveClient, LoadReport, RequestRecord, run_load
from litellm_resilience.demo.provider import ProviderThread
from litellm_resilience.demo.proxy import RESILIENT, chat, default_config, free_port
from litellm_resilience.status.channel import UnavailableError, ask
from tests.support.proxy import MarkedLog, ProxyProcess
from tests.support.redis_server import RedisServer
from tests.support.watch import Watcher, settled

__all__ = [
    "RESILIENT",
    "KeepAliveClient",
    "LoadReport",
    "MarkedLog",
    "ProviderThread",
    "ProxyProcess",
    "RedisServer",
    "Repeating",
    "RequestRecord",
    "Started",
    "UnavailableError",
    "Watcher",
    "ask",
    "chat",
    "default_config",
    "free_port",
    "run_load",
    "settled",
]
