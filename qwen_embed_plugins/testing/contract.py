"""What every provider plugin must do, as a pytest class. A plugin's whole test file may be:

    from qwen_embed_plugins.testing import ProviderContract
    from my_plugin import MyProvider

    class TestMyProvider(ProviderContract):
        provider = MyProvider

This is enough for a service whose wire format the simulated server knows: the answers come from its
code, without a network. For another format override `serve`, which may as well give recorded
answers. A provider that computes in process and builds no requests takes
`InProcessContract` instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, get_args
from urllib.parse import urlsplit

import numpy as np
import orjson
import pytest

from qwen_embed_plugins.errors import ProviderError
from qwen_embed_plugins.models import QWEN3_MODELS, Model
from qwen_embed_plugins.provider import Provider, ProviderConfig
from qwen_embed_plugins.registration import check_provider
from qwen_embed_plugins.testing.behaviour import Behaviour
from qwen_embed_plugins.testing.dialects import Models, answer, recorded
from qwen_embed_plugins.testing.vectors import reference_vector
from qwen_embed_plugins.types import (
    Answer,
    Batch,
    Call,
    Fault,
    FaultKind,
    TransportFailure,
    WireRequest,
    WireResponse,
)

KEY = "sk-contract-0123456789abcdef"

TEXTS = (
    "a text",
    "Процедура банкротства физических лиц",
    '引号 "quoted" \\ back\\slash\n\ttab',
    "  spaces at both ends  ",
    "emoji 🙂 and \u200b a zero-width space",
)

SAME = 0.98
"""Cosine of one text's vectors: the settings' default for two offers of one space."""

_ERROR_BODIES = (
    b"",
    b"{}",
    b"[]",
    b"null",
    b"\x00\xff\xfe garbage",
    b"<html><body>502 Bad Gateway</body></html>",
    b'{"error": "' + KEY.encode() + b' is not valid"}',
    b'{"error": {"message": "bad key ' + KEY.encode() + b'", "type": null, "code": 17}}',
    b'{"message": "no", "type": "Validation", "code": 422}',
    b'{"detail": [{"loc": ["body", "input", 0], "msg": "no", "type": "value_error"}]}',
    b'{"error": {"message": {"deep": [1]}, "code": [2]}}',
)


class InProcessContract:
    """What holds for every provider. Enough for one that computes in process: subclass it as
    `Test…`, set `provider`, and override what differs."""

    provider: ClassVar[type[Provider]]
    model: ClassVar[Model] = QWEN3_MODELS[-1]
    wire_name: ClassVar[str] = "a-model"
    base_url: ClassVar[str] = "http://127.0.0.1:9/v1"
    """Used where the class itself names none. Nothing is sent there."""
    options: ClassVar[Mapping[str, Any]] = {}
    """Values for the provider's own options, if it needs any."""

    def make(self) -> Provider:
        """The configured provider, with the planted key."""
        __tracebackhide__ = True
        made = not isinstance(self.provider, type)
        assert not made, f"provider = {self.provider!r}: set it to your class, not to an instance"
        url = self.provider.base_url or self.base_url
        name = self.provider.name
        return self.provider(ProviderConfig(name, base_url=url, api_key=KEY, options=self.options))

    def expected(self, texts: Sequence[str]) -> Any:
        """The vectors that `serve` gave for the texts; None if only their shape is known."""
        return [reference_vector(text, self.model.dimensions) for text in texts]

    def batch(self, texts: Sequence[str] = TEXTS) -> Batch:
        """A batch as the core hands it over."""
        encoding = self.provider.encoding
        return Batch(tuple(texts), "document", self.model, self.wire_name, encoding=encoding)

    def run(self, batch: Batch, behaviour: Behaviour | None = None) -> Answer:
        """Drive one exchange to its answer, by a server that behaves so."""
        exchange = self.make().exchange(batch)
        reply: Any = None
        while True:
            try:
                effect = exchange.send(reply)
            except StopIteration as done:
                return _answer(done.value)
            if isinstance(effect, Call):
                reply = effect.function()
            elif isinstance(effect, WireRequest):
                reply = self.serve(effect, behaviour or Behaviour())
            else:
                reply = None

    def serve(self, request: WireRequest, behaviour: Behaviour) -> WireResponse:
        """The answer to a request; a provider that computes in process makes none."""
        raise AssertionError(f"{request!r} needs a server: take ProviderContract")

    def test_name_can_stand_in_settings(self) -> None:
        check_provider(self.provider)

    def test_attributes_have_their_documented_types(self) -> None:
        for attribute in ("base_url", "base_url_env", "api_key_env"):
            value = getattr(self.provider, attribute)
            assert value is None or isinstance(value, str), (
                f"{attribute} = {value!r}: expected a string or None"
            )
        longest = self.provider.exchange_seconds
        assert longest is None or longest > 0, f"exchange_seconds = {longest!r}"
        assert all(isinstance(kind, type) for kind in self.provider.options.values()), (
            f"options maps names to types, got {self.provider.options!r}"
        )
        unknown = self.options.keys() - self.provider.options.keys()
        assert not unknown, f"options lacks {sorted(unknown)}"

    def test_key_is_in_no_repr(self) -> None:
        provider = self.make()
        for shown in (repr(provider), str(provider), repr(provider.config)):
            assert KEY not in shown, f"the key shows in {shown}"

    def test_faithful_answer_gives_each_text_its_vector(self) -> None:
        answered = self.run(self.batch())
        self._check(answered, TEXTS)
        assert answered.tokens is None or (type(answered.tokens) is int and answered.tokens >= 0), (
            f"tokens = {answered.tokens!r}: a count, or None if none was reported"
        )

    def test_one_text_gives_one_vector(self) -> None:
        self._check(self.run(self.batch(TEXTS[:1])), TEXTS[:1])

    def test_a_text_has_the_same_vector_in_any_company(self) -> None:
        together = _unit(self.run(self.batch()))
        alone = np.concatenate([_unit(self.run(self.batch([text]))) for text in TEXTS])
        cosines = (together * alone).sum(axis=1)
        assert cosines.min() > SAME, (
            "a text alone has another vector than in a batch: rows must stand in the order of the "
            "texts, and padding must not be read"
        )

    def _check(
        self, answered: Answer, texts: Sequence[str], cure: str = "in the order of the texts"
    ) -> None:
        __tracebackhide__ = True  # the report shows the test and the message, not these lines
        with np.errstate(all="raise"):
            matrix = np.asarray(answered.vectors, dtype=np.float32)
        shape = (len(texts), self.model.dimensions)
        assert matrix.shape == shape, (
            f"shape {matrix.shape}, expected {shape}: a row for each text, of the native length of "
            f"{self.model.name} (set `model` in the test if it serves another one)"
        )
        assert np.isfinite(matrix).all(), "numbers that are not finite"
        expected = self.expected(texts)
        if expected is not None:
            assert np.allclose(matrix, expected, atol=1e-6), (
                f"a text got another one's vector: return the rows {cure}"
            )


