"""Vectors from Ollama, on this machine or where OLLAMA_HOST says, and a search by hand.

ollama pull qwen3-embedding:0.6b
python examples/embed_with_ollama.py "When does the train leave?"
"""

import sys

from qwen_embed_plugins import Embedder

DOCUMENTS = [
    "The night train to the coast leaves at nine from platform four.",
    "Bread needs time: let the dough rise for an hour, then bake it.",
    "A sleeping bag for the mountains should keep you warm below zero.",
]


def main(query: str) -> None:
    with Embedder(model="qwen3-embedding-0.6b", dimensions=512, use=["ollama"]) as embedder:
        result = embedder.embed(DOCUMENTS)
        wanted = embedder.embed_query(query)
    # Rows have unit length, so the product is the cosine similarity.
    for score, text in sorted(zip(result.vectors @ wanted, DOCUMENTS, strict=True), reverse=True):
        print(f"{score:6.3f}  {text}")
    print(f"{result.usage.tokens} tokens from {result.offers[0]}, {result.cost} USD")


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "When does the train leave?")
