"""Groups whose help lists every command without importing one."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cached_property
from typing import Any, NamedTuple

import click
from click.shell_completion import CompletionItem

from qwen_embed_plugins.cli.names import plugins_of_others


class Lazy(NamedTuple):
    """A command that is imported when it is used."""

    home: str
    """`module:name` of the command."""

    help: str
    """Its line in the list of commands."""


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
        registry = plugins_of_others()
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
        known = ctx.resilient_parsing or self.get_command(ctx, args[0]) is not None
        if not known and not args[0].startswith("-"):
            near = get_close_matches(args[0], self.list_commands(ctx), n=1, cutoff=0.6)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"no command {args[0]!r}{hint}")
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands and options; no command is imported for its line of help."""
        found = [
            CompletionItem(name, help=said)
            for name, said in self._lines()
            if name.startswith(incomplete)
        ]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def _lines(self) -> list[tuple[str, str]]:
        rows = [(name, lazy.help) for name, lazy in self._lazy.items()]
        added = sorted(self.added.items())
        return rows + [(name, command.get_short_help_str()) for name, command in added]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(self._lines())