class ProviderContract(InProcessContract):
    """What holds for every provider that is reached by HTTP. Subclass it as `Test…`, set
    `provider`, and override what differs."""

    dialect: ClassVar[str | None] = None
    """The simulated server's wire format that answers; None: the one that the path tells."""

    def serve(self, request: WireRequest, behaviour: Behaviour) -> WireResponse:
        """The answer of a server that behaves so. Override it for a wire format of your own."""
        body = orjson.loads(request.content)
        headers = {name.lower(): value for name, value in request.headers.items()}
        path = urlsplit(request.url).path
        arrived = recorded(path, headers, body, dialect=self.dialect)
        reply, _ = answer(arrived, behaviour, Models(native=self.model.dimensions))
        assert reply.status == 200 or behaviour != Behaviour(), (
            f"the simulated server does not understand {path}: {(reply.body or b'').decode()} If "
            "the service speaks a format of its own, override serve(request, behaviour) and answer "
            "as the service would"
        )
        return WireResponse(reply.status, reply.body or b"", dict(reply.headers))

    def request(self) -> WireRequest:
        """The provider's request for `TEXTS`."""
        return self.make().build_request(self.batch())

    def requests(self) -> list[WireRequest]:
        """Every request of one exchange: a provider may fetch a token first."""
        sent: list[WireRequest] = []
        exchange = self.make().exchange(self.batch())
        reply: Any = None
        while True:
            try:
                effect = exchange.send(reply)
            except StopIteration:
                return sent
            reply = None
            if isinstance(effect, WireRequest):
                sent.append(effect)
                reply = self.serve(effect, Behaviour())

    def test_request_goes_to_a_whole_address(self) -> None:
        url = self.request().url
        whole = re.match(r"https?://[^/]", url)
        assert whole, (
            f"the request goes to {url!r}: base_url begins with https://, and self.url holds it"
        )

    def test_request_is_the_same_each_time_and_leaves_the_batch_alone(self) -> None:
        batch = self.batch()
        provider = self.make()
        first, second = provider.build_request(batch), provider.build_request(batch)
        assert first == second, "two requests for one batch differ"
        assert batch == self.batch(), "build_request changed the batch"

    def test_request_holds_every_text_unaltered_and_in_order(self) -> None:
        sent = [text for text in _strings(orjson.loads(self.request().content)) if text in TEXTS]
        assert sent == list(TEXTS), f"of the texts the body holds {sent!r}"

    def test_request_asks_for_the_native_length(self) -> None:
        asked = {
            value
            for key, value in _members(orjson.loads(self.request().content))
            if re.fullmatch(r"(?i)(output_?)?dimension(s|ality)?", key)
        }
        assert asked <= {self.model.dimensions, None}, (
            f"asks for {asked}: send a length only where batch.dimensions is one; the core shortens"
        )

    def test_key_is_in_headers_only(self) -> None:
        requests = self.requests()
        for request in requests:
            assert KEY not in request.url, "the key is in the URL, which logs show: use a header"
            assert KEY.encode() not in request.content, "the key is in the body: use a header"
            assert KEY not in repr(request), "the key shows in the repr of the request"
        if self.provider.api_key_env:
            headers = [value for request in requests for value in request.headers.values()]
            assert any(KEY in value for value in headers), (
                "no header holds the key: send self.config.api_key, or set api_key_env = None"
            )

    def test_rows_in_another_order_are_put_right(self) -> None:
        answered = self.run(self.batch(), Behaviour(order="shuffled"))
        self._check(answered, TEXTS, "by their index, since services shuffle them")

    def test_floats_are_read_where_base64_was_asked_for(self) -> None:
        self._check(self.run(self.batch(), Behaviour(encodings="floats_only")), TEXTS)

    def test_refused_batch_raises_a_classified_fault(self) -> None:
        try:
            self.run(self.batch(), Behaviour(refuse_texts_with="emoji"))
        except ProviderError as error:
            _check_fault(error.fault)
        else:
            pytest.fail(
                "a refused batch raised no ProviderError; where the test overrides `serve`, that "
                "must refuse a text which holds behaviour.refuse_texts_with"
            )

    @pytest.mark.parametrize("content", _ERROR_BODIES)
    def test_a_200_without_vectors_gives_none(self, content: bytes) -> None:
        provider = self.make()
        error = _raised_by(provider, content)
        assert error is not None, f"{content!r} was taken for an answer"
        assert KEY not in str(error), f"the key shows in {error}"
        if isinstance(error, ProviderError):
            _check_fault(error.fault)

    @pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 422, 424, 429, 500, 502, 503])
    def test_any_refusal_is_classified(self, status: int) -> None:
        provider = self.make()
        for content in _ERROR_BODIES:
            _check_fault(provider.classify(WireResponse(status, content)))

    def test_common_statuses_mean_what_they_say(self) -> None:
        provider = self.make()
        kinds = {
            status: provider.classify(WireResponse(status, b"")).kind for status in (401, 429, 500)
        }
        assert kinds[401] == "bad_key", f"401 is {kinds[401]}"
        assert kinds[429] in ("rate_limited", "quota_spent"), f"429 is {kinds[429]}"
        assert kinds[500] == "unavailable", f"500 is {kinds[500]}"

    def test_retry_after_is_kept(self) -> None:
        fault = self.make().classify(WireResponse(429, b"", {"retry-after": "7"}))
        assert fault.retry_after_seconds == 7.0 or fault.until is not None, "the wait is lost"

    @pytest.mark.parametrize("kind", ["connect", "timeout", "dropped", "too_big"])
    def test_transport_failure_is_unavailable(self, kind: Any) -> None:
        fault = self.make().classify(TransportFailure(kind, "no answer from 127.0.0.1"))
        _check_fault(fault)
        assert fault.kind == "unavailable", f"{kind} is {fault.kind}"


def _raised_by(provider: Provider, content: bytes) -> Exception | None:
    try:
        provider.parse_response(WireResponse(200, content))
    except Exception as error:  # any: documented to mean that the answer could not be read
        return error
    return None


def _unit(answered: Answer) -> Any:
    matrix = np.asarray(answered.vectors, dtype=np.float64)
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def _answer(value: Any) -> Answer:
    assert isinstance(value, Answer), f"exchange returned {type(value).__name__}, not Answer"
    return value


def _check_fault(fault: Fault) -> None:
    __tracebackhide__ = True
    assert isinstance(fault, Fault), f"classify returned {type(fault).__name__}"
    assert fault.kind in get_args(FaultKind), f"unknown kind {fault.kind!r}"
    assert fault.message, "a fault without a message"
    assert KEY not in fault.message, f"the key shows in {fault.message!r}"
    assert KEY not in repr(fault), "the key shows in the repr of the fault"
    assert len(fault.message) < 1000, "a message that long may hold a whole text"


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from value.items()
    for inner in value.values() if isinstance(value, dict) else value:
        if isinstance(inner, (dict, list)):
            yield from _members(inner)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)
