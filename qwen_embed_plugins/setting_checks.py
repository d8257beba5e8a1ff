"""The values that settings may have: each checked and given in its final type, wrong ones told in a
line. Pure, but for the time zones of this machine.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timezone
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from typing import Any, get_args

from qwen_embed_plugins.amounts import MOST, UNITS_PER_USD
from qwen_embed_plugins.errors import ConfigurationError, shown, without_secrets
from qwen_embed_plugins.types import Role
from qwen_embed_plugins.windows import Daily, daily

ENVIRONMENT_PREFIX = "QWEN_EMBED_"

SYNONYMS = {
    "dimension": "dimensions",
    "dim": "dimensions",
    "task": "instruction",
    "prompt": "instruction",
    "timeout": "timeout_seconds",
    "url": "base_url",
    "endpoint": "base_url",
    "key_env": "api_key_env",
    "providers_used": "use",
    "price": "price_per_million",
    "rpm": "requests_per_minute",
    "rpd": "requests_per_day",
    "tpm": "tokens_per_minute",
    "parallel": "max_concurrency",
    "roles": "serve",
    "free_credit": "free_usd",
    "free_expires": "free_until",
    "free_per_day": "free_tokens_per_day",
    "reset": "free_reset",
    "daily_budget": "usd_per_day",
}
"""What people write for it elsewhere; spelling alone would not lead there."""


MOST_MONEY = MOST // UNITS_PER_USD
"""A million US dollars: larger sums are mistakes, and would overflow the counts."""

ROLES = get_args(Role)

Check = Callable[[Any], Any]
"""Gives the value in its final type, or raises ValueError that says what was expected."""


def expected(check: Check) -> str:
    """What a value must be, in the words in which a wrong one is refused."""
    said = _refusal(check, object())
    # A check that first wants any text may want more of it.
    return _refusal(check, "?") or said if said == _refusal(text, object()) else said


def _refusal(check: Check, value: object) -> str:
    try:
        check(value)
    except ValueError as error:
        return str(error).removeprefix("expected ")
    return ""


def text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("expected a non-empty string")
    return value


def whole_number(value: Any) -> int:
    return _at_least(1, value)


def count(value: Any) -> int:
    """How many there are, which may be none."""
    return _at_least(0, value)


def _at_least(least: int, value: Any) -> int:
    number = int(value) if isinstance(value, str) and value.strip().isdecimal() else value
    if isinstance(number, bool) or not isinstance(number, int) or number < least:
        raise ValueError(f"expected a whole number of at least {least}")
    if number > MOST:
        raise ValueError(f"expected a whole number of at most {MOST}")
    return number


def seconds(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if isinstance(value, bool) or not 0 < number < 1e6:
        raise ValueError("expected seconds, a number above 0")
    return number


def cosine(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if isinstance(value, bool) or not 0 <= number <= 1:
        raise ValueError("expected a cosine, a number from 0 to 1")
    return number


def truth(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false", "1", "0"):
        return value.lower() in ("true", "1")
    raise ValueError("expected true or false")


def _listed(value: Any) -> Any:
    """A list, also where it is written as "a, b"."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def names(value: Any) -> tuple[str, ...]:
    value = _listed(value)
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError('expected a list of provider names, for example ["ollama"]')
    return tuple(text(item) for item in value)


def money(value: Any) -> Decimal:
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        amount = Decimal(-1)
    if isinstance(value, bool) or not amount.is_finite() or amount < 0:
        raise ValueError('expected an amount of 0 or more, for example "0.05"')
    if amount > MOST_MONEY:
        raise ValueError(f"expected an amount of at most {MOST_MONEY}")
    return amount


def money_or_unlimited(value: Any) -> Decimal | None:
    if value == "unlimited":
        return None
    try:
        return money(value)
    except ValueError as error:
        raise ValueError(f'{error}, or "unlimited"') from None


