"""The client whose calls are awaited, for asyncio."""
