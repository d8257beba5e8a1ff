"""Scaleway Generative APIs (Paris)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

from qwen_embed_plugins.errors import ConfigurationError, shown
from qwen_embed_plugins.hookspecs import hookimpl
from qwen_embed_plugins.provider import ProviderConfig
from qwen_embed_plugins.providers import _catalogue
from qwen_embed_plugins.providers._openai_service import OpenAIService
from qwen_embed_plugins.providers._refusals import Refusal
from qwen_embed_plugins.types import Batch, Fault


class Scaleway(OpenAIService):
    """Sends `model` and `input` and nothing else: `dimensions` and `encoding_format` are listed as
    unsupported (scaleway/docs-content:pages/generative-apis/api-cli/using-embeddings-api.mdx, read
    2026-11).

    `project_id` bills a project other than the default one.
    """

    name = "scaleway"
    base_url = "https://api.scaleway.ai/v1"
    api_key_env = "SCW_SECRET_KEY"
    encoding = "float"
    options: ClassVar[dict[str, type]] = {"project_id": str}

    def __init__(self, config: ProviderConfig) -> None:
        super().__init__(config)
        project = config.options.get("project_id", "")
        if project and not re.fullmatch(r"[0-9A-Za-z-]+", project):
            raise ConfigurationError(
                f"project_id = {shown(project)}: expected the project's ID as the console shows it "
                "(letters, digits and dashes), not its name or an address"
            )

    @property
    def url(self) -> str:
        project = self.config.options.get("project_id")
        if project and self.config.base_url in (None, self.base_url):
            return f"https://api.scaleway.ai/{project}/v1"
        return super().url

    def body(self, batch: Batch) -> dict[str, Any]:
        return {"model": batch.wire_name, "input": list(batch.texts)}

    def refine(self, fault: Fault, status: int, refusal: Refusal) -> Fault:
        # Both by its own list of errors (…/understanding-errors.mdx, read 2026-11).
        if status == 422 and fault.kind == "bad_input":
            return replace(fault, kind="bad_offer")  # the model is missing or unknown
        if status == 429:
            # "You exceeded your current quota" is said of a minute, elsewhere of an empty purse.
            return replace(fault, kind="rate_limited", scope="offer")
        return fault


@hookimpl
def register_providers(register: Callable[..., None]) -> None:
    register(Scaleway, offers=_catalogue.offers_of("scaleway"))
