"""The log as lines for people, and as an object a line for programs."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from qwen_embed_plugins.cli.failures import LOGGER
from qwen_embed_plugins.cli.session import log_as


@pytest.fixture(autouse=True)
def own_handlers() -> Iterator[None]:
    logger = logging.getLogger(LOGGER)
    kept, level = list(logger.handlers), logger.level
    logger.handlers = []
    yield
    logger.handlers = kept
    logger.setLevel(level)


def test_an_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    log_as("json")
    log = logging.getLogger(f"{LOGGER}.postgres.worker")
    fields = {"vectorizer": "docs", "rows": 3, "seconds": 0.5}
    log.warning("work waits\nfor ever", extra={**fields, "reason": "key sk-abcdefghijklmnop1234"})
    log.info("by %s", "name")
    log.debug("not shown")
    written = capsys.readouterr().err
    first, second = [json.loads(line) for line in written.splitlines()]
    assert {**first, **fields} == first
    assert (first["event"], first["level"]) == ("work waits\nfor ever", "warning")
    assert first["logger"] == "qwen_embed_plugins.postgres.worker"
    assert first["time"].endswith("+00:00")
    assert "abcdefghijklmnop" not in written
    assert second["event"] == "by name"


def test_lines_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    log_as("json")
    log_as("text")
    logging.getLogger(LOGGER).warning("work waits", extra={"rows": 3})
    assert capsys.readouterr().err == "warning: work waits, rows: 3\n"
