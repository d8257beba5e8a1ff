"""What plugins may register. Who may not is told in one line what to write instead.

What a plugin's author sees of a mistake is this line, in `qwen-embed plugins`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from difflib import get_close_matches
from importlib.metadata import EntryPoint
from inspect import Parameter, signature
from types import ModuleType
from typing import TYPE_CHECKING, Any

from qwen_embed_plugins.chunkers import ARGUMENTS
from qwen_embed_plugins.errors import ConfigurationError, shown
from qwen_embed_plugins.hookspecs import PROJECT
from qwen_embed_plugins.offers import Grant, Offer
from qwen_embed_plugins.provider import Provider

if TYPE_CHECKING:
    import pluggy

REGISTER_HOOKS = (
    "register_models",
    "register_providers",
    "register_policies",
    "register_chunkers",
    "register_commands",
)

HOOKS = (*REGISTER_HOOKS, "observe")

LIMITS = (
    "max_inputs",
    "max_input_tokens",
    "max_batch_tokens",
    "max_batch_bytes",
    "max_concurrency",
    "requests_per_minute",
    "requests_per_day",
    "tokens_per_minute",
)

_ANY_NUMBER = (Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL)
_POSITIONAL_ONLY = Parameter.POSITIONAL_ONLY

_PROVIDER_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def why_not_loaded(point: EntryPoint, error: BaseException) -> BaseException:
    """The error of an entry point that cannot be loaded: what is wrong with it if it names nothing,
    else the error that its module raised."""
    where = f"the entry point {point.name} = {shown(point.value)}"
    named = EntryPoint.pattern.match(point.value)
    if named is None:
        return ConfigurationError(f"{where} is no module's name: name it as you would import it")
    module, attribute = named["module"], named["attr"]
    if isinstance(error, ModuleNotFoundError) and _is_or_holds(error.name, module):
        return ConfigurationError(
            f"{where} names a module that is not installed: correct the name in "
            f"[project.entry-points.{PROJECT}] and install again"
        )
    if isinstance(error, AttributeError) and attribute and error.name in attribute.split("."):
        return ConfigurationError(
            f"{where} names what is not in the module: name the module alone, "
            f'{point.name} = "{module}"'
        )
    return error


def _is_or_holds(package: str | None, module: str) -> bool:
    return package is not None and f"{module}.".startswith(f"{package}.")


def check_is_plugin(plugin: object, name: str) -> None:
    """Refuse a class or a function: a plugin is the module, or an object, that holds the hooks."""
    if isinstance(plugin, type) or (callable(plugin) and hasattr(plugin, "__qualname__")):
        home = getattr(plugin, "__module__", "my_module")
        raise ConfigurationError(
            f"the entry point names {plugin.__qualname__}, which holds no hooks: name the module "
            f'alone, {name} = "{home}"'
        )


def check_hooks(plugin: object, manager: pluggy.PluginManager) -> None:
    """Refuse a registered plugin that names unknown hooks, has a hook unmarked, or has none."""
    callers = manager.get_hookcallers(plugin) or []
    for caller in callers:
        mine = [item for item in caller.get_hookimpls() if item.plugin is plugin]
        if not caller.has_spec() and not all(item.optionalhook for item in mine):
            near = get_close_matches(caller.name, HOOKS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(HOOKS)}"
            raise ConfigurationError(f"unknown hook {caller.name!r}: {hint}")
    # A function called `observe` may be anything; one called `register_providers` hardly.
    for name in REGISTER_HOOKS if callers else HOOKS:
        if callable(getattr(plugin, name, None)) and not manager.parse_hookimpl_opts(plugin, name):
            raise ConfigurationError(f"registers nothing; is @hookimpl missing above {name}?")
    if not callers:
        what = "this module" if isinstance(plugin, ModuleType) else f"a {type(plugin).__name__}"
        raise ConfigurationError(
            f"registers nothing: {what} has no hook, such as register_providers under @hookimpl"
        )


def check_provider(provider: Any) -> None:
    """Refuse what is no provider class, or has a name that settings could not hold."""
    if isinstance(provider, Provider):
        raise ConfigurationError(
            f"register() takes the class {type(provider).__name__} itself, not an instance: "
            "settings make the instances"
        )
    if not (isinstance(provider, type) and issubclass(provider, Provider)):
        raise ConfigurationError(f"register() takes a subclass of Provider, got {shown(provider)}")
    name = getattr(provider, "name", None)
    if not isinstance(name, str) or not _PROVIDER_NAME.fullmatch(name):
        raise ConfigurationError(
            f"{provider.__name__}.name = {shown(name)}: expected lower-case letters, digits and "
            f"single dashes, for example {_nearest_name(name or provider.__name__)!r}"
        )


def _nearest_name(name: object) -> str:
    return "-".join(re.findall(r"[a-z0-9]+", str(name).lower())) or "acme"


def check_offers(offers: Any) -> tuple[Offer, ...]:
    """The offers; refuses terms that would break the ranking or the budget of everyone's calls."""
    if isinstance(offers, Offer) or not isinstance(offers, Iterable):
        raise ConfigurationError(f"offers= takes a list, [Offer(...)], got {shown(offers)}")
    checked = tuple(offers)  # once: it may be a generator
    for offer in checked:
        _check_offer(offer)
    return checked


