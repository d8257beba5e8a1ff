"""Which certificates a client trusts, and when they are read."""

from __future__ import annotations

import ssl
from types import SimpleNamespace
from typing import Any

import certifi
import pytest

from qwen_embed_plugins.ways_httpx import common_options


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(variable, raising=False)


def trusted(*, private: bool, proxy: str | None = None) -> ssl.SSLContext:
    job: Any = SimpleNamespace(offer=SimpleNamespace(private=private, proxy=proxy))
    context: ssl.SSLContext = common_options(job)["verify"]
    return context


def test_certificates_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = trusted(private=True), trusted(private=False)
    assert near.verify_mode is far.verify_mode is ssl.CERT_REQUIRED
    assert near.check_hostname
    assert far.check_hostname
    monkeypatch.setattr(ssl, "create_default_context", None)
    assert trusted(private=True) is near
    assert trusted(private=True, proxy="http://127.0.0.1:9") is near
    assert trusted(private=False) is far


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_others_are_read_where_the_environment_names_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, variable: str
) -> None:
    near, far = trusted(private=True), trusted(private=False)
    empty = tmp_path / "certificates"
    empty.mkdir()
    value = certifi.where() if variable == "SSL_CERT_FILE" else str(empty)
    monkeypatch.setenv(variable, value)
    assert trusted(private=False) is not far
    # Of the environment nothing counts for what is near.
    assert trusted(private=True) is near
    monkeypatch.delenv(variable)
    assert trusted(private=False) is far
