"""`OLLAMA_HOST` is understood in every form that Ollama itself accepts."""

from __future__ import annotations

import pytest

from qwen_embed_plugins.providers.ollama import Ollama, ollama_url


@pytest.mark.parametrize(
    ("value", "url"),
    [
        # The cases of ollama/ollama:envconfig/config_test.go, read 2026-11, as a client sees them.
        ("", "http://127.0.0.1:11434"),
        ("1.2.3.4", "http://1.2.3.4:11434"),
        (":1234", "http://127.0.0.1:1234"),
        ("1.2.3.4:1234", "http://1.2.3.4:1234"),
        ("example.com", "http://example.com:11434"),
        ("example.com:1234", "http://example.com:1234"),
        (":0", "http://127.0.0.1:0"),
        (":66000", "http://127.0.0.1:11434"),
        (":-1", "http://127.0.0.1:11434"),
        ("[::1]", "http://[::1]:11434"),
        ("[::]", "http://[::1]:11434"),
        ("::1", "http://[::1]:11434"),
        ("[::1]:1337", "http://[::1]:1337"),
        (" 1.2.3.4 ", "http://1.2.3.4:11434"),
        ('"1.2.3.4"', "http://1.2.3.4:11434"),
        ("'1.2.3.4'", "http://1.2.3.4:11434"),
        ('" 1.2.3.4 "', "http://1.2.3.4:11434"),
        ("http://1.2.3.4", "http://1.2.3.4:80"),
        ("https://1.2.3.4", "https://1.2.3.4:443"),
        ("https://1.2.3.4:4321", "https://1.2.3.4:4321"),
        ("https://example.com/ollama", "https://example.com:443/ollama"),
        ("http://example.com:8080/ollama/", "http://example.com:8080/ollama"),
        ("http://user:word@example.com:8080", "http://user:word@example.com:8080"),
        # An address to listen on is no address to call: the loopback is.
        ("0.0.0.0", "http://127.0.0.1:11434"),  # noqa: S104 (nothing is bound)
        ("0.0.0.0:8080", "http://127.0.0.1:8080"),
        ("http://0.0.0.0:11434/", "http://127.0.0.1:11434"),
        ("11434", "http://127.0.0.1:11434"),
        ("localhost:11434/", "http://localhost:11434"),
        ("http://localhost:11434///", "http://localhost:11434"),
    ],
)
def test_every_form(value: str, url: str) -> None:
    assert ollama_url(value) == url
    assert Ollama.url_from_environment(value) == url


def test_a_url_stays_what_it_is() -> None:
    once = ollama_url("gpu-box:8080/")
    assert ollama_url(once) == once
