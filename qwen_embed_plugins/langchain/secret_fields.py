"""Fields that hold a secret: kept as pydantic's `SecretStr`, and made of plain text as well."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import SecretStr

if TYPE_CHECKING:
    # pydantic takes text for a SecretStr; type checkers of users have to hear of it.
    Secret = SecretStr | str
else:
    Secret = SecretStr


def revealed(secret: SecretStr | str) -> str:
    """The text of a field."""
    return secret if isinstance(secret, str) else secret.get_secret_value()
