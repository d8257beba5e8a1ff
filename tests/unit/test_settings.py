"""Settings: where they come from, and what wrong ones say."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from qwen_embed_plugins import ConfigurationError, Offer, Provider, Settings
from qwen_embed_plugins.catalogue import Catalogue, build_catalogue, is_private
from qwen_embed_plugins.plugins import RegisteredProvider, load_plugins
from qwen_embed_plugins.setting_list import known_settings, settings_called
from qwen_embed_plugins.setup import settings_from


def write(text: str, name: str = "qwen-embed.toml") -> Path:
    path = Path(name)
    path.write_text(text, "utf-8")
    return path


def test_argument_then_environment_then_file_then_default() -> None:
    write('model = "qwen3-embedding-4b"\ndimensions = 512\nconcurrency = 3\n')
    environ = {"QWEN_EMBED_DIMENSIONS": "256", "QWEN_EMBED_CONCURRENCY": "4"}
    settings = Settings.load(environ=environ, concurrency=5)
    assert (settings.model, settings.dimensions, settings.concurrency) == (
        "qwen3-embedding-4b",
        256,
        5,
    )
    origins = {name: origin for name, _, origin in settings.explain()}
    assert origins["model"] == "file qwen-embed.toml"
    assert origins["dimensions"] == "environment"
    assert origins["concurrency"] == "argument"
    assert origins["policy"] == "default"


def test_the_file_is_named_by_argument_or_variable() -> None:
    write("dimensions = 64\n", "one.toml")
    write("dimensions = 128\n", "two.toml")
    environ = {"QWEN_EMBED_SETTINGS": "two.toml"}
    assert Settings.load("one.toml", environ=environ).dimensions == 64
    assert Settings.load(environ=environ).dimensions == 128


def test_a_whole_file() -> None:
    write(
        """
        use = ["mine", "ollama"]
        [budget]
        usd_per_day = 0.25
        usd_total = "unlimited"
        [providers.mine]
        kind = "openai-compatible"
        base_url = "http://10.0.0.5:8000/v1"
        api_key_env = "MY_KEY"
        price_per_million = "0.05"
        [providers.mine.models."qwen3-embedding-4b"]
        price_per_million = "0.02"
        wire_name = "four"
        """
    )
    settings = Settings.load(environ={"MY_KEY": "k"}, model="qwen3-embedding-4b")
    assert settings.budget.usd_per_day == Decimal("0.25")
    assert settings.budget.usd_total is None
    mine, ollama = build_catalogue(settings, load_plugins(found=())).offers
    assert mine.offer.wire_name == "four"
    assert mine.price == Decimal("0.02"), "what the user states holds, also for a private address"
    assert ollama.price == 0
    assert mine.provider.config.api_key == "k"
    assert ollama.key == "ollama/qwen3-embedding-4b"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dimension = 5", "unknown setting 'dimension'; did you mean 'dimensions'"),
        ('task = "x"', "did you mean 'instruction'"),
        ('polcy = "cheapest"', "did you mean 'policy'"),
        ("dimensions = -1", "dimensions = -1: expected a whole number of at least 1"),
        ('dimensions = "many"', "dimensions = 'many': expected a whole number"),
        ("dimensions = true", "expected a whole number"),
        ("use = []", "expected a list of provider names"),
        ("timeout_seconds = 0", "expected seconds"),
        ("budget = 3", "budget = 3: expected a table"),
        ("[budget]\nusd_per_day = -1", "expected an amount of 0 or more"),
        ("[budget]\nusd_per_day = 'none'", 'for example "0.05", or "unlimited"'),
        ("[budget]\nusd_per_dya = 1", "did you mean 'usd_per_day'"),
        ('[providers.a]\napi_key = "sk-1"', "a key does not belong in a file"),
        ('[providers.a]\nbase_url = "localhost"', "expected an address such as"),
        ("model = ", "not valid TOML"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(text: str, said: str) -> None:
    write(text)
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(environ={})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value).strip() or "TOML" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"use": ["olama"]}, "did you mean 'ollama'"),
        ({"use": ["alfa"]}, "unknown provider 'alfa': known: "),
        (
            {"use": ["alfa"], "providers": {"alpha": {"kind": "ollama"}}},
            "unknown provider 'alfa': did you mean 'alpha'",
        ),
        (
            {"use": ["scaleway"], "api_keys": {"alfa": "x"}, "providers": {"alpha": {}}},
            "unknown provider 'alfa': did you mean 'alpha'",
        ),
        ({"model": "qwen3-embedding-8"}, "did you mean 'qwen3-embedding-8b'"),
        ({"providers": {"olama": {}}}, "did you mean 'ollama'"),
        ({"providers": {"mine": {"kind": "openai-compat"}}}, "did you mean 'openai-compatible'"),
        (
            {"providers": {"mine": {"kind": "openai-compatible"}}},
            "providers.mine: base_url is missing",
        ),
        ({"providers": {"ollama": {"base_ulr": "http://a"}}}, "did you mean 'base_url'"),
        (
            {"providers": {"ollama": {"api_key_env": "NOT_SET"}}},
            "the variable NOT_SET is not set",
        ),
        ({"use": ["lexical"]}, None),
    ],
)
def test_wrong_names_are_refused_with_the_nearest_right_one(
    arguments: dict[str, Any], said: str | None
) -> None:
    settings = Settings.load(environ={}, **arguments)
    registry = load_plugins(found=())
    if said is None:
        catalogue = build_catalogue(settings, registry)
        assert catalogue.left_out["lexical"].startswith("does not serve qwen3-embedding-8b")
        return
    with pytest.raises(ConfigurationError) as caught:
        build_catalogue(settings, registry)
    assert said in str(caught.value)


def test_an_unknown_variable_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'QWEN_EMBED_DIMENSIONS'"):
        Settings.load(environ={"QWEN_EMBED_DIMENSION": "5"})


def test_a_key_in_place_of_a_variables_name_is_not_repeated() -> None:
    write('[providers.a]\napi_key_env = "sk-planted-4711"')
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(environ={})
    assert "planted" not in str(caught.value)


PASSWORD = "planted-4711"
WRONG_PROXIES = [
    f"me:{PASSWORD}@127.0.0.1:8080",
    f"ftp://me:{PASSWORD}@127.0.0.1:8080",
    f"socks4://me:{PASSWORD}@127.0.0.1:8080",
    f"http://me:{PASSWORD}@127.0.0.1",
    f"http://me:{PASSWORD}@127.0.0.1:0",
    f"http://me:{PASSWORD}@127.0.0.1:eighty",
    f"http://me:{PASSWORD}@:8080",
    f"http://me:{PASSWORD}@[::1:8080",
    f"http://me:@{PASSWORD}@127.0.0.1:8080",
    f"http://me:1/{PASSWORD}@127.0.0.1:8080",
    f"http://me:1#{PASSWORD}@127.0.0.1:8080",
    f"http://127.0.0.1:8080/{PASSWORD}",
    8080,
    "",
]


def assert_a_line_about_proxies(error: ConfigurationError, start: str) -> None:
    said = str(error)
    assert said.startswith(f"{start}: expected a proxy such as http://127.0.0.1:8080 or socks5://")
    assert "\n" not in said
    assert PASSWORD not in said


@pytest.mark.parametrize("proxy", WRONG_PROXIES)
def test_a_wrong_proxy_is_refused_without_being_repeated(proxy: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(environ={}, providers={"far": {"proxy": proxy}})
    assert_a_line_about_proxies(caught.value, "providers.far: proxy")


def proxied(**given: Any) -> Catalogue:
    table = {"kind": "openai-compatible", "base_url": "http://127.0.0.1:1"}
    environ = given.pop("environ", {})
    settings = Settings.load(environ=environ, providers={"far": {**table, **given}}, use=["far"])
    return build_catalogue(settings, load_plugins(found=()))


@pytest.mark.parametrize("proxy", [wrong for wrong in WRONG_PROXIES if isinstance(wrong, str)][:-1])
def test_a_wrong_proxy_in_a_variable_is_refused_without_being_repeated(proxy: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        proxied(proxy_env="FAR_PROXY", environ={"FAR_PROXY": proxy})
    assert_a_line_about_proxies(caught.value, "providers.far: the variable FAR_PROXY")


@pytest.mark.parametrize("environ", [{}, {"FAR_PROXY": ""}])
def test_a_proxy_that_its_variable_does_not_hold_is_missed(environ: dict[str, str]) -> None:
    said = r"providers\.far: the variable FAR_PROXY is not set; set it or remove proxy_env"
    with pytest.raises(ConfigurationError, match=said):
        proxied(proxy_env="FAR_PROXY", environ=environ)


@pytest.mark.parametrize(
    "proxy",
    [
        "http://127.0.0.1:8080",
        "https://proxy.example:443/",
        f"socks5://me:{PASSWORD}@[::1]:1080",
        f"socks5h://me:{PASSWORD}%40@127.0.0.1:1080",
    ],
)
def test_a_proxy_is_taken_from_the_settings_or_from_a_variable(proxy: str) -> None:
    for catalogue in (
        proxied(proxy=proxy),
        proxied(proxy_env="FAR_PROXY", environ={"FAR_PROXY": proxy}),
    ):
        [offer] = catalogue.offers
        assert offer.proxy == proxy
        assert PASSWORD not in repr(offer)


def test_the_scheme_of_a_proxy_may_be_written_in_capitals() -> None:
    [offer] = proxied(proxy="SOCKS5H://Me@127.0.0.1:1080").offers
    assert offer.proxy == "socks5h://Me@127.0.0.1:1080"


def test_a_missing_named_file_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="no such file"):
        Settings.load("absent.toml", environ={})


def test_variables_may_stand_in_an_env_file_behind_the_environment() -> None:
    write("A_KEY=from-file\nB_KEY=from-file\n", "keys.env")
    settings = Settings.load(environ={"A_KEY": "from-environment"}, env_file="keys.env")
    assert settings.environ["A_KEY"] == "from-environment"
    assert settings.environ["B_KEY"] == "from-file"
    assert "from-" not in repr(settings) + str(settings.explain())


def test_an_env_file_beside_the_settings_file_is_found() -> None:
    Path("conf").mkdir()
    write("A_KEY=found\n", "conf/keys.env")
    write('env_file = "keys.env"\n', "conf/settings.toml")
    assert Settings.load("conf/settings.toml", environ={}).environ["A_KEY"] == "found"


def test_an_outside_offer_without_a_price_is_left_out_while_a_budget_is_set() -> None:
    table = {"kind": "openai-compatible", "base_url": "https://api.example.com/v1"}
    settings = Settings.load(environ={}, providers={"far": table}, use=["far"])
    catalogue = build_catalogue(settings, load_plugins(found=()))
    assert "price_per_million" in catalogue.left_out["far"]
    free = Settings.load(
        environ={}, providers={"far": table}, use=["far"], budget={"usd_per_day": "unlimited"}
    )
    assert [offer.key for offer in build_catalogue(free, load_plugins(found=())).offers] == [
        "far/qwen3-embedding-8b"
    ]


@pytest.mark.parametrize(
    ("url", "private"),
    [
        ("http://127.0.0.1:11434", True),
        ("http://[::1]:8000", True),
        ("http://localhost:1", True),
        ("http://192.168.1.4/v1", True),
        ("http://ollama:11434", True),
        ("http://gpu.internal/v1", True),
        ("", True),
        ("https://api.example.com", False),
        ("http://8.8.8.8", False),
        ("http://127.0.0.1.example.com", False),
        ("http://localhost@evil.example.com/", False),
    ],
)
def test_private_addresses(url: str, private: bool) -> None:
    assert is_private(url) is private


def test_arguments_change_settings_that_are_ready() -> None:
    ready = Settings.load(model="lexical", environ={"HOLDS": "a key"}, api_keys={"mine": "sk-1"})
    changed = settings_from(ready, {"dimensions": 1024, "model": None})
    assert (changed.model, changed.dimensions) == ("lexical", 1024)
    assert (changed.environ, changed.api_keys) == (ready.environ, ready.api_keys)
    assert changed.origins["dimensions"] == "argument"
    with pytest.raises(ConfigurationError, match="did you mean 'dimensions'"):
        settings_from(ready, {"dimension": 3})


def test_a_price_in_another_currency_is_not_taken_for_dollars() -> None:
    class Euro(Provider):
        name = "euro"
        base_url = "https://euro.example/v1"

    registry = load_plugins(found=())
    terms = Offer("qwen3-embedding-8b", "w", Decimal("0.1"), currency="EUR")
    registry.declared.providers["euro"] = RegisteredProvider(Euro, (terms,), "test")
    (offer,) = build_catalogue(Settings.load(environ={}, use=["euro"]), registry).offers
    assert offer.price == Decimal("0.12")  # a rate that errs to the dear side
    own = {"euro": {"price_per_million": "0.2", "currency": "CNY"}}
    (offer,) = build_catalogue(
        Settings.load(environ={}, use=["euro"], providers=own), registry
    ).offers
    assert offer.price == Decimal("0.030")


def test_a_key_for_a_provider_that_does_not_exist_is_refused() -> None:
    settings = Settings.load(environ={}, api_keys={"olama": "k"})
    with pytest.raises(ConfigurationError, match="did you mean 'ollama'"):
        build_catalogue(settings, load_plugins(found=()))


def test_the_state_is_a_file_an_address_or_named_by_a_variable(isolated_settings: Path) -> None:
    address = "postgresql://app:pa%2Fss@db:5433,[::1]/x?sslmode=require"
    environ = {"MY_STATE": address, "EMPTY": " "}
    assert str(Settings.load().state_place().path).startswith(str(isolated_settings))
    assert Settings.load(state="~/mine.db").state_place().path == isolated_settings / "mine.db"
    for given in ({"state": address}, {"state_env": "MY_STATE"}):
        place = Settings.load(environ=environ, **given).state_place()
        assert (place.address, place.path) == (address, None)
        assert place.name == "postgresql://app@db:5433,[::1]/x"
    write("MY_STATE = elsewhere.db", ".env")
    assert Settings.load(env_file=".env", state_env="MY_STATE").state_place().name == "elsewhere.db"


@pytest.mark.parametrize("name", ["MISSING", "EMPTY"])
def test_a_variable_that_holds_no_state_is_one_line(name: str) -> None:
    settings = Settings.load(environ={"EMPTY": " "}, state_env=name)
    with pytest.raises(ConfigurationError, match=f"state_env: the variable {name} is not set; set"):
        settings.state_place()


def test_a_state_given_twice_is_refused() -> None:
    write('state = "one.db"\n')
    settings = Settings.load(environ={"QWEN_EMBED_STATE_ENV": "MY_STATE", "MY_STATE": "two.db"})
    expected = r"state \(from file qwen-embed.toml\) and state_env \(from environment\) are both"
    with pytest.raises(ConfigurationError, match=expected):
        settings.state_place()
    with pytest.raises(ConfigurationError, match="argument"):
        settings_from(settings, {"state": "three.db"}).state_place()


def test_a_setting_is_found_by_its_name_or_by_that_within_its_table() -> None:
    def names(name: str) -> list[str]:
        return [setting.name for setting in settings_called(name)]

    assert names("cache") == ["cache"]
    assert names("budget.usd_total") == ["budget.usd_total"]
    assert names("usd_total") == ["budget.usd_total", "providers.NAME.usd_total"]
    assert names("budget") == ["budget.usd_per_day", "budget.usd_total"]
    assert len(names("providers")) > 20
    assert names("providers.mine.free") == ["providers.NAME.free"]
    assert names('providers.mine.models."bge-m3.5".free') == ["providers.NAME.free"]
    for wrong, near in (
        ("concurency", "concurrency"),
        ("timeout", "timeout_seconds"),
        ("providers.mine.fre", "providers.NAME.free"),
    ):
        with pytest.raises(ConfigurationError, match=f"did you mean '{near}'"):
            settings_called(wrong)


def test_defaults_and_variables_that_are_told_hold() -> None:
    written = {}
    for setting in known_settings():
        if setting.variable is None or setting.default in ("not set", "unlimited"):
            continue
        written[setting.variable] = setting.default
    plain = Settings.load(environ={})
    told = Settings.load(environ=written)
    assert {name: value for name, value, _ in told.explain()} == {
        name: value for name, value, _ in plain.explain()
    }
    assert {origin for name, _, origin in told.explain() if name == "policy"} == {"environment"}
