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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from qwen_embed_plugins.errors import shown
from qwen_embed_plugins.hookspecs import hookimpl
from qwen_embed_plugins.models import Model
from qwen_embed_plugins.provider import Provider
from qwen_embed_plugins.providers._notes import on_context, on_precision
from qwen_embed_plugins.providers._openai_wire import (
    get,
    load_json,
    no_rows,
    post_json,
    stacked,
    to_row,
)
from qwen_embed_plugins.providers._refusals import fault_of, read_refusal, words_of
from qwen_embed_plugins.types import (
    Answer,
    Batch,
    Fault,
    Inspection,
    TransportFailure,
    WireRequest,
    WireResponse,
)

_OTHER_KIND_OF_MODEL = re.compile(r"(?i)not an embedding model")


class TEI(Provider):
    """A bare list of unit vectors; the tokens stand in a header. The request names no model: the
    server holds one. It must run without `--default-prompt` and `--default-prompt-name`: what they
    name is put before every text, and a request cannot prevent it (router/src/main.rs).
    """

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

    def inspect(self, wire_name: str, model: Model) -> Inspection:
        key = self.config.api_key
        response = yield get(f"{self.url}/info", key=key)
        if response.status != 200:
            return (self.classify(response).message,)
        info = load_json(response, key=key)
        if not isinstance(info, dict):
            return (f"/info gave no object: {words_of(response, key, 80)}",)
        return tuple(_notes(model, info))

    def classify(self, answer: WireResponse | TransportFailure) -> Fault:
        fault = fault_of(answer, key=self.config.api_key)
        if isinstance(answer, TransportFailure):
            return fault
        if answer.status == 424 and _OTHER_KIND_OF_MODEL.search(read_refusal(answer).message):
            return replace(fault, kind="bad_offer")
        return fault


def _notes(model: Model, info: Mapping[str, Any]) -> Iterator[str]:
    """Notes from `/info`; an answer of it is pasted in issue 267 of TEI's repository."""
    held = info.get("model_id")
    if isinstance(held, str) and model.hub_name not in (None, held):
        # A path of the server's own may hold the right weights.
        yield f"holds {shown(held)}, where {model.hub_name} is asked for"
    precision = info.get("model_dtype")
    if isinstance(precision, str):
        yield from on_precision(model, precision, "start it with --dtype float32")
    longest, inputs = info.get("max_input_length"), info.get("max_client_batch_size")
    if type(longest) is int:
        # The shorter of what the model's files say and --max-batch-tokens (router/src/lib.rs).
        by_option = longest == info.get("max_batch_tokens")
        flag = f"start it with --max-batch-tokens {model.context_tokens}"
        yield from on_context(model, longest, flag if by_option else "the model's files say so")
    if type(inputs) is int:
        yield f"{inputs} texts a request (--max-client-batch-size)"


@hookimpl
def register_providers(register: Callable[..., None]) -> None:
    register(TEI)
