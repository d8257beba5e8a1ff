"""An HTTP server that OpenAI's clients can ask for embeddings, in front of one embedder.

It does not choose or check anything itself: routing, budgets, checks and the cache are the
embedder's. What is here reads requests, refuses what cannot be served, joins short texts that come
at the same time, and answers in OpenAI's shapes. Needs the extra `server`.
"""

from __future__ import annotations

from qwen_embed_plugins.errors import ConfigurationError

try:
    import prometheus_client as _prometheus_client  # noqa: F401
    import starlette as _starlette  # noqa: F401
    import uvicorn as _uvicorn  # noqa: F401
except ImportError as _missing:
    raise ConfigurationError(
        "the server needs starlette, uvicorn and prometheus_client: "
        "pip install 'qwen-embed-plugins[server]'"
    ) from _missing

from qwen_embed_plugins.server.counts import Counts
from qwen_embed_plugins.server.guard import token_from
from qwen_embed_plugins.server.running import Limits, run_server

__all__ = ["Counts", "Limits", "run_server", "token_from"]
