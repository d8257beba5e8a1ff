"""A tokenizer's file, which the user names: counts of tokens instead of estimates."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from qwen_embed_plugins.errors import ConfigurationError, shown

if TYPE_CHECKING:
    from tokenizers import Tokenizer

REMEMBERED = 1 << 16
"""Counts that are kept: a text is counted several times on its way."""

AT_ONCE = 32
"""Texts that are encoded together: an encoding is many times as large as its text."""


class FileTokenizer:
    """Counts tokens as the model does. Any thread may use it, and the child of a fork.

    Qwen's tokenizer ends each text with a token of its own; a file that does not say so is taken to
    have left it out. Whether the file is the model's is the user's word.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        bare = tokenizer.encode("a", add_special_tokens=False)
        self._unsaid = int(len(tokenizer.encode("a").ids) == len(bare.ids))
        self._counts: dict[tuple[int, int], int] = {}

    def __call__(self, text: str) -> int:
        """The number of tokens of a text, special ones included."""
        known = self._counts.get(_sign(text))
        return self._counted((text,))[0] if known is None else known

    def count_ahead(self, texts: Sequence[str]) -> None:
        """Count these texts, so that asking for their counts is quick. Takes about a second for a
        million tokens; other threads go on meanwhile."""
        new = [text for text in texts if _sign(text) not in self._counts]
        for start in range(0, len(new), AT_ONCE):
            self._counted(new[start : start + AT_ONCE])

    def _counted(self, texts: Sequence[str]) -> list[int]:
        encoded = self._tokenizer.encode_batch_fast(list(texts))
        counts = [len(one.ids) + self._unsaid for one in encoded]
        if len(self._counts) >= REMEMBERED:
            self._counts = {}
        self._counts.update(zip(map(_sign, texts), counts, strict=True))
        return counts


def _sign(text: str) -> tuple[int, int]:
    """Stands for a text, which is not kept for its count's sake. Should two texts share it, one has
    the other's count."""
    return len(text), hash(text)


def load_tokenizer(setting: str) -> FileTokenizer:
    """The tokenizer in the file that the setting names. Reads it once in a process, which takes
    about a second for Qwen's. Raises `ConfigurationError` if it or the package is not there."""
    path = Path(setting).expanduser().absolute()
    try:
        found = path.stat()
    except OSError as error:
        raise ConfigurationError(
            f"tokenizer = {shown(setting)}: {error.strerror}; name the model's tokenizer.json, or "
            "remove the setting"
        ) from None
    return _loaded(path, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=4)
def _loaded(path: Path, modified: int, size: int) -> FileTokenizer:
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError:
        raise ConfigurationError(
            "tokenizer: the package that reads it is not installed: "
            "pip install 'qwen-embed-plugins[tokenizer]'"
        ) from None
    try:
        tokenizer = Tokenizer.from_file(str(path))
        # A file may hold these from its training; what is cut here would be cut in silence there.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return FileTokenizer(tokenizer)
    except Exception as error:  # the package raises nothing more special
        said = " ".join(str(error).split())[:200]
        raise ConfigurationError(
            f"tokenizer = {shown(str(path))}: {said}; expected the model's tokenizer.json"
        ) from None