def one_of(*known: str) -> Check:
    def check(value: Any) -> Any:
        if value not in known:
            raise ValueError(f"expected {' or '.join(map(repr, known))}")
        return value

    return check


def roles(value: Any) -> tuple[Role, ...]:
    value = _listed(value)
    if not isinstance(value, (list, tuple)) or not value or any(x not in ROLES for x in value):
        raise ValueError('expected a list of "query", "document" or both')
    return tuple(dict.fromkeys(value))


def moment(value: Any) -> datetime:
    """A moment in UTC. A day stands for its beginning, and a time without a zone is one of UTC."""
    if isinstance(value, str):
        value = _from_iso(value.strip())
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time())
    if not isinstance(value, datetime):
        raise ValueError(_NO_MOMENT)
    if value.tzinfo is None:
        return value.replace(tzinfo=timezone.utc)
    try:
        return value.astimezone(timezone.utc)
    except OverflowError:
        raise ValueError(_NO_MOMENT) from None


_NO_MOMENT = 'expected a day or a time, for example 2027-01-31 or "2027-01-31T12:00:00+03:00"'


def _from_iso(said: str) -> date | None:
    try:
        return date.fromisoformat(said)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(re.sub("[zZ]$", "+00:00", said))
    except ValueError:
        return None


def reset(value: Any) -> Daily:
    return value if isinstance(value, Daily) else daily(text(value))


def variable_name(value: Any) -> str:
    if not isinstance(value, str) or not value.isidentifier() or _looks_like_a_key(value):
        # The value is not repeated: people put the key itself here.
        raise ValueError("expected the name of an environment variable, not a key")
    return value


def _looks_like_a_key(value: str) -> bool:
    """Long, without the underscores of a name, and of letters in both cases or with digits."""
    plain = len(value) >= 20 and "_" not in value
    return plain and not value.isupper() and (not value.islower() or not value.isalpha())


def web_address(value: Any) -> str:
    from urllib.parse import urlsplit

    address = text(value)
    parts = urlsplit(address)
    try:
        port_is_one = parts.port is None or parts.port > 0
    except ValueError:
        port_is_one = False
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_one:
        raise ValueError("expected an address such as http://127.0.0.1:11434")
    return address


def as_table(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError("expected a table")
    return value


SECRET_WORDS = ("proxy", "key", "token", "secret", "password", "state")


def sounds_secret(name: str) -> bool:
    """Whether a setting's value may be or hold a secret, judged by its name."""
    return name != "tokenizer" and any(word in name for word in SECRET_WORDS)


def checked_table(table: Mapping[str, Any], known: Mapping[str, Check], where: str) -> Any:
    """The table with each value checked; `ConfigurationError` names the setting and its value."""
    checked = {}
    for name, value in table.items():
        if name not in known:
            raise unknown_setting(name, known, where)
        try:
            checked[name] = known[name](value)
        except ValueError as error:
            # Ours of that name are counts: `free_tokens`, `tokens_per_minute`.
            secret = sounds_secret(name) and "tokens" not in name
            said = without_secrets(value) if isinstance(value, str) else value
            found = "" if secret or isinstance(value, Mapping) else f" = {shown(said)}"
            raise ConfigurationError(f"{where}: {name}{found}: {error}") from None
    return checked


def unknown_setting(name: str, known: Mapping[str, Any], where: str) -> ConfigurationError:
    """The error for a setting that does not exist, with the nearest one that does."""
    near = SYNONYMS.get(name) if SYNONYMS.get(name) in known else None
    near = near or next(iter(get_close_matches(name, known, n=1, cutoff=0.6)), None)
    spelt = _variable if where == "environment" else str
    hint = f"did you mean {spelt(near)!r}?" if near else f"known here: {', '.join(sorted(known))}"
    return ConfigurationError(f"{where}: unknown setting {shown(spelt(name))}; {hint}")


def _variable(name: str) -> str:
    return f"{ENVIRONMENT_PREFIX}{name.upper()}"
