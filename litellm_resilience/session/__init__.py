"""What keeps the shared session alive: pure asyncio and aiohttp, no LiteLLM in here."""
