"""A question answered from a table that embeds itself: retriever | prompt | model | parser.

    export QWEN_EMBED_DSN=embedded:./pg      # or any Postgres with the `vector` extension
    export QWEN_EMBED_MODEL=lexical          # or a model that Ollama or a service has
    python examples/langchain_retriever.py "What keeps me warm at night?"

The chat model here only repeats what it was told, so that it runs without one: put yours in its
place. Needs the extras `langchain` and `postgres`, and `embedded` for a server in a folder.
"""

import os
import sys

import psycopg
from langchain_core.documents import Document
from langchain_core.language_models.fake_chat_models import ParrotFakeChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough

from qwen_embed_plugins import postgres
from qwen_embed_plugins.langchain import QwenRetriever, track_usage

PRODUCTS = [
    (1, "Parka", "Down jacket for the mountains, warm below zero.", "outdoor"),
    (2, "Sandals", "Light shoes for the beach.", "summer"),
    (3, "Sleeping bag", "For cold nights in a tent.", "outdoor"),
]
PROMPT = ChatPromptTemplate.from_template("Answer from these products:\n{products}\n\n{question}")


def fill(address: str) -> None:
    """The table, its vectorizer and rows; what is there already stays."""
    postgres.install(address)
    with psycopg.connect(address) as connection:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS products "
            "(id int PRIMARY KEY, name text, description text, category text)"
        )
        connection.cursor().executemany(
            "INSERT INTO products VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING", PRODUCTS
        )
    if not any(found.name == "products" for found in postgres.status(address)):
        postgres.create_vectorizer(
            address,
            "products",
            columns=["name", "description"],
            model=os.environ.get("QWEN_EMBED_MODEL"),  # not set: the 8B
        )
    # As a service: `qwen-embed pg worker`.
    postgres.run_worker(address, once=True)


def as_list(documents: list[Document]) -> str:
    return "\n".join(
        f"- {found.page_content} ({found.metadata['category']})" for found in documents
    )


def main(question: str) -> None:
    fill(postgres.libpq_address())  # starts the server, if it is one in a folder
    retriever = QwenRetriever(vectorizer="products", k=2)
    chain = (
        {"products": retriever | as_list, "question": RunnablePassthrough()}
        | PROMPT
        | ParrotFakeChatModel()
        | StrOutputParser()
    )
    with track_usage() as used:
        print(chain.invoke(question))
    print(f"({used.usage.tokens} tokens, {used.cost} USD)")


if __name__ == "__main__":
    if "QWEN_EMBED_DSN" not in os.environ:
        sys.exit("set QWEN_EMBED_DSN, for example to embedded:./pg")
    main(" ".join(sys.argv[1:]) or "What keeps me warm at night?")
