"""How help is drawn: plain text with a heading for each panel. Rich alone takes longer than all the rest of --help."""

import os
import re
import shutil
import sys
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

__all__ = ["Program"]

WIDEST: Final = 110  # columns; longer lines are hard to read
FIRST: Final = 34  # columns of an option and its values; a longer one has a line of its own

# The order of the help: what most people want first.
ORDER: Final = (
    "chat",
    "generate",
    "score",
    "serve",
    "demo",
    "eval",
    "pull",
    "list",
    "show",
    "init",
    "rm",
    "sessions",
    "templates",
)

# What people type who know ollama, llm or mlx_lm -> the command that does it.
OTHER_NAMES: Final = {
    **dict.fromkeys(("run", "talk", "repl"), "chat"),
    **dict.fromkeys(("complete", "completion", "prompt", "ask", "infer"), "generate"),
    **dict.fromkeys(("ls", "models", "ps"), "list"),
    **dict.fromkeys(("create", "add", "new"), "init"),
    **dict.fromkeys(("delete", "remove", "uninstall"), "rm"),
    **dict.fromkeys(("download", "install", "get"), "pull"),
    **dict.fromkeys(("info", "inspect"), "show"),
    **dict.fromkeys(("logprobs", "loglikelihood"), "score"),
    **dict.fromkeys(("evaluate", "evaluation", "perplexity"), "eval"),
    **dict.fromkeys(("benchmark", "speed"), "bench"),
    **dict.fromkeys(("check", "diagnose"), "doctor"),
    **dict.fromkeys(("start", "server", "api"), "serve"),
    "version": "--version",
}


class _Command(TyperCommand):
    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        # `[NAME] [PROMPT]` is one argument of several words, but not of any number; `{NAME}` is NAME
        pieces = [p.removesuffix("...")[1:-1] if " [" in p else p for p in super().collect_usage_pieces(ctx)]
        return [re.sub(r"^{([^{}|]+)}", r"\1", piece) for piece in pieces]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_options(self, ctx, formatter)

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        super().format_usage(ctx, _adjusted(formatter))


class _Group(TyperGroup):
    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_options(self, ctx, formatter)
        commands = [(name, self.commands[name]) for name in self.list_commands(ctx)]
        rows = [(name, _first_line(command.help)) for name, command in commands if not command.hidden]
        _section(formatter, "Commands", rows)

    def list_commands(self, ctx: Any) -> list[str]:
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))

    def get_params(self, ctx: Any) -> Any:
        """As Typer's, but a flag that is not given is False: to convert None, Typer would import pydantic, 60 ms."""
        params = super().get_params(ctx)
        for param in params:
            if getattr(param, "is_flag", False) and param.default is None:
                param.default = False
        return params

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        super().format_usage(ctx, _adjusted(formatter))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As Typer's, but an unknown command's error names the command that is meant."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            known = [*self.commands, *(OTHER_NAMES if ctx.parent is None else ())]
            near = next(iter(get_close_matches(args[0].lower(), known, 1)), None)
            meant = near if near is None or near in self.commands else OTHER_NAMES[near]
            hint = f"Did you mean {meant}?" if meant else f"Commands: {', '.join(sorted(self.commands))}."
            ctx.fail(f"No such command '{args[0]}'. {hint}")
        return super().resolve_command(ctx, args)


class Program(typer.Typer):
    """A Typer application whose help is plain text."""

    def __init__(self, **options: Any) -> None:
        super().__init__(cls=_Group, rich_markup_mode=None, **options)

    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
        return super().command(name, **{"cls": _Command, **options})


def _adjusted(formatter: Any) -> Any:
    """The formatter, with lines as wide as the terminal, or as COLUMNS says; 80 columns in a pipe."""
    columns = shutil.get_terminal_size((80, 24)).columns if os.isatty(1) or "COLUMNS" in os.environ else 80
    formatter.width = max(40, min(columns, WIDEST))
    return formatter


def _write_options(command: Any, ctx: Any, formatter: Any) -> None:
    """Write the arguments, then the options of each panel under its heading, in the order of their first options."""
    panels: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
    for param in command.get_params(ctx):
        if (row := param.get_help_record(ctx)) is not None:
            argument = param.param_type_name == "argument"
            panel = "Arguments" if argument else getattr(param, "rich_help_panel", None) or "Options"
            name = re.sub(r" ?<.*?>", "", row[0]) if argument else re.sub(r"<(.*?)>", _value, row[0])
            panels.setdefault(panel, []).append((name, row[1]))
    for heading, rows in panels.items():
        _section(formatter, heading, rows)


def _section(formatter: Any, heading: str, rows: list[tuple[str, str]]) -> None:
    if not rows:
        return
    bold = sys.stdout is not None and sys.stdout.isatty() and "NO_COLOR" not in os.environ
    formatter.write_paragraph()
    formatter.write(f"{typer.style(heading, bold=True) if bold else heading}:\n")
    formatter.indent()
    formatter.write_dl(rows, col_max=FIRST if formatter.width >= 80 else FIRST // 2)
    formatter.dedent()


def _value(kind: re.Match[str]) -> str:
    """What stands for a value: Typer's `<int range>` is N."""
    words = {"str": "TEXT", "list[str]": "TEXT", "int": "N", "int range": "N", "float": "X", "float range": "X"}
    return {**words, "path": "FILE"}.get(kind[1], kind[1])


def _first_line(help_: str | None) -> str:
    """The help's first paragraph as one line."""
    return " ".join((help_ or "").strip().split("\n\n")[0].split())
