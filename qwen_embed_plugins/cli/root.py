"""The top command. Its help lists every command without importing one."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from qwen_embed_plugins._version import __version__
from qwen_embed_plugins.cli.failures import PROGRAM
from qwen_embed_plugins.cli.session import common_options, show_log

if TYPE_CHECKING:
    from qwen_embed_plugins.plugins import Registry


class Lazy(NamedTuple):
    """A command that is imported when it is used."""

    home: str
    """`module:name` of the command."""

    help: str
    """Its line in the list of commands."""


COMMANDS = {
    "embed": Lazy("embed:embed", "Turn texts into vectors."),
    "providers": Lazy("providers:providers", "List providers, their offers and prices."),
    "plugins": Lazy("plugins:plugins", "List plugins and what each provides."),
    "settings": Lazy("settings:settings", "Show each setting and where it came from."),
}


class LazyGroup(click.Group):
    """A group of lazy commands, and of those that plugins add if `takes_plugins`."""

    def __init__(
        self, *args: Any, lazy: Mapping[str, Lazy], takes_plugins: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = lazy
        self._takes_plugins = takes_plugins

    @cached_property
    def added(self) -> Mapping[str, click.Command]:
        """The commands of plugins. None takes the name of a command of ours."""
        if not self._takes_plugins:
            return {}
        registry = _commands_of_plugins()
        return {
            name: command
            for name, command in (registry.commands if registry else {}).items()
            if name not in self._lazy and isinstance(command, click.Command)
        }

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self._lazy, *sorted(self.added)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self._lazy:
            module, _, name = self._lazy[cmd_name].home.partition(":")
            home = importlib.import_module(f"qwen_embed_plugins.cli.{module}")
            command: click.Command = getattr(home, name)
            return command
        return self.added.get(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            near = get_close_matches(args[0], self.list_commands(ctx), n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"no command {args[0]!r}{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, lazy.help) for name, lazy in self._lazy.items()]
        rows += [(name, self.added[name].get_short_help_str()) for name in sorted(self.added)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _commands_of_plugins() -> Registry | None:
    """What installed plugins declare; None without any, so that `--help` loads nothing."""
    from importlib.metadata import entry_points

    found = entry_points(group="qwen_embed_plugins")
    if not found:
        return None
    from qwen_embed_plugins.plugins import load_plugins

    return load_plugins(found=tuple(found))


@click.group(
    cls=LazyGroup,
    lazy=COMMANDS,
    takes_plugins=True,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    epilog='Example: qwen-embed embed "What is the capital of China?" --dimensions 1024',
)
@common_options
@click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
@click.pass_context
def root(context: click.Context) -> None:
    """Qwen3-Embedding vectors from any provider, for programs and for Postgres tables.

    Exit codes: 0 done; 1 refused, or work remains; 2 settings or arguments are wrong.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def run(arguments: Sequence[str] | None = None) -> int:
    """Parse and run; errors are left to the caller."""
    if "_QWEN_EMBED_COMPLETE" in os.environ:
        root.main(prog_name=PROGRAM)  # shell completion: answers the shell, then exits
    for stream in (sys.stdout, sys.stderr):
        # A terminal without Unicode gets question marks, not a traceback.
        getattr(stream, "reconfigure", lambda **_: None)(errors="replace")
    show_log()
    given = list(sys.argv[1:] if arguments is None else arguments)
    with root.make_context(PROGRAM, given) as context:
        code = root.invoke(context)
    return code if isinstance(code, int) else 0
