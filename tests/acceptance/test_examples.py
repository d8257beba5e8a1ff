"""Each example is run as its user would, against simulated servers and a real Postgres; what wants
a Docker daemon or systemd is taken apart, and its commands are run."""

from __future__ import annotations

import configparser
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo

from qwen_embed_plugins import Settings, postgres
from qwen_embed_plugins.catalogue import is_private
from qwen_embed_plugins.settings import NOT_SETTINGS, TOP_LEVEL
from qwen_embed_plugins.testing import SimulatedServer
from tests.documents import blocks_of
from tests.postgres_tools import tool

if TYPE_CHECKING:
    from tests.postgres_servers import Server

EXAMPLES = Path(__file__).parents[2] / "examples"
TESTED = {
    "compose.yaml",
    "embed_with_ollama.py",
    "langchain_retriever.py",
    "own_provider",  # in test_own_provider.py
    "postgres_auto_embed",
    "qwen-embed-worker.service",
    "sql_only",
    "stack_free_tiers.py",
    "stack_free_tiers.toml",
}


def test_every_example_is_run_by_a_test() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.name != "__pycache__"} == TESTED


def python(run: Any, name: str, *arguments: object, **variables: str) -> list[str]:
    """The lines that an example prints."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=run.environment(**variables),
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    run.check_output(done.stdout, done.stderr)
    return done.stdout.splitlines()


def test_embed_with_ollama(run: Any, server: SimulatedServer) -> None:
    *ranked, last = python(run, "embed_with_ollama.py", "When?", OLLAMA_HOST=server.url)
    scores = [float(line.split()[0]) for line in ranked]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    assert re.fullmatch(r"\d+ tokens from ollama/qwen3-embedding-0\.6b, 0 USD", last)
    assert {request.body["model"] for request in server.requests} == {"qwen3-embedding:0.6b"}


KEYS = {
    "SILICONFLOW_API_KEY": "siliconflow",
    "DEEPINFRA_TOKEN": "deepinfra",
    "SCW_SECRET_KEY": "scaleway",
    "OPENROUTER_API_KEY": "openrouter",
}


@pytest.fixture
def services() -> Iterator[Mapping[str, SimulatedServer]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(SimulatedServer(native=4096)) for name in KEYS.values()}


def test_stack_free_tiers(
    run: Any, services: Mapping[str, SimulatedServer], tmp_path: Path
) -> None:
    # The example's settings, with addresses. What is built in of prices and grants holds only for
    # the services' own addresses, so they are stated; the grants so small that each ends.
    text = (EXAMPLES / "stack_free_tiers.toml").read_text("utf-8")
    text, stated = re.subn(
        r'^free = true.*|^free_usd = "1.00"', "free_tokens = 3000", text, flags=re.M
    )
    assert stated == 3
    for name, service in services.items():
        table = f"[providers.{name}]\n"
        assert table in text
        price = "0.01" if name == "openrouter" else "0.05"
        more = f'base_url = "{service.url}/v1"\nprice_per_million = "{price}"\n'
        text = text.replace(table, table + more)
    settings = tmp_path / "settings.toml"
    settings.write_text(text, "utf-8")
    texts = tmp_path / "texts.txt"
    texts.write_text(
        "\n".join(f"Text number {number} of a job, a line of its file." for number in range(1_500)),
        "utf-8",
    )
    variables = {**dict.fromkeys(KEYS, "k"), "OLLAMA_HOST": "127.0.0.1:9"}
    *offers, last = python(run, "stack_free_tiers.py", texts, settings, **variables)
    assert last == "1500 vectors of qwen3-embedding-8b/1024"
    told = {line.split("/")[0]: int(line.split()[1].replace(",", "")) for line in offers}
    assert told == {name: service.tokens_served for name, service in services.items()}
    *free, paid = told
    assert paid == "openrouter"
    assert all(2_000 < told[name] <= 3_000 for name in free)
    costs = {line.split("/")[0]: float(line.split()[3]) for line in offers}
    assert costs[paid] == pytest.approx(told[paid] * 0.01e-6, abs=1e-6)
    assert not any(costs[name] for name in free)


def test_the_settings_of_the_stack_are_those_of_the_readme(tmp_path: Path) -> None:
    settings = Settings.load(EXAMPLES / "stack_free_tiers.toml", environ={})
    readme = (EXAMPLES.parent / "README.md").read_text("utf-8")
    [shown] = [
        block.text
        for block in blocks_of(readme)
        if (block.heading, block.language) == ("Stacking free tiers", "toml")
    ]
    file = tmp_path / "shown.toml"
    file.write_text(shown, "utf-8")
    of_readme = Settings.load(file, environ={})
    assert settings.providers["siliconflow"] == of_readme.providers["siliconflow"]
    assert settings.providers["deepinfra"] == of_readme.providers["deepinfra"]
    assert settings.budget == of_readme.budget
    assert set(settings.providers) == set(KEYS.values())


def test_langchain_retriever(run: Any, server: SimulatedServer, database: Any) -> None:
    lines = python(run, "langchain_retriever.py", "What is warm?", OLLAMA_HOST=server.url)
    assert lines[0].endswith("Answer from these products:")
    assert sum(line.startswith("- ") or line.endswith(")") for line in lines) >= 2
    assert any("(outdoor)" in line or "(summer)" in line for line in lines)
    assert "What is warm?" in lines
    assert re.fullmatch(r"\(\d+ tokens, 0 USD\)", lines[-1])
    assert database.execute("SELECT count(*) FROM products_embedding") == [(3,)]


def test_postgres_auto_embed(
    run: Any, server: SimulatedServer, database: Any, postgres_server: Server
) -> None:
    folder = EXAMPLES / "postgres_auto_embed"
    [block] = blocks_of((folder / "README.md").read_text("utf-8"))
    psql = tool("psql", postgres_server.version() // 10000)
    printed: dict[str, str] = {}
    for line in block.text.splitlines():
        words = shlex.split(line.removeprefix("$ ").replace("$QWEN_EMBED_DSN", database.address))
        if words[0] == "export":
            continue  # the fixture has set it, to this test's database
        if words[0] == "psql":
            strict = [psql, "--set=ON_ERROR_STOP=1", *words[1:]]
            done = subprocess.run(strict, cwd=folder, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            printed[words[-1]] = done.stdout
        else:
            assert words[0] == "qwen-embed"
            answer = run(*words[1:], OLLAMA_HOST=server.url)
            assert answer.code == 0, answer.err
            printed[words[2]] = answer.out
    rows = database.execute("SELECT title, embedding IS NOT NULL FROM articles_embedded ORDER BY 1")
    assert rows == [("Night trains", True), ("Прокол", True)]
    assert "2 embedded" in printed["worker"]
    assert any(title in printed["search"] for title in ("Night trains", "Прокол"))
    assert "(2 rows)" in printed["search.sql"]
    assert " 0.000" in printed["search.sql"]  # the newest is nearest to itself


SQL_ONLY = EXAMPLES / "sql_only"


class SqlOnly:
    """The example without a library of ours, as its page starts it: `search` runs its script."""

    def __init__(self, run: Any, database: Any, major: int, model: str, **variables: str) -> None:
        self._run, self._database, self._model = run, database, model
        self._psql = Path(tool("psql", major))
        self._variables = variables
        self._serving: Any = None
        self._search: list[str] = []

    def __enter__(self) -> SqlOnly:
        [block] = blocks_of((SQL_ONLY / "README.md").read_text("utf-8"))
        for line in block.text.replace("qwen3-embedding-0.6b", self._model).splitlines():
            line = line.removeprefix("$ ").replace("$QWEN_EMBED_DSN", self._database.address)
            words = shlex.split(line)
            if words[0] == "psql":
                prepared = self._execute(self._psql, "--set=ON_ERROR_STOP=1", *words[1:])
                assert prepared.returncode == 0, prepared.stderr
            elif words[-1] == "&":
                self._start(words[1:-1])
            elif words[0] == "qwen-embed":
                done = self._run(*words[1:], **self._variables)
                assert done.code == 0, done.err
            elif words[0] != "export":  # the fixture has set it, to this test's database
                assert self._serving is not None
                *self._search, self.shown_query = words
        return self

    def __exit__(self, *_: object) -> None:
        if self._serving is not None:
            self._serving.terminate()
            self._serving.communicate(timeout=30)

    def _start(self, words: list[str]) -> None:
        """The server, at a free port instead of the usual one."""
        self._serving = self._run.start(
            *words, "--port", "0", stderr=subprocess.PIPE, env=self._variables
        )
        line = self._serving.stderr.readline().decode()
        found = re.search(r"http://[^/]*:\d+/v1", line)
        assert found, line + self._serving.stderr.read().decode()
        self.url = found[0]

    def search(self, query: str, url: str | None = None) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join((str(self._psql.parent), os.environ["PATH"]))
        return self._execute(*self._search, query, EMBEDDINGS_URL=url or self.url, PATH=path)

    def _execute(self, *words: object, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*map(str, words)],
            cwd=SQL_ONLY,
            capture_output=True,
            text=True,
            env={**os.environ, **variables},
            timeout=60,
            check=False,
        )


needs_curl = pytest.mark.skipif(
    sys.platform == "win32" or shutil.which("curl") is None, reason="it is a shell script with curl"
)


@needs_curl
def test_sql_only(
    run: Any, server: SimulatedServer, database: Any, postgres_server: Server
) -> None:
    major = postgres_server.version() // 10000
    with SqlOnly(
        run, database, major, "qwen3-embedding-0.6b", OLLAMA_HOST=server.url
    ) as application:
        done = application.search(application.shown_query)
        assert "(2 rows)" in done.stdout, done.stderr
        # The server was told that it is a query, and what is no text is refused in its words.
        assert server.texts_seen[-1].endswith(f"\nQuery:{application.shown_query}")
        refused = application.search("")
        assert refused.returncode == 1
        assert "text_empty" in refused.stderr
        alone = application.search("text", url="http://127.0.0.1:9/v1")
        assert alone.returncode == 1
        assert alone.stderr.startswith("curl: ")


@needs_curl
def test_sql_only_finds_what_was_asked_for(
    run: Any, database: Any, postgres_server: Server
) -> None:
    with SqlOnly(run, database, postgres_server.version() // 10000, "lexical") as application:
        for query, title in (
            (application.shown_query, "Night trains"),
            ("how to bake \"bread\" at 'home'\n\\", "Bread at home"),
        ):
            done = application.search(query)
            first = done.stdout.splitlines()[2]
            assert first.lstrip().startswith(title), done.stdout + done.stderr
            assert "Ночной поезд" not in done.stdout


def is_known(variable: str) -> bool:
    """Whether it is a setting of ours, a variable of libpq's, or says where Ollama is."""
    name = variable.removeprefix("QWEN_EMBED_")
    if name != variable:
        return name.lower() in TOP_LEVEL or name in NOT_SETTINGS
    libpq = {option.envvar.decode() for option in Conninfo.get_defaults() if option.envvar}
    return variable in {*libpq, "OLLAMA_HOST", *KEYS}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    yaml: Any = importlib.import_module("yaml")
    found: dict[str, Any] = yaml.safe_load((EXAMPLES / "compose.yaml").read_text("utf-8"))
    return found


