"""What users write behind options, read: mixes, layers, and the shape of an answer."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from eftlocal.errors import SettingError

if TYPE_CHECKING:
    from eftlocal.decoding.settings import Dials

__all__ = ["no_file_options", "not_both", "parse_layers", "parse_mix", "shape"]


def shape(json_schema: str | None, grammar: Path | None, regex: str | None, choice: list[str] | None) -> "Dials":
    """The constraint that one of these options says. Raises SettingError."""
    given = {"--json-schema": json_schema, "--grammar": grammar, "--regex": regex, "--choice": choice}
    named = [name for name, value in given.items() if value]
    if not named:
        return {}
    if len(named) > 1:
        raise SettingError(
            f"{' and '.join(named)} were given; an answer has one shape.", "Leave all but one of them out."
        )
    from eftlocal.decoding.constraints.constraint import Constraint

    if json_schema:
        inline = json_schema.lstrip().startswith("{")
        return {"constraint": Constraint.json_schema(json_schema if inline else _text(Path(json_schema)))}
    if grammar:
        return {"constraint": Constraint.grammar(_text(grammar))}
    return {"constraint": Constraint.regex(regex) if regex else Constraint.choice(choice or [])}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise SettingError(f"{file}: cannot be read: {error}") from None


def no_file_options(context: typer.Context, panel: str) -> None:
    """Wrong usage, where an option of the panel about files of prompts was given without a file."""
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if getattr(option, "rich_help_panel", None) == panel and source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(f"{option.opts[-1]} is about a file of prompts: -i FILE")


def not_both(value: object, name: str) -> None:
    """Wrong usage, where a prompt was given besides a file of them."""
    if value is not None:
        raise typer.BadParameter(f"{name} and -i FILE exclude each other")


def parse_layers(texts: list[str] | None) -> int | dict[str, int] | None:
    """`N` for every model, or `ROLE=N`, several of them also in one text with commas. Raises SettingError."""
    parts = [part.strip() for text in texts or () for part in text.split(",")]
    if not parts:
        return None
    try:
        if len(parts) == 1 and "=" not in parts[0]:
            return int(parts[0])
        return {role.strip(): int(n) for role, n in (part.split("=") for part in parts)}
    except ValueError:
        found = ",".join(parts)
        raise SettingError(f"--gpu-layers has {found!r}; it must be N, or ROLE=N.", "As in: base=20,tuned=0") from None


def parse_mix(texts: list[str]) -> dict[str, float]:
    """`NAME=WEIGHT`, several of them also in one text with commas. Raises SettingError."""
    mix: dict[str, float] = {}
    for part in ",".join(texts).split(","):
        name, equals, weight = part.partition("=")
        try:
            mix[name.strip()] = float(weight)
        except ValueError:
            equals = ""
        if not (equals and name.strip()):
            raise SettingError(f"--mix has {part!r}; it must be NAME=WEIGHT.", "As in: --mix helpful=1 --mix brief=0.5")
    return mix