def _check_offer(offer: Any) -> None:
    if not isinstance(offer, Offer):
        raise ConfigurationError(f"offers= takes Offer objects, got {shown(offer)}")
    price: Any = offer.price_per_million
    if price is not None and not (isinstance(price, Decimal) and price.is_finite() and price >= 0):
        raise ConfigurationError(
            f"offer {shown(offer.model)}: price_per_million = {shown(price)}: expected a "
            'Decimal of 0 or more, for example Decimal("0.04")'
        )
    for name in LIMITS:
        _check_count(offer, name, getattr(offer, name))
    if offer.grant is not None:
        _check_grant(offer, offer.grant)


def _check_count(offer: Offer, name: str, count: Any) -> None:
    if count is not None and (type(count) is not int or count < 1):
        raise ConfigurationError(
            f"offer {shown(offer.model)}: {name} = {shown(count)}: expected a whole number of at "
            "least 1"
        )


def _check_grant(offer: Offer, grant: Any) -> None:
    if not isinstance(grant, Grant):
        raise ConfigurationError(
            f"offer {shown(offer.model)}: grant = {shown(grant)}: expected a Grant"
        )
    for name in ("tokens", "tokens_per_day", "days"):
        _check_count(offer, f"grant.{name}", getattr(grant, name))
    usd: Any = grant.usd
    if usd is not None and not (isinstance(usd, Decimal) and usd.is_finite() and usd > 0):
        raise ConfigurationError(
            f"offer {shown(offer.model)}: grant.usd = {shown(usd)}: expected a Decimal above 0, "
            'for example Decimal("1.80")'
        )


def check_chunker(name: object, chunker: Any) -> Any:
    """The chunker; refuses what cannot be called with the arguments that one gets."""
    try:
        parameters = signature(chunker).parameters.values()
    except (TypeError, ValueError):
        raise ConfigurationError(
            f"chunker {shown(name)} takes a function, got {shown(chunker)}"
        ) from None
    for parameter in parameters:
        needed = parameter.default is Parameter.empty and parameter.kind not in _ANY_NUMBER
        if needed and (parameter.name not in ARGUMENTS or parameter.kind is _POSITIONAL_ONLY):
            raise ConfigurationError(
                f"chunker {shown(name)} wants an argument {shown(parameter.name)}: by keyword it "
                f"gets {', '.join(ARGUMENTS)}"
            )
    return chunker


def wanted_arguments(chunker: Callable[..., Any]) -> tuple[str, ...]:
    """Which of a chunker's arguments it names; all if it takes any."""
    parameters = signature(chunker).parameters
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return ARGUMENTS
    return tuple(name for name in ARGUMENTS if name in parameters)


def claim(names: dict[str, Any], name: object, value: object) -> None:
    """Enter a value under its name, which no other of its kind may have."""
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"a name must be a non-empty string, got {shown(name)}")
    if name in names:
        raise ConfigurationError(f"{name!r} is registered twice")
    names[name] = value
