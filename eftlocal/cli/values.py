"""Reads the values of options: --mix, --gpu-layers and the shape of an answer; refuses options that exclude others."""

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from eftlocal.errors import CatalogError, SettingError

if TYPE_CHECKING:
    from eftlocal.catalog.entries import View
    from eftlocal.catalog.models import Catalog
    from eftlocal.decoding.settings import Dials

__all__ = [
    "must_be_known",
    "name_and_text",
    "no_file_options",
    "no_raw_guidance",
    "not_both",
    "parse_betas",
    "parse_layers",
    "parse_mix",
    "parse_views",
    "shape",
]

MOST_BETAS = 1000  # a longer series is a slip


def shape(json_schema: str | None, grammar: Path | None, regex: str | None, choice: list[str] | None) -> "Dials":
    """The `constraint` setting that one of these options gives; empty if none was given. Raises SettingError."""
    given = {"--json-schema": json_schema, "--grammar": grammar, "--regex": regex, "--choice": choice}
    named = [name for name, value in given.items() if value not in (None, [])]
    if not named:
        return {}
    if len(named) > 1:
        raise SettingError(
            f"{' and '.join(named)} were given, but an answer can have only one shape.", "Keep one of them."
        )
    from eftlocal.decoding.constraints.constraint import Constraint
    from eftlocal.decoding.constraints.schema import unwrapped

    if json_schema is not None:
        if not json_schema.strip():
            raise SettingError("--json-schema is empty; it must be a file or a JSON object.")
        text = json_schema if json_schema.lstrip().startswith("{") else _text(Path(json_schema))
        constraint = Constraint.json_schema(text)
        if unwrapped(found := json.loads(text)) is not found:
            print("eftlocal: --json-schema is in OpenAI's form; its inner schema is used.", file=sys.stderr)
        return {"constraint": constraint}
    if grammar is not None:
        return {"constraint": Constraint.grammar(_text(grammar))}
    return {"constraint": Constraint.choice(choice or []) if regex is None else Constraint.regex(regex)}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise SettingError(f"{file}: cannot be read: {error}") from None


def name_and_text(words: list[str], chosen: str | None) -> tuple[str | None, str | None]:
    """The emulator's name and the text that the words of a command are: `[NAME] TEXT`. `chosen` names one elsewhere.

    Raises BadParameter (wrong usage) for more words.
    """
    if len(words) > 2 or (len(words) == 2 and chosen is not None):
        before = f"{chosen} and {words[0]!r} both name the emulator" if chosen else f"there are {len(words)} words"
        raise typer.BadParameter(f"{before}: if the prompt has several words, put it in quotes")
    return (words[0] if len(words) == 2 else None), (words[-1] if words else None)


def must_be_known(catalog: "Catalog", named: str | None) -> None:
    """Raise BadParameter if the word `named` is no emulator's name, so that it probably belongs to the prompt."""
    known = {*catalog.emulators, *catalog.broken("emulator")}
    if named is not None and named not in known and not named.endswith(".gguf"):
        raise typer.BadParameter(f"no emulator is named {named!r}; if the prompt has several words, put it in quotes")


def no_file_options(context: typer.Context, panel: str) -> None:
    """Raise BadParameter (wrong usage) if an option of `panel`, which needs a file of prompts, was given."""
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if getattr(option, "rich_help_panel", None) == panel and source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(f"{option.opts[-1]} works only with a file of prompts: add -i FILE")


def not_both(value: object, name: str) -> None:
    """Raise BadParameter (wrong usage) if `value` was given as well as a file of prompts."""
    if value is not None:
        raise typer.BadParameter(f"{name} and -i FILE cannot be used together: leave one of them out")


def no_raw_guidance(raw: bool, negative: str | None) -> None:
    """Raise BadParameter (wrong usage) for guidance of raw prompts: they have no system text that could differ."""
    if raw and negative is not None:
        raise typer.BadParameter("--raw and --negative cannot be used together: a raw prompt has no system text")


def parse_layers(texts: list[str] | None) -> int | dict[str, int] | None:
    """The values of --gpu-layers: `N` for every model, or `NAME=N` pairs, separate or joined by commas.

    Returns None if the option was not given. Raises SettingError.
    """
    parts = [part.strip() for text in texts or () for part in text.split(",")]
    if not parts:
        return None
    try:
        if len(parts) == 1 and "=" not in parts[0]:
            return int(parts[0])
        return {role.strip(): int(n) for role, n in (part.split("=") for part in parts)}
    except ValueError:
        found = ",".join(parts)
        raise SettingError(
            f"--gpu-layers is {found!r}; it must be N or NAME=N.", "Example: --gpu-layers base=20,tuned=0"
        ) from None


def parse_views(texts: list[str]) -> "dict[str, View]":
    """The values of --view: `ROLE=VIEW`, separate or joined by commas. Raises SettingError."""
    from eftlocal.catalog.reading import parse_view

    views = {}
    for part in ",".join(texts).split(",") if texts else ():
        role, equals, value = part.partition("=")
        try:
            if not equals:
                raise CatalogError("it must be ROLE=VIEW")
            views[role.strip()] = parse_view(value.strip())
        except CatalogError as error:
            raise SettingError(f"--view has {part!r}: {error.message}.", "Example: --view base=chat") from None
    return views


def parse_betas(text: str) -> tuple[float, ...]:
    """The value of eval's --beta: strengths, separated by commas; `a,b,...,z` goes on in steps of b - a.

    Raises SettingError.
    """
    example = "Example: --beta 0.5,1,2 or --beta 0,0.25,...,2"
    found: list[float] = []
    parts = [part.strip() for part in text.split(",")]
    for i, part in enumerate(parts):
        try:
            if part not in ("...", "…"):
                found.append(float(part))
                if not math.isfinite(found[-1]):
                    raise ValueError
                continue
            step, last = found[i - 1] - found[i - 2] if i >= 2 else 0.0, float(parts[i + 1])
            steps = round((last - found[-1]) / step) if step else 0
            if not 1 <= steps <= MOST_BETAS:
                raise ValueError
            found += [round(found[-1] + step * n, 9) for n in range(1, steps)]
        except (ValueError, IndexError, OverflowError):
            raise SettingError(f"--beta has {part!r}; it must be strengths, separated by commas.", example) from None
    return tuple(dict.fromkeys(found))


def parse_mix(texts: list[str]) -> dict[str, float]:
    """The values of --mix: `NAME=WEIGHT` pairs, separate or joined by commas. Raises SettingError."""
    mix: dict[str, float] = {}
    for part in ",".join(texts).split(","):
        name, equals, weight = part.partition("=")
        try:
            mix[name.strip()] = float(weight)
        except ValueError:
            equals = ""
        if not (equals and name.strip()):
            raise SettingError(
                f"--mix has {part!r}; it must be NAME=WEIGHT.", "Example: --mix helpful=1 --mix brief=0.5"
            )
    return mix
