"""Vectors as bytes: JSON, JSON lines and NumPy's own format, written whole or not at all."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, TYPE_CHECKING, Any, Protocol

import click

if TYPE_CHECKING:
    from qwen_embed_plugins.types import Matrix

FORMATS = ("json", "jsonl", "npy")

HELD_IN_MEMORY = 1 << 26


@contextmanager
def naming(output: str | None) -> Iterator[None]:
    """Have a failure of writing say where: a full disk names no file."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or output or "standard output"
        raise


class VectorWriter(Protocol):
    """Takes rows in order. A missing row is `null` in JSON and NaN in NumPy's format."""

    def write(self, vectors: Matrix, missing: Collection[int]) -> None:
        """Append the rows; `missing` are the places in this matrix that have no vector."""

    def finish(self) -> None:
        """Write what stands at the end."""


def writer_for(form: str, file: IO[bytes], dimensions: int) -> VectorWriter:
    """The writer of one of `FORMATS`; NumPy's needs a file in which it can go back."""
    if form == "npy":
        return _NumPyWriter(file, dimensions)
    return _JsonWriter(file) if form == "json" else _JsonLinesWriter(file)


class _JsonLinesWriter:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, vectors: Matrix, missing: Collection[int]) -> None:
        for place, row in enumerate(vectors):
            self._file.write(_json_row(row, place in missing) + b"\n")
        self._file.flush()  # whoever reads along, or goes on after a kill, has all that is paid

    def finish(self) -> None:
        """Each line is whole."""


class _JsonWriter:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._before = b"["

    def write(self, vectors: Matrix, missing: Collection[int]) -> None:
        for place, row in enumerate(vectors):
            self._file.write(self._before + _json_row(row, place in missing))
            self._before = b",\n"

    def finish(self) -> None:
        self._file.write(b"]\n" if self._before != b"[" else b"[]\n")


def _json_row(row: Any, missing: bool) -> bytes:
    import orjson

    return b"null" if missing else orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)


class _NumPyWriter:
    """The header has a fixed size and is written again at the end, when the count is known."""

    def __init__(self, file: IO[bytes], dimensions: int) -> None:
        self._file = file
        self._dimensions = dimensions
        self._count = 0
        self._file.write(self._header())

    def write(self, vectors: Matrix, missing: Collection[int]) -> None:
        self._file.write(vectors.astype("<f4", copy=False).tobytes())
        self._count += len(vectors)

    def finish(self) -> None:
        self._file.seek(0)
        self._file.write(self._header())
        self._file.seek(0, os.SEEK_END)

    def _header(self) -> bytes:
        # Version 1.0 of numpy.lib.format: magic, length, a Python literal padded with spaces.
        shape = f"({self._count}, {self._dimensions})"
        literal = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
        return b"\x93NUMPY\x01\x00\x76\x00" + literal.ljust(117).encode("ascii") + b"\n"


@contextmanager
def destination(output: str | None, *, at_once: bool) -> Iterator[IO[bytes]]:
    """Where bytes go: a file that appears when all are there, or standard output.

    With `at_once` standard output too gets everything at the end or nothing. After an error a file
    that stood there before is as it was.
    """
    if output is not None:
        with _replacing(Path(output).resolve()) as file:
            yield file
    elif at_once:
        with SpooledTemporaryFile(max_size=HELD_IN_MEMORY) as file:
            yield file
            file.seek(0)
            with naming(None):
                shutil.copyfileobj(file, sys.stdout.buffer)
    else:
        yield sys.stdout.buffer


@contextmanager
def appending(output: str, dimensions: int) -> Iterator[tuple[IO[bytes], int]]:
    """A file of JSON lines to go on with, and how many whole ones are in it. A line that was cut
    off goes. Raises `UsageError` if its vectors have another length."""
    path = Path(output)
    if path.exists() and not path.is_file():
        raise click.UsageError(f"--resume: {output} is no file that could be gone on with")
    with _closing(path.open("r+b" if path.exists() else "w+b"), output) as file:
        done, end = 0, 0
        checked = False
        for line in file:
            _require_ours(line, output)
            if not line.endswith(b"\n"):
                break
            if not checked and line != b"null\n":
                _require_length(line, dimensions, output)
                checked = True
            done, end = done + 1, end + len(line)
        file.seek(end)
        file.truncate()
        yield file, done


def _require_ours(line: bytes, output: str) -> None:
    """Before anything is cut off: what we write begins so, and so does what is left of it."""
    if not (line.startswith(b"[") or b"null\n".startswith(line)):
        raise click.UsageError(f"--resume: {output} does not hold a list of numbers in each line")


def _require_length(line: bytes, dimensions: int, output: str) -> None:
    import orjson

    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, list):
        raise click.UsageError(f"--resume: {output} does not hold a list of numbers in each line")
    if len(found) != dimensions:
        raise click.UsageError(
            f"--resume: {output} holds vectors of {len(found)} numbers, these have {dimensions}; "
            "name another file, or the settings that it was begun with"
        )


@contextmanager
def _closing(file: IO[bytes], output: str) -> Iterator[IO[bytes]]:
    """Closing writes what is left, and again what could not be written before."""
    try:
        yield file
    finally:
        with naming(output):
            file.close()


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    if path.exists() and not path.is_file():  # /dev/null, a pipe: there is nothing to rename onto
        with _closing(path.open("wb"), str(path)) as file:
            yield file
        return
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with _closing(part.open("xb"), str(path)) as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
