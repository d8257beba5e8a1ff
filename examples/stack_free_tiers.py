"""One embedding job over the free tiers of several services; prints who served and what it cost.

    export DEEPINFRA_TOKEN=... SILICONFLOW_API_KEY=...
    python examples/stack_free_tiers.py texts.txt            # one text a line

The services and what was given to you stand in `stack_free_tiers.toml`, beside this file; a second
argument names another one. To see beforehand where a job would go, at no cost:

    qwen-embed route --settings examples/stack_free_tiers.toml --file texts.txt
"""

import sys
from pathlib import Path

from qwen_embed_plugins import Embedder

SETTINGS = Path(__file__).with_name("stack_free_tiers.toml")


def show(done: int, total: int) -> None:
    print(f"\r{done} of {total} texts", end="", file=sys.stderr, flush=True)


def main(texts: list[str], settings: Path) -> None:
    with Embedder(settings) as embedder:
        result = embedder.embed(texts, on_progress=show)
    print(file=sys.stderr)
    for offer in dict.fromkeys(attempt.offer for attempt in result.attempts):
        attempts = [attempt for attempt in result.attempts if attempt.offer == offer]
        tokens = sum(attempt.tokens for attempt in attempts)
        cost = sum(attempt.cost for attempt in attempts)
        print(f"{offer:<32} {tokens:>12,} tokens {cost:>10.6f} USD")
    print(f"{len(result.vectors) - len(result.errors)} vectors of {result.space}")
    for error in result.errors:
        print(f"line {error.position + 1}: {error.kind}: {error.message}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python stack_free_tiers.py TEXTS [SETTINGS]")
    lines = Path(sys.argv[1]).read_text("utf-8").splitlines()
    main(lines, Path(sys.argv[2]) if len(sys.argv) > 2 else SETTINGS)
