"""The isolation that every other test relies on."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    import random

pytest_plugins = ["pytester"]

OPTIONS = ("-p", "no:cacheprovider", "-p", "no:langsmith_plugin", "-p", "no:socket")
CONFTEST = Path(__file__).with_name("conftest.py").read_text("utf-8")


def test_variables_and_folders_of_the_machine_do_not_leak(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        """
        import os

        def test_nothing_is_left():
            assert not [name for name in os.environ if name.startswith("PLANTED_")]
            assert "QWEN_EMBED_DIMENSIONS" not in os.environ
            assert "OLLAMA_HOST" not in os.environ
            assert "https_proxy" not in os.environ
            assert os.environ["QWEN_EMBED_TEST_DSN"] == "kept"
        """
    )
    planted = {
        "PLANTED_API_KEY": "k",
        "PLANTED_TOKEN": "k",
        "PLANTED_SECRET_KEY": "k",
        "QWEN_EMBED_DIMENSIONS": "32",
        "QWEN_EMBED_TEST_DSN": "kept",
        "OLLAMA_HOST": "http://127.0.0.1:1",
        "https_proxy": "http://127.0.0.1:1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in planted.items():
            patch.setenv(name, value)
        pytester.runpytest_subprocess(*OPTIONS).assert_outcomes(passed=1)


def test_a_swallowed_attempt_to_leave_fails_the_test(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        """
        import contextlib
        import socket

        def test_before_it():
            pass

        def test_it():
            with contextlib.suppress(OSError):
                socket.create_connection(("192.0.2.1", 443), timeout=1)
        """
    )
    result = pytester.runpytest_subprocess(*OPTIONS)
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*tried to leave this machine: connect to 192.0.2.1*"])


def test_the_seed_that_is_printed_is_that_of_every_process(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("QWEN_EMBED_TEST_SEED", raising=False)
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        """
        import conftest

        def test_it():
            raise AssertionError(f"random seed: {conftest.SEED} (")
        """
    )
    result = pytester.runpytest_subprocess(*OPTIONS, "--numprocesses=1")
    result.assert_outcomes(failed=1)
    [header] = [line for line in result.outlines if line.startswith("random seed: ")]
    result.stdout.fnmatch_lines([f"E *AssertionError: {header.partition('(')[0]}("])


def test_the_home_is_an_empty_folder(isolated_settings: Path) -> None:
    assert Path.home() == isolated_settings
    assert isolated_settings in platformdirs.user_config_path("qwen-embed").parents
    assert list(Path.cwd().iterdir()) == []


def test_loopback_and_unix_sockets_are_reached(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()
    path = os.path.relpath(tmp_path / "s")  # an address of at most 107 bytes
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(path)
        server.listen()
        client.connect(path)


def test_names_that_never_resolve_fail_without_a_look_up() -> None:
    with pytest.raises(socket.gaierror):
        socket.create_connection(("nowhere.invalid", 80), timeout=5)


@settings(max_examples=2)
@given(st.integers())
def test_properties_may_run_in_the_isolation(number: int) -> None:
    assert isinstance(number, int)


def test_one_test_gets_one_sequence(seeded: random.Random) -> None:
    assert seeded.random() != seeded.random()
