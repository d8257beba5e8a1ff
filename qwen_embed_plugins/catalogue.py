"""Which offers the settings give: providers configured, offers merged with the user's overrides.

Pure: it reads settings and what plugins declared, and reaches no network.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from qwen_embed_plugins.errors import ConfigurationError, shown, without_secrets
from qwen_embed_plugins.grants import ConfiguredGrant
from qwen_embed_plugins.meters import Meter
from qwen_embed_plugins.offers import Grant, Offer
from qwen_embed_plugins.plugins import Registry, unknown_name
from qwen_embed_plugins.provider import Provider, ProviderConfig
from qwen_embed_plugins.provider_settings import PROVIDER, ProviderSettings
from qwen_embed_plugins.proxies import proxy_address
from qwen_embed_plugins.setting_checks import ROLES, sounds_secret, unknown_setting
from qwen_embed_plugins.settings import Settings
from qwen_embed_plugins.terms import (
    grants_of,
    limits_of,
    overridden,
    price_of,
    served_roles,
    unclaimed_grant,
)
from qwen_embed_plugins.types import Role

if TYPE_CHECKING:
    from qwen_embed_plugins.models import Model

DEFAULT_MAX_INPUTS = 32
"""Texts in a request where an offer names no limit: the smallest default among the servers that
have one (TEI's --max-client-batch-size, SiliconFlow's documented 32)."""

RESERVED_OVER_ESTIMATE = 2
"""A reservation is an upper bound; the estimate can be half the truth (code, rare scripts)."""


@dataclass(frozen=True, slots=True)
class ConfiguredOffer:
    """An offer with the account and the terms that hold for this user.

    `key` names it everywhere ("ollama/qwen3-embedding-8b"). `price` is US dollars per million
    tokens: what the user states, else 0 for private addresses, None when unknown. `trusted` says
    that the user vouches for its vectors. `key_variable` is the variable that holds its key, if it
    wants one. `grants` are those that the user claimed, in the order in which they are spent;
    `limits` are the budgets and limits of its account; `unclaimed` is a built-in grant that the
    settings do not speak of. `endpoint` tells servers apart for what is learnt about them.
    """

    key: str
    provider: Provider
    account: str
    offer: Offer
    model: Model
    price: Decimal | None
    private: bool
    trusted: bool = False
    proxy: str | None = field(default=None, repr=False)
    key_variable: str | None = None
    grants: tuple[ConfiguredGrant, ...] = ()
    limits: tuple[Meter, ...] = ()
    serve: tuple[Role, ...] = ROLES
    unclaimed: Grant | None = None
    endpoint: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "endpoint", self._endpoint())  # asked for with every batch

    def _endpoint(self) -> str:
        # Written to the state, where a password inside the address has no place.
        place = without_secrets(self.provider.url) or self.provider.config.name
        wire_name, model = self.offer.wire_name, self.model
        # A server of one's own may hold another model tomorrow under the same name ("default").
        says_which = wire_name in (model.name, model.hub_name)
        parts = (place, wire_name, None if says_which else model.name, self.provider.variant)
        return " ".join(filter(None, parts))

    @property
    def dimensions(self) -> int:
        """The length of the vectors that it gives, before they are shortened."""
        return self.offer.dimensions or self.model.dimensions

    @property
    def is_proven_by_name(self) -> bool:
        """Whether it belongs to the model's space by declaration: the same open weights."""
        return self.offer.membership == "declared"

    @property
    def has_grants(self) -> bool:
        """Whether the user claimed any, spent or not."""
        return bool(self.grants)

    @property
    def max_inputs(self) -> int:
        return self.offer.max_inputs or DEFAULT_MAX_INPUTS

    @property
    def max_batch_tokens(self) -> int | None:
        """How many tokens, as estimated, one request may hold: more than a minute allows would
        never be sent."""
        a_minute = (meter.tokens for meter in self.limits if meter.kind == "minute")
        limits = [self.offer.max_batch_tokens]
        limits += [limit and max(1, limit // RESERVED_OVER_ESTIMATE) for limit in a_minute]
        return min((limit for limit in limits if limit is not None), default=None)

    @property
    def key_remedy(self) -> str:
        """What to do when the provider refuses the key, or asks for one."""
        table = f"[providers.{self.provider.config.name}]"
        variable = self.key_variable or f"a variable, and name it: api_key_env in {table}"
        return f"put a valid key into {variable}"

    def cost(self, tokens: int) -> Decimal:
        """What so many tokens cost here, in US dollars; 0 where no price is known."""
        return (self.price or Decimal(0)) * tokens / 1_000_000


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The offers that may serve a model, in the order of the settings, and why others may not.

    `unnamed` are those among the left out that neither settings nor environment speak of: known to
    a plugin, and not set up here.
    """

    model: Model
    offers: tuple[ConfiguredOffer, ...]
    left_out: Mapping[str, str]
    unnamed: frozenset[str] = frozenset()


def build_catalogue(settings: Settings, registry: Registry) -> Catalogue:
    """The offers for the settings' model. Raises `ConfigurationError` where settings name what does
    not exist; an offer that cannot serve is left out with its reason."""
    if settings.model not in registry.models:
        raise unknown_name(registry, "models", settings.model)
    for name in settings.api_keys:
        if name not in settings.providers and name not in registry.providers:
            raise unknown_name(registry, "providers", name, settings.providers)
    model = registry.models[settings.model]
    offers: list[ConfiguredOffer] = []
    left_out: dict[str, str] = {}
    for table in provider_tables(settings, registry):
        outcome = configure(table, model, settings, registry)
        if isinstance(outcome, str):
            left_out[table.name] = outcome
        else:
            offers.append(outcome)
    unnamed = frozenset(name for name in left_out if not is_named(name, settings, registry))
    return Catalogue(model, tuple(offers), left_out, unnamed)


def is_named(name: str, settings: Settings, registry: Registry) -> bool:
    """Whether settings or the environment speak of a provider."""
    if name in settings.providers or name in (settings.use or ()) or name in settings.api_keys:
        return True
    declared = registry.providers[name].provider
    variables = (declared.api_key_env, *declared.other_key_envs, declared.base_url_env)
    return any(variable and settings.environ.get(variable) for variable in variables)


def provider_tables(settings: Settings, registry: Registry) -> Iterator[ProviderSettings]:
    """The providers to consider: those in `use` in its order, else all tables and built-ins."""
    for name in settings.use or ():
        if name not in settings.providers and name not in registry.providers:
            raise unknown_name(registry, "providers", name, settings.providers)
    names = settings.use or tuple(dict.fromkeys((*settings.providers, *registry.providers)))
    for name in names:
        yield settings.providers.get(name) or ProviderSettings(name=name)


def offers_of_all_models(
    settings: Settings, registry: Registry, also: Collection[str] = ()
) -> Iterator[ConfiguredOffer]:
    """Every offer that is set up here, of whatever model and in `use` or not: what belongs to the
    user's accounts. `also` holds keys of offers of which a plugin need not know the model."""
    for name in dict.fromkeys((*settings.providers, *registry.providers)):
        table = settings.providers.get(name) or ProviderSettings(name=name)
        declared = registry.providers.get(table.kind or table.name)
        models = [settings.model, *table.models]
        models += [offer.model for offer in declared.offers] if declared else []
        models += [key.partition("/")[2] for key in also if key.startswith(f"{name}/")]
        for model in dict.fromkeys(models):
            if model not in registry.models:
                continue
            chosen = replace(settings, model=model, dimensions=None)
            try:
                outcome = configure(table, registry.models[model], chosen, registry)
            except ConfigurationError:
                continue  # whoever asks for this model, or uses this table, is told
            if isinstance(outcome, ConfiguredOffer):
                yield outcome


class WayOut(NamedTuple):
    """Another model, and the providers that would serve it for nothing."""

    model: str
    providers: tuple[str, ...]


def ways_out(settings: Settings, registry: Registry, without: Collection[str] = ()) -> list[WayOut]:
    """The other models that cost nothing with what is set up here, those of most providers first.

    `without` names providers that are known to be out. A server that may hold any model counts for
    none: nobody knows which one it holds.
    """
    found = [
        WayOut(model.name, tuple(_serving_free(model, settings, registry, without)))
        for model in registry.models.values()
        if model.name != settings.model
    ]
    return sorted((way for way in found if way.providers), key=lambda way: -len(way.providers))


def _serving_free(
    model: Model, settings: Settings, registry: Registry, without: Collection[str]
) -> Iterator[str]:
    fits = model.takes_dimensions(settings.dimensions or model.dimensions)
    chosen = replace(settings, model=model.name, dimensions=settings.dimensions if fits else None)
    for table in provider_tables(settings, registry):
        declared = registry.providers.get(table.kind or table.name)
        if declared is None or declared.provider.needs_naming or table.name in without:
            continue
        if all(offer.model != model.name for offer in declared.offers):
            continue
        try:
            outcome = configure(table, model, chosen, registry)
        except ConfigurationError:
            continue
        if isinstance(outcome, str) or outcome.price != 0:
            continue
        if outcome.is_proven_by_name or outcome.trusted:
            yield table.name


def configure(
    table: ProviderSettings, model: Model, settings: Settings, registry: Registry
) -> ConfiguredOffer | str:
    """The offer of one provider table for the model, or why there is none."""
    declared = registry.providers.get(table.kind or table.name)
    if declared is None:
        raise _unknown_kind(table, registry)
    provider_class = declared.provider
    _check_options(table, provider_class)
    named = table.name in settings.providers or table.name in (settings.use or ())
    offer = _offer_for(table, model, declared.offers, provider_class)
    if offer is None:
        served = ", ".join(sorted({item.model for item in declared.offers})) or "none"
        return f"does not serve {model.name} (serves: {served})"
    longest = offer.dimensions or model.dimensions
    if (settings.dimensions or model.dimensions) > longest:
        return f"gives at most {longest} numbers, not {settings.dimensions or model.dimensions}"
    if provider_class.needs_naming and not named and model.name != provider_class.name:
        return "serves only when named"
    try:
        base_url = base_url_of(table, provider_class, settings.environ)
    except Exception as error:
        return _not_set_up(table, error, named)
    if base_url is None and provider_class.needs_address:
        if named:
            raise ConfigurationError(
                f"providers.{table.name}: base_url is missing; say where the server is, for "
                'example base_url = "http://127.0.0.1:8000/v1"'
            )
        return "no base_url set"
    table = replace(table, proxy=_proxy(table, settings))
    key = _api_key(table, provider_class, settings)
    if key is None and provider_class.api_key_env and not table.base_url:
        return f"no key: set {table.api_key_env or provider_class.api_key_env}"
    options = _options(table, provider_class, settings.environ)
    for option in provider_class.required_options:
        if option not in options:
            return _option_missing(table, provider_class, option, named)
    try:
        provider = provider_class(ProviderConfig(table.name, base_url, key, options))
        configured = _configured(table, provider, offer, model)
    except Exception as error:
        return _not_set_up(table, error, named)
    configured = _with_terms(configured, table)
    return _why_unpriced(configured, table, settings) or configured


def _why_unpriced(
    offer: ConfiguredOffer, table: ProviderSettings, settings: Settings
) -> str | None:
    """Why an offer without a known price cannot serve: under a budget only tokens that are given
    away are sure to cost nothing."""
    limited = settings.budget.limited
    if offer.price is not None or not (limited or table.has_budget):
        return None
    if offer.has_grants:
        return None  # in tokens: without a price there is none in money
    here = f"[providers.{table.name}]"
    remedy = 'set usd_per_day = "unlimited" under [budget]' if limited else f"lift that of {here}"
    return (
        f"no price is known and a budget is set: give price_per_million in {here} or in its "
        f"plugin, or {remedy}"
    )


def _options(
    table: ProviderSettings, provider_class: type[Provider], environ: Mapping[str, str]
) -> dict[str, Any]:
    """The provider's own options: as set, else from the variables that may hold them."""
    found = {
        name: provider_class.options[name](environ[variable])
        for name, variable in provider_class.option_envs.items()
        if environ.get(variable)
    }
    return {**found, **table.options}


def _option_missing(
    table: ProviderSettings, provider_class: type[Provider], option: str, named: bool
) -> str:
    variable = provider_class.option_envs.get(option)
    said = f"no {option}: set it" + (f", or the variable {variable}" if variable else "")
    if named:
        raise ConfigurationError(f"providers.{table.name}: {said}")
    return said


def _not_set_up(table: ProviderSettings, error: Exception, named: bool) -> str:
    """A provider that fails to be made stops nobody who did not name it."""
    said = f"cannot be set up: {type(error).__name__}: {without_secrets(str(error))[:200]}"
    if named:
        raise ConfigurationError(f"providers.{table.name}: {said}") from error
    return said


def _configured(
    table: ProviderSettings, provider: Provider, offer: Offer, model: Model
) -> ConfiguredOffer:
    private = is_private(provider.url)
    return ConfiguredOffer(
        key=f"{table.name}/{model.name}",
        provider=provider,
        account=table.account or table.name,
        offer=offer,
        model=model,
        price=price_of(table, offer, private=private),
        private=private,
        trusted=table.trust,
        proxy=table.proxy,
        key_variable=table.api_key_env or provider.api_key_env,
    )


def _with_terms(offer: ConfiguredOffer, table: ProviderSettings) -> ConfiguredOffer:
    """The offer with its grants and limits. Raises `ConfigurationError` if a grant is claimed that
    cannot be counted."""
    terms, account, private = offer.offer, offer.account, offer.private
    grants = grants_of(table, terms, account, private=private)
    if offer.price is None and any(grant.meter.kind == "credit" for grant in grants):
        raise ConfigurationError(
            f"providers.{table.name}: a grant in money is counted by the price, and no price of "
            f"{offer.model.name} is known: give price_per_million"
        )
    return replace(
        offer,
        grants=grants,
        limits=limits_of(table, terms, account, private=private),
        serve=served_roles(table, terms.model),
        unclaimed=unclaimed_grant(table, terms, private=private),
    )


def _offer_for(
    table: ProviderSettings,
    model: Model,
    declared: tuple[Offer, ...],
    provider_class: type[Provider],
) -> Offer | None:
    offer = next((item for item in declared if item.model == model.name), None)
    if offer is None and provider_class.serves_any_model and not declared:
        offer = Offer(model=model.name, wire_name=model.hub_name or model.name)
    if offer is None and table.wire_name:
        offer = Offer(model=model.name, wire_name=table.wire_name)
    return None if offer is None else overridden(offer, table)


def _unknown_kind(table: ProviderSettings, registry: Registry) -> ConfigurationError:
    if table.kind:
        error = unknown_name(registry, "providers", table.kind)
        return ConfigurationError(f"providers.{table.name}: kind: {error}")
    error = unknown_name(registry, "providers", table.name)
    return ConfigurationError(
        f"providers.{table.name}: {error}; a server of your own needs kind = "
        '"openai-compatible" and a base_url'
    )


def _check_options(table: ProviderSettings, provider_class: type[Provider]) -> None:
    for name, value in table.options.items():
        expected = provider_class.options.get(name)
        where = f"providers.{table.name}"
        if expected is None:
            known = {**PROVIDER, "models": None, **provider_class.options}
            raise unknown_setting(name, known, where)
        if not isinstance(value, expected):
            found = "" if sounds_secret(name) else f" = {shown(value)}"
            raise ConfigurationError(f"{where}: {name}{found}: expected {expected.__name__}")


def base_url_of(
    table: ProviderSettings, provider_class: type[Provider], environ: Mapping[str, str]
) -> str | None:
    """Where a provider is: as set, else as its variable says, else as its class does. Raises what
    a plugin raises that cannot read the variable."""
    if table.base_url:
        return table.base_url
    if provider_class.base_url_env and environ.get(provider_class.base_url_env):
        return provider_class.url_from_environment(environ[provider_class.base_url_env])
    return provider_class.base_url


def _api_key(
    table: ProviderSettings, provider_class: type[Provider], settings: Settings
) -> str | None:
    if table.name in settings.api_keys:
        return settings.api_keys[table.name]
    if table.api_key_env:
        if not settings.environ.get(table.api_key_env):
            raise ConfigurationError(
                f"providers.{table.name}: the variable {table.api_key_env} is not set; set it or "
                "remove api_key_env"
            )
        return _copied_whole(settings.environ[table.api_key_env], table.api_key_env)
    if provider_class.api_key_env is None:
        return None
    variables = (provider_class.api_key_env, *provider_class.other_key_envs)
    named = next((name for name in variables if settings.environ.get(name)), None)
    return _copied_whole(settings.environ[named], named) if named else None


def _copied_whole(key: str, variable: str) -> str:
    """The key without what copying leaves around it. Raises `ConfigurationError` for one that no
    header may hold."""
    key = key.strip()
    if not (key and key.isascii() and key.isprintable()):
        raise ConfigurationError(
            f"the key in {variable} has a line end or other letters in it that no key has; copy it "
            "again"
        )
    return key


def _proxy(table: ProviderSettings, settings: Settings) -> str | None:
    if table.proxy_env is None:
        return table.proxy
    variable = f"providers.{table.name}: the variable {table.proxy_env}"
    address = settings.environ.get(table.proxy_env)
    if not address:
        # Without it requests would go out directly, which the user wants to avoid.
        raise ConfigurationError(f"{variable} is not set; set it or remove proxy_env")
    try:
        return proxy_address(address)
    except ValueError as error:
        raise ConfigurationError(f"{variable}: {error}") from None


def is_private(url: str) -> bool:
    """Whether an address lies on this machine or in a private network, judged by its name alone.

    No URL (a provider that computes in process), loopback and private addresses, names without a
    dot and those under `.local` or `.internal` count as private.

    >>> is_private("http://10.0.0.5:8000/v1"), is_private("https://api.example.com")
    (True, False)
    """
    if not url:
        return True
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith((".local", ".internal", ".localhost"))
