"""text-embeddings-inference, by its native route.

    [providers.mine]
    kind = "tei"
    base_url = "http://127.0.0.1:3000"

`/embed` and not `/v1/embeddings`: only the native route takes `truncate: false`, so that a text
that is too long is refused. The other one does what the server was started with, which cuts by
default (huggingface/text-embeddings-inference:router/src/http/server.rs, read at v1.9.3).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from qwen_embed_plugins.hookspecs import hookimpl
from qwen_embed_plugins.provider import Provider
from qwen_embed_plugins.providers._openai_wire import (
    load_json,
    no_rows,
    post_json,
    stacked,
    to_row,
)
from qwen_embed_plugins.providers._refusals import fault_of, read_refusal
from qwen_embed_plugins.types import (
    Answer,
    Batch,
    Fault,
    TransportFailure,
    WireRequest,
    WireResponse,
)

_OTHER_KIND_OF_MODEL = re.compile(r"(?i)not an embedding model")


class TEI(Provider):
    """A bare list of unit vectors; the tokens stand in a header. The request names no model: the
    server holds one."""

    name = "tei"
    serves_any_model = True
    needs_address = True
    never_cuts = True
    encoding = "float"

    def build_request(self, batch: Batch) -> WireRequest:
        body: dict[str, Any] = {"inputs": list(batch.texts), "truncate": False, "normalize": True}
        if batch.dimensions is not None:
            body["dimensions"] = batch.dimensions
        return post_json(f"{self.url}/embed", body, key=self.config.api_key)

    def parse_response(self, response: WireResponse) -> Answer:
        key = self.config.api_key
        rows = load_json(response, key=key)
        if not isinstance(rows, list) or not rows:
            raise no_rows("the list", response, key)
        tokens = response.headers.get("x-compute-tokens", "")
        counted = int(tokens) if tokens.isdecimal() and int(tokens) > 0 else None
        return Answer(stacked([to_row(row) for row in rows]), counted, "float")

    def classify(self, answer: WireResponse | TransportFailure) -> Fault:
        fault = fault_of(answer, key=self.config.api_key)
        if isinstance(answer, TransportFailure):
            return fault
        if answer.status == 424 and _OTHER_KIND_OF_MODEL.search(read_refusal(answer).message):
            return replace(fault, kind="bad_offer")
        return fault


@hookimpl
def register_providers(register: Callable[..., None]) -> None:
    register(TEI)
