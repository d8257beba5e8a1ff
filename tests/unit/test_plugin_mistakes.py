"""What authors of plugins get wrong is told them in one line, with the cure."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, cast

import orjson
import pytest

from qwen_embed_plugins import ConfigurationError, Settings
from qwen_embed_plugins.catalogue import build_catalogue
from qwen_embed_plugins.plugins import Registry, load_plugins
from qwen_embed_plugins.provider import Provider
from qwen_embed_plugins.providers.openai_compatible import OpenAICompatible
from qwen_embed_plugins.testing import (
    Behaviour,
    FakeProvider,
    InProcessContract,
    ProviderContract,
)
from qwen_embed_plugins.types import Answer, Batch, WireRequest, WireResponse

PLUGIN = """\
from decimal import Decimal

from qwen_embed_plugins import Offer, hookimpl
from qwen_embed_plugins.offers import Grant
from qwen_embed_plugins.providers.openai_compatible import OpenAICompatible


class Acme(OpenAICompatible):
    name = "acme"
    base_url = "https://api.acme.example/v1"
    api_key_env = "ACME_API_KEY"


@hookimpl
def register_providers(register):
    register(Acme, offers=[Offer("qwen3-embedding-8b", "acme/8b", Decimal("0.04"))])
"""

ENTRY_POINTS = [
    (
        "acme_modul",
        "names a module that is not installed: correct the name in [project.entry-points",
    ),
    ("acme_modul.deeper", "a module that is not installed"),
    ("acme-module", "is no module's name: name it as you would import it"),
    ("acme_module:Acmee", 'name the module alone, acme = "acme_module"'),
    (
        "acme_module:Acme",
        'names Acme, which holds no hooks: name the module alone, acme = "acme_module"',
    ),
    ("acme_module:register_providers", 'name the module alone, acme = "acme_module"'),
    ("acme_module:Decimal", "names Decimal, which holds no hooks"),
]

MODULES = [
    (
        "@hookimpl\n",
        "",
        "registers nothing; is @hookimpl missing above register_providers?",
    ),
    (
        "@hookimpl\ndef register_providers",
        "@hookimpl\ndef observe(event): pass\n\n\ndef register_providers",
        "registers nothing; is @hookimpl missing above register_providers?",
    ),
    (
        "@hookimpl\ndef register_providers",
        "def setup",
        "registers nothing: this module has no hook, such as register_providers",
    ),
    (
        "def register_providers",
        "def register_provider",
        "unknown hook 'register_provider': did you mean 'register_providers'?",
    ),
    (
        "register(Acme,",
        "register(Acme(None),",
        "register() takes the class Acme itself, not an instance: settings make the instances",
    ),
    (
        'Decimal("0.04")',
        "0.04",
        "offer 'qwen3-embedding-8b': price_per_million = 0.04: expected a Decimal of 0 or "
        'more, for example Decimal("0.04")',
    ),
    (
        'name = "acme"',
        'name = "Acme_Cloud"',
        "Acme.name = 'Acme_Cloud': expected lower-case letters, digits and single dashes, for "
        "example 'acme-cloud'",
    ),
    ('name = "acme"', "name = None", "Acme.name = None: expected lower-case letters"),
    (
        '    name = "acme"\n',
        "",
        "the name 'openai-compatible' (providers) is already taken: give it a name of its own",
    ),
    ("[Offer(", "(Offer(", "SyntaxError: "),
    (
        'Decimal("0.04")',
        'Decimal("0.04"), max_batch_bytes="1 MB"',
        "max_batch_bytes = '1 MB': expected a whole number of at least 1",
    ),
    (
        'Decimal("0.04")',
        'Decimal("0.04"), tokens_per_minute=0',
        "tokens_per_minute = 0: expected a whole number of at least 1",
    ),
    (
        'Decimal("0.04")',
        'Decimal("0.04"), grant=1_000_000',
        "offer 'qwen3-embedding-8b': grant = 1000000: expected a Grant",
    ),
    (
        'Decimal("0.04")',
        'Decimal("0.04"), grant=Grant(usd=1.80)',
        'grant.usd = 1.8: expected a Decimal above 0, for example Decimal("1.80")',
    ),
    (
        'Decimal("0.04")',
        'Decimal("0.04"), grant=Grant(tokens="1M")',
        "grant.tokens = '1M': expected a whole number of at least 1",
    ),
    (
        'offers=[Offer("qwen3-embedding-8b", "acme/8b", Decimal("0.04"))]',
        'offers=Offer("qwen3-embedding-8b", "acme/8b")',
        "offers= takes a list, [Offer(...)], got Offer(model='qwen3-embedding-8b'",
    ),
]

WITHOUT_PRICE = "give price_per_million in [providers.acme] or in its plugin, or set usd_per_day"

Load = Callable[..., Registry]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Loads a plugin from its source, changed as told, by the entry point that is given."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def loaded(old: str = "", new: str = "", point: str = "acme_module") -> Registry:
        assert old in PLUGIN
        (tmp_path / "acme_module.py").write_text(PLUGIN.replace(old, new, 1), "utf-8")
        return load_plugins(found=[EntryPoint("acme", point, "qwen_embed_plugins")], disabled=())

    yield loaded
    sys.modules.pop("acme_module", None)


def complaint(registry: Registry) -> str:
    [failure] = registry.failed()
    assert "acme" not in registry.providers
    assert failure.error is not None
    assert "\n" not in failure.error
    assert len(failure.error) < 300, "cut off where it is kept"
    return failure.error


def test_without_a_mistake_it_is_taken(load: Load) -> None:
    registry = load()
    assert not registry.failed()
    assert "acme" in registry.providers


@pytest.mark.parametrize(("point", "said"), ENTRY_POINTS)
def test_a_wrong_entry_point(load: Load, point: str, said: str) -> None:
    assert said in complaint(load(point=point))


def test_a_module_that_the_plugin_lacks_is_not_taken_for_a_wrong_entry_point(load: Load) -> None:
    said = complaint(load("from decimal", "import no_such_library\nfrom decimal"))
    assert said == "ModuleNotFoundError: No module named 'no_such_library'"


def test_an_attribute_missing_inside_the_module_is_not_taken_for_a_wrong_entry_point(
    load: Load,
) -> None:
    said = complaint(load("@hookimpl", "Decimal.nothing\n@hookimpl", "acme_module:hookimpl"))
    assert said.startswith("AttributeError: ")
    assert "nothing" in said


@pytest.mark.parametrize(("old", "new", "said"), MODULES)
def test_a_mistake_in_the_module(load: Load, old: str, new: str, said: str) -> None:
    assert said in complaint(load(old, new))


def test_an_offer_without_a_price_at_a_public_address(load: Load) -> None:
    registry = load(', Decimal("0.04")')
    catalogue = build_catalogue(Settings.load(environ={"ACME_API_KEY": "k"}), registry)
    assert WITHOUT_PRICE in catalogue.left_out["acme"]


class ByPosition(OpenAICompatible):
    """Takes the rows as they come."""

    name = "by-position"
    encoding = "float"

    def parse_response(self, response: WireResponse) -> Answer:
        return Answer([item["embedding"] for item in orjson.loads(response.content)["data"]])


class KeyInURL(OpenAICompatible):
    name = "key-in-url"

    def build_request(self, batch: Batch) -> WireRequest:
        request = super().build_request(batch)
        return WireRequest(f"{request.url}?key={self.config.api_key}", request.content)


class WithoutScheme(OpenAICompatible):
    name = "without-scheme"
    base_url = "api.acme.example/v1"


class KeyForgotten(OpenAICompatible):
    name = "key-forgotten"
    api_key_env = "ACME_API_KEY"

    def build_request(self, batch: Batch) -> WireRequest:
        request = super().build_request(batch)
        return WireRequest(request.url, request.content)


class OwnFormat(Provider):
    """Speaks a wire format that the simulated server does not know."""

    name = "own-format"
    base_url = "https://api.brook.example"

    def build_request(self, batch: Batch) -> WireRequest:
        return WireRequest(f"{self.url}/vectors", orjson.dumps({"texts": batch.texts}))

    def parse_response(self, response: WireResponse) -> Answer:
        return Answer(orjson.loads(response.content)["vectors"])


PROVIDERS = [
    (
        OwnFormat,
        "test_faithful_answer_gives_each_text_its_vector",
        "the simulated server does not understand /vectors: ",
    ),
    (
        ByPosition,
        "test_rows_in_another_order_are_put_right",
        "a text got another one's vector: return the rows by their index",
    ),
    (
        KeyInURL,
        "test_key_is_in_headers_only",
        "the key is in the URL, which logs show: use a header",
    ),
    (
        WithoutScheme,
        "test_request_goes_to_a_whole_address",
        "the request goes to 'api.acme.example/v1/embeddings': base_url begins with https://",
    ),
    (
        KeyForgotten,
        "test_key_is_in_headers_only",
        "no header holds the key: send self.config.api_key",
    ),
]


def contract_of(given: object) -> ProviderContract:
    contract = ProviderContract()
    contract.provider = cast("type[Provider]", given)  # type: ignore[misc]  # as a subclass sets it
    return contract


def check(contract: InProcessContract, name: str) -> str:
    with pytest.raises((AssertionError, ConfigurationError, pytest.fail.Exception)) as caught:
        getattr(contract, name)()
    return str(caught.value)


@pytest.mark.parametrize(("provider", "test", "said"), PROVIDERS)
def test_the_contract_tells_the_cure(provider: type[Provider], test: str, said: str) -> None:
    assert said in check(contract_of(provider), test)


def test_the_contract_asks_for_an_answer_in_a_format_that_it_does_not_know() -> None:
    said = check(contract_of(OwnFormat), "test_faithful_answer_gives_each_text_its_vector")
    assert "override serve(request, behaviour) and answer as the service would" in said


class RefusesNothing(ProviderContract):
    """The test of an author whose stand-in for the service takes every text."""

    provider = OwnFormat

    def serve(self, request: WireRequest, behaviour: Behaviour) -> WireResponse:
        texts = orjson.loads(request.content)["texts"]
        vectors = [self.expected([text])[0].tolist() for text in texts]
        return WireResponse(200, orjson.dumps({"vectors": vectors}))


NOTHING_REFUSED = "a refused batch raised no ProviderError; where the test overrides `serve`"


def test_the_contract_asks_a_servers_stand_in_to_refuse_what_it_is_told_to() -> None:
    contract = RefusesNothing()
    contract.test_faithful_answer_gives_each_text_its_vector()
    said = check(contract, "test_refused_batch_raises_a_classified_fault")
    assert said.startswith(NOTHING_REFUSED)
    assert "refuse a text which holds behaviour.refuse_texts_with" in said


class Backwards(FakeProvider):
    """Gives the rows in another order than the texts, which their shape does not show."""

    def _serve(self, texts: tuple[str, ...], dimensions: int) -> Any:
        return super()._serve(texts, dimensions)[::-1]


class TestOfUnknownVectors(InProcessContract):
    """The contract of an author who does not say which vectors are right."""

    provider = FakeProvider

    def expected(self, texts: Sequence[str]) -> None:
        return None


def test_the_contract_sees_rows_in_another_order_without_knowing_the_right_ones() -> None:
    contract = TestOfUnknownVectors()
    contract.provider = Backwards  # type: ignore[misc]  # as a subclass sets it
    contract.test_faithful_answer_gives_each_text_its_vector()
    said = check(contract, "test_a_text_has_the_same_vector_in_any_company")
    assert "rows must stand in the order of the texts" in said


def test_the_contract_tells_an_instance_from_a_class() -> None:
    instance: Any = OpenAICompatible(None)  # type: ignore[arg-type]
    said = check(contract_of(instance), "test_one_text_gives_one_vector")
    assert "set it to your class, not to an instance" in said


def test_the_contract_refuses_the_name_that_registration_refuses() -> None:
    capital = type("Acme", (OpenAICompatible,), {"name": "Acme"})
    said = check(contract_of(capital), "test_name_can_stand_in_settings")
    assert "Acme.name = 'Acme': expected lower-case letters" in said


def test_the_page_quotes_what_is_said() -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "plugins.md").read_text("utf-8")
    quoted = re.findall(
        r"^\| `(.+?)`[^|]* \|", page.partition("## When something is wrong")[2], re.M
    )
    tested = [str(said) for *_, said in (*ENTRY_POINTS, *MODULES, *PROVIDERS)]
    assert len(quoted) > 8
    for phrase in quoted:
        assert any(phrase in said for said in (*tested, WITHOUT_PRICE, NOTHING_REFUSED)), phrase
