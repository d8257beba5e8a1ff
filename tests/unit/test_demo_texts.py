"""The texts that the demo embeds: enough of them, in three languages, each said once."""

from __future__ import annotations

import json
import re
from collections import Counter
from importlib.resources import files

import pytest

DATA: dict[str, list[dict[str, str]]] = json.loads(
    (files("qwen_embed_plugins") / "data" / "demo_texts.json").read_text("utf-8")
)
TEXTS, QUERIES = DATA["texts"], DATA["queries"]
LANGUAGES = {"en", "ru", "zh"}
SCRIPTS = {"en": r"[A-Za-z]", "ru": r"[А-Яа-яЁё]", "zh": r"[\u4e00-\u9fff]"}


def test_twelve_subjects_in_three_languages_evenly() -> None:
    assert len(TEXTS) >= 96
    counts = Counter((text["subject"], text["language"]) for text in TEXTS)
    subjects = {subject for subject, _ in counts}
    assert len(subjects) == 12
    assert set(counts) == {(subject, language) for subject in subjects for language in LANGUAGES}
    assert set(counts.values()) == {3}


@pytest.mark.parametrize("field", ["id", "text"])
def test_nothing_stands_twice(field: str) -> None:
    values = [text[field].casefold() for text in TEXTS]
    assert [value for value, count in Counter(values).items() if count > 1] == []


def test_each_text_is_short_and_in_its_language() -> None:
    for text in TEXTS:
        assert set(text) == {"id", "language", "subject", "text"}
        said = text["text"]
        assert said == said.strip(), said
        assert 12 <= len(said) <= 120, said
        own = len(re.findall(SCRIPTS[text["language"]], said))
        assert own > 0.7 * len(re.sub(r"\W", "", said)), said


def test_one_query_in_each_language_about_a_known_subject() -> None:
    assert {query["language"] for query in QUERIES} == LANGUAGES
    assert len(QUERIES) == 3
    assert {query["subject"] for query in QUERIES} <= {text["subject"] for text in TEXTS}
    assert not {query["text"] for query in QUERIES} & {text["text"] for text in TEXTS}
