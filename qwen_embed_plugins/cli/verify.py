"""`qwen-embed verify`: is every offer's vector worth the same?"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import click

from qwen_embed_plugins.cli import names
from qwen_embed_plugins.cli.output import Column, json_option, print_json, print_table
from qwen_embed_plugins.cli.session import common_options, current, embedding_options, joined

if TYPE_CHECKING:
    from qwen_embed_plugins.verification import OfferReport, Report


@click.command(epilog="Example: qwen-embed verify --use ollama --use deepinfra --against ollama")
@click.option(
    "--against",
    metavar="NAME",
    shell_complete=names.providers,
    help="Measure by this offer or provider.",
)
@click.option(
    "--longest",
    type=click.IntRange(min=1),
    metavar="TOKENS",
    help="Try no longer texts than this; default: near each offer's own limit.",
)
@embedding_options
@json_option
@common_options
def verify(
    against: str | None,
    longest: int | None,
    model: str | None,
    dimensions: int | None,
    use: tuple[str, ...],
    as_json: bool,
) -> int:
    """Examine every configured offer and compare its vectors.

    Sends known texts in several languages, short and long, to each offer: up to 60,000 tokens,
    within the budget. Measures by the offer that most others agree with, or by --against. Verdicts
    are kept: `route` and every later call heed them. Exits with 1 if an offer fails.
    """
    from qwen_embed_plugins.embedder import Embedder

    settings = current().load_settings(model=model, dimensions=dimensions, use=joined(use))
    with Embedder(settings) as embedder:
        report = embedder.verify(against=against, longest=longest)
    if as_json:
        print_json(as_dict(report))
    else:
        _print(report)
    return 0 if report.offers and report.all_serve else 1


def as_dict(report: Report) -> dict[str, Any]:
    """The report fit for JSON; costs are strings, as they are exact."""
    return {
        "space": str(report.space),
        "reference": report.reference,
        "published": report.published,
        "offers": [_entry(entry) for entry in report.offers],
    }


def _entry(entry: OfferReport) -> dict[str, Any]:
    return {
        "offer": entry.offer,
        "serves": entry.serves,
        "reason": entry.reason,
        "cosine_min": entry.near.least if entry.near else None,
        "cosine_mean": entry.near.mean if entry.near else None,
        "matrix": entry.matrix,
        "findings": entry.findings,
        "fault": entry.fault.kind if entry.fault else None,
        "tokens": entry.tokens,
        "cost_usd": str(entry.cost),
        "requests": entry.requests,
    }


def _print(report: Report) -> None:
    if not report.offers:
        click.echo(f"no offer is configured for {report.space}; see `qwen-embed providers`")
        return
    print_table(
        [
            "Offer",
            Column("Cosine\nmin", right=True, long="fits"),
            Column("\nmean", right=True, long="fits"),
            Column("Card's example", long="fits"),
            Column("Verdict", long="fits"),
        ],
        [_row(entry) for entry in report.offers],
    )
    if report.published:
        click.echo(
            f"\nCosines on the model's card, queries by documents: {_matrix(report.published)}"
        )
    if report.reference:
        click.echo(f"Measured by {report.reference}")
    for entry in report.offers:
        click.echo(f"\n{entry.offer}")
        for said in (entry.reason, *entry.findings):
            click.echo(textwrap.fill(f"- {said}", 80, subsequent_indent="  "))


def _row(entry: OfferReport) -> tuple[str, ...]:
    near = entry.near
    figures = ("", "") if near is None else (f"{near.least:.4f}", f"{near.mean:.4f}")
    verdict = "serves" if entry.serves else "left out"
    if entry.fault is not None:
        verdict = "unknown"
    # The model is named once below the table: it is the same for all.
    return (entry.offer.partition("/")[0], *figures, _matrix(entry.matrix), verdict)


def _matrix(matrix: Any) -> str:
    return " / ".join(" ".join(f"{value:.3f}" for value in row) for row in matrix or ())
