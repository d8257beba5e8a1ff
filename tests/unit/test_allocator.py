"""What a worker tells the C library about its memory."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from qwen_embed_plugins.cli import allocator

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The options that were set, by number."""
    options: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda number, value: options.append((number, value)))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    for variable in ("GLIBC_TUNABLES", *allocator.OPTIONS):
        monkeypatch.delenv(variable, raising=False)
    return options


def test_all_options_are_set(told: list[tuple[int, int]]) -> None:
    allocator.keep_buffers()
    assert told == [(-1, 32 << 20), (-3, 32 << 20), (-8, 1)]


def test_what_the_user_has_set_stays(
    told: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    allocator.keep_buffers()
    assert told == [(-1, 32 << 20), (-3, 32 << 20)]
    told.clear()
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.rtld.nns=2:glibc.malloc.arena_max=2")
    allocator.keep_buffers()
    assert told == []


@pytest.mark.parametrize("failure", [OSError("musl"), TypeError("Windows")])
def test_another_library_is_left_alone(
    told: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def none(name: None) -> None:
        raise failure

    monkeypatch.setattr(ctypes, "CDLL", none)
    allocator.keep_buffers()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    allocator.keep_buffers()
    assert told == []


ARENAS = """
import ctypes, sys, threading
from qwen_embed_plugins.cli import allocator

if sys.argv[1] == "ours":
    allocator.keep_buffers()
together = threading.Barrier(9)

def hold():
    kept = [bytearray(1000) for _ in range(100)]
    together.wait()
    together.wait()
    del kept

threads = [threading.Thread(target=hold) for _ in range(8)]
[thread.start() for thread in threads]
together.wait()
library = ctypes.CDLL(None)
library.fdopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(library.fdopen(1, b"w"))
library.malloc_info(0, out)
library.fflush(out)
together.wait()
"""
"""Threads that are there together, and then what glibc says of its arenas."""


def test_threads_share_one_arena_of_the_library_here() -> None:
    if sys.platform == "win32" or not hasattr(ctypes.CDLL(None), "malloc_info"):
        pytest.skip("no glibc")
    arenas = {}
    for whose in ("ours", "the library's"):
        answer = subprocess.run(
            [sys.executable, "-c", ARENAS, whose],
            cwd=ROOT,
            env={k: v for k, v in os.environ.items() if k not in allocator.OPTIONS},
            capture_output=True,
            text=True,
            check=True,
        )
        arenas[whose] = answer.stdout.count("<heap nr=")
    assert arenas["ours"] == 1 < arenas["the library's"]