def test_the_services_of_compose_fit_together(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services["database"]["image"] == "pgvector/pgvector:pg17"
    keys = {
        "build", "command", "depends_on", "environment", "healthcheck", "image", "init", "ports",
        "restart", "stop_grace_period", "volumes",
    }  # fmt: skip
    for service in services.values():
        assert service.keys() <= keys
        assert ("image" in service) != ("build" in service)
        for name, wanted in service.get("depends_on", {}).items():
            assert name in services
            if wanted["condition"] == "service_healthy":
                assert services[name]["healthcheck"]["test"][0] == "CMD"
            else:
                assert wanted["condition"] == "service_completed_successfully"
                assert "restart" not in services[name]
    mounted = [volume for service in services.values() for volume in service.get("volumes", ())]
    assert {volume.split(":")[0] for volume in mounted} == compose["volumes"].keys()


def test_the_worker_of_compose_reaches_the_other_services(compose: dict[str, Any]) -> None:
    services = compose["services"]
    environment = services["worker"]["environment"]
    assert all(map(is_known, environment))
    address = conninfo_to_dict(environment["QWEN_EMBED_DSN"])
    assert address["host"] == "database"
    assert address["dbname"] == services["database"]["environment"]["POSTGRES_DB"]
    password = services["database"]["environment"]["POSTGRES_PASSWORD"]
    assert environment["PGPASSWORD"] == password
    assert password.startswith("${POSTGRES_PASSWORD:?"), "no password stands in the file"
    for service in ("worker", "model"):
        assert services[service]["environment"]["OLLAMA_HOST"] == "http://ollama:11434"
    assert is_private(environment["OLLAMA_HOST"]), "else it would need a price"
    # Its state outlives the container.
    volume = services["worker"]["volumes"][0].split(":")[1]
    assert environment["QWEN_EMBED_STATE"].startswith(f"{volume}/")
    pyproject = (EXAMPLES.parent / "pyproject.toml").read_text("utf-8")
    extra = re.search(
        r"'qwen-embed-plugins\[(\w+)\]'", services["worker"]["build"]["dockerfile_inline"]
    )
    assert extra is not None
    assert re.search(rf"^{extra[1]} = \[", pyproject, re.M)


def test_the_health_check_of_compose_is_a_command(
    compose: dict[str, Any], postgres_server: Server
) -> None:
    _, command, *options = compose["services"]["database"]["healthcheck"]["test"]
    help_text = subprocess.run(
        [tool(command, postgres_server.version() // 10000), "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for option in options:
        assert option.split("=")[0] + "=" in help_text


def test_the_commands_of_composes_worker_run(
    compose: dict[str, Any], run: Any, server: SimulatedServer, database: Any, tmp_path: Path
) -> None:
    worker = compose["services"]["worker"]
    shell, option, script = worker["command"]
    assert (shell, option) == ("sh", "-c")
    install, work = (shlex.split(part) for part in script.split("&&"))
    assert (install[0], *work[:2]) == ("qwen-embed", "exec", "qwen-embed")
    environment = {
        "OLLAMA_HOST": server.url,
        "QWEN_EMBED_USE": worker["environment"]["QWEN_EMBED_USE"],
        "QWEN_EMBED_STATE": str(tmp_path / "state.db"),
    }
    done = run(*install[1:], **environment)
    assert done.code == 0, done.err
    database.execute(
        "CREATE TABLE docs (id int PRIMARY KEY, body text)",
        "INSERT INTO docs VALUES (1, 'one')",
        "SELECT qwen_embed.create_vectorizer('docs', columns => ARRAY['body'])",
    )
    done = run(*work[2:], "--once", **environment)
    assert done.code == 0, done.err
    # The model that is pulled is the one that the installation asks for.
    [pull, name] = compose["services"]["model"]["command"]
    assert pull == "pull"
    assert {request.body["model"] for request in server.requests} == {name}


def unit(text: str) -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[method-assign,assignment]  # names keep their case
    parser.read_string(text)
    return {name: dict(parser[name]) for name in parser.sections()}


UNIT = EXAMPLES / "qwen-embed-worker.service"


def test_the_unit_is_understood_by_systemd(tmp_path: Path) -> None:
    text = UNIT.read_text("utf-8")
    sections = unit(text)
    assert sections.keys() == {"Unit", "Service", "Install"}
    known = {
        "DynamicUser", "Environment", "EnvironmentFile", "ExecStart", "NoNewPrivileges",
        "PrivateTmp", "ProtectHome", "ProtectSystem", "Restart", "RestartPreventExitStatus",
        "RestartSec", "RestrictAddressFamilies", "StateDirectory", "TimeoutStopSec", "Type",
    }  # fmt: skip
    assert sections["Service"].keys() <= known
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        return
    program = sections["Service"]["ExecStart"].split()[0]
    copy = tmp_path / UNIT.name
    copy.write_text(text.replace(program, sys.executable), "utf-8")  # one that is there
    answer = subprocess.run(
        [analyze, "verify", str(copy)], capture_output=True, text=True, check=False
    )
    said = answer.stdout + answer.stderr
    assert answer.returncode == 0, said
    assert UNIT.name not in said


def test_the_command_of_the_unit_runs(
    run: Any, server: SimulatedServer, database: Any, tmp_path: Path
) -> None:
    text = UNIT.read_text("utf-8")
    service = unit(text)["Service"]
    program, *arguments = shlex.split(service["ExecStart"])
    assert program.endswith("/bin/qwen-embed")
    assert f"{program.removesuffix('qwen-embed')}pip install 'qwen-embed-plugins[postgres]'" in text
    variable, _, path = service["Environment"].partition("=")
    assert is_known(variable)
    assert path.startswith(f"%S/{service['StateDirectory']}/")
    assert all(map(is_known, re.findall(r"^#   ([A-Z_]+)=", text, re.M)))
    postgres.install(database.address)
    port = arguments.index("--metrics-port") + 1
    arguments[port] = "0"  # any that is free
    done = run(*arguments, "--once", OLLAMA_HOST=server.url, **{variable: str(tmp_path / "s.db")})
    assert done.code == 0, done.err
    # Wrong arguments end it with the code after which systemd does not start it again.
    assert run(*arguments, "--nonsense").code == int(service["RestartPreventExitStatus"])
