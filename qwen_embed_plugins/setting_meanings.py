"""What each setting means, in a line: for `qwen-embed settings NAME` and `docs/settings.md`.

A test fails when a setting has no line here, or a line no setting.
"""

from __future__ import annotations

from collections.abc import Mapping

TOP_LEVEL_MEANINGS: Mapping[str, str] = {
    "model": "The model whose vectors are asked for, by our name: `qwen-embed models` lists them.",
    "dimensions": "Length of the vectors; not set: the model's own.",
    "policy": (
        "How offers are ranked: `free-first`, `cheapest`, `fastest`, `ordered`, or a plugin's."
    ),
    "query_policy": "The same for queries alone; not set: as `policy` says.",
    "use": (
        "The only providers that may receive texts; their order counts where offers rank alike, "
        "and for `ordered`. Not set: all that are set up."
    ),
    "instruction": "What stands before each query, for models that want it; documents have none.",
    "parity": (
        "`declared`: offers of the same open weights serve; `verified`: only those that "
        "`qwen-embed verify` has measured."
    ),
    "min_parity": (
        "The cosine below which an offer's vectors count as unlike those of the first offer, "
        "or as changed."
    ),
    "canary_every": (
        "One in about so many batches of an offer carries a known text, which shows whether it "
        "has changed."
    ),
    "spill_after_seconds": "How long a query waits for a cheaper offer before a dearer one serves.",
    "spill_to_paid": (
        "Whether documents go on to a dearer offer while a cheaper one is full or rests, instead "
        "of waiting for it."
    ),
    "concurrency": "Requests at once to each offer, of one process.",
    "timeout_seconds": "The longest that one attempt may take.",
    "state": (
        "Where spending, and what was learnt of offers, is kept: a file, or `postgresql://…` for "
        "many machines. Not set: `state.db` in your state folder."
    ),
    "state_env": "The variable that holds the address of the state, where it has a password.",
    "cache": "A file that keeps vectors, so that an equal text costs nothing. Not set: no cache.",
    "cache_megabytes": "How large the cache may grow.",
    "env_file": "A file of variables, such as keys; those of the environment win.",
    "tokenizer": (
        "The model's own `tokenizer.json`, to count tokens by (extra `tokenizer`). Not set: they "
        "are estimated."
    ),
}

BUDGET_MEANINGS: Mapping[str, str] = {
    "usd_per_day": "US dollars that may be spent in a day (UTC), by all who share the state.",
    "usd_total": "US dollars that may be spent in all, by all who share the state.",
}

PROVIDER_MEANINGS: Mapping[str, str] = {
    "kind": "The provider that it is one more account of, or the kind of server it is.",
    "base_url": "Where it is; not set: the provider's own address.",
    "api_key_env": "The variable that holds the key; not set: the provider's usual one.",
    "account": "Tables of the same account share limits, grants and budgets; not set: NAME.",
    "proxy": "The proxy for this provider alone.",
    "proxy_env": "The variable that holds the address of that proxy, where it has a password.",
    "usd_per_day": "US dollars that may be spent in a day (UTC) with this account.",
    "usd_total": "US dollars that may be spent in all with this account.",
    "trust": "Serve without being compared first: its vectors are known to be right.",
    "wire_name": "The model's name there; not set: the one that is built in.",
    "price_per_million": "Price of a million input tokens, over the one that is built in.",
    "currency": "The currency of that price.",
    "max_concurrency": "Requests at once, of all processes that share the state.",
    "max_inputs": "Texts in a request.",
    "max_input_tokens": "Tokens in a text; longer ones go to other offers first.",
    "requests_per_minute": "Requests in any minute, of all processes that share the state.",
    "requests_per_day": "Requests in any 24 hours; with `free_reset`, from that hour on.",
    "tokens_per_minute": "Tokens in any minute, of all processes that share the state.",
    "free": "`true` claims the grant that is built in, `false` says that there is none.",
    "free_tokens": "Tokens that the account was given once.",
    "free_usd": "US dollars of credit that the account was given once.",
    "free_until": "When the grant ends: a time, or the first day that is not free, in UTC.",
    "free_tokens_per_day": "Tokens that are free each day.",
    "free_reset": "When the day of what renews daily begins; not set: `00:00 UTC`.",
    "serve": "Which texts it may receive; not set: both.",
}

_DASHSCOPE = {
    "workspace": "The ID of a workspace that has a host of its own.",
    "route": "`native` (the default), or `compatible` for the one like OpenAI's.",
}

OPTION_MEANINGS: Mapping[str, Mapping[str, str]] = {
    "cloudflare": {"account_id": "The account's ID, 32 hexadecimal digits."},
    "dashscope-beijing": _DASHSCOPE,
    "dashscope-singapore": _DASHSCOPE,
    "ollama": {
        "num_ctx": "Context in tokens; Ollama's own default may be shorter than the model's.",
        "keep_alive": "How long the model stays loaded, such as `30m`.",
    },
    "openrouter": {
        "upstream": "The service that computes, by its slug; not set: `nebius`.",
        "allow_fallbacks": "Whether other upstreams may stand in for it; not set: `false`.",
        "quantizations": "The precisions that an upstream may compute in.",
        "data_collection": "`deny` leaves out upstreams that keep texts.",
    },
    "scaleway": {"project_id": "The project's ID; not set: the default project."},
}
"""What the built-in providers' own options mean, by provider."""

VARIABLE_MEANINGS: Mapping[str, str] = {
    "SETTINGS": "The settings file.",
    "DSN": "The database of `qwen-embed pg`.",
    "DISABLE_PLUGINS": "Plugins to leave out, with commas between.",
    "SERVER_TOKEN": "The token that clients of `qwen-embed serve` send.",
}
"""Variables with our prefix that are no settings of the router."""
