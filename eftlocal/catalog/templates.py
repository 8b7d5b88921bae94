"""Prompt templates: system texts and prompts that a user keeps, each in a TOML file of their config folder.

    # templates/translate.toml
    system = "You translate faithfully."
    prompt = "Translate into $language:\\n\\n$input"
    defaults = { language = "French" }
    settings = { temperature = 0.2 }

`$input` stands for what the user types, and every other `$name` for a variable; `$$` is a dollar sign.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Final

import platformdirs

from eftlocal.catalog.reading import SAMPLING_FLOATS, SAMPLING_INTEGERS
from eftlocal.catalog.tables import Table, document, nearest, parsed, text_of
from eftlocal.errors import CatalogError
from eftlocal.text import as_unicode, not_a_name, path_of

__all__ = [
    "SETTINGS",
    "Filled",
    "PromptTemplate",
    "delete",
    "existing",
    "folder",
    "load",
    "names",
    "path",
    "save",
    "text",
    "toml",
]

INPUT: Final = "input"
KEYS: Final = ("system", "prompt", "defaults", "settings")
SETTINGS: Final = ("beta", *SAMPLING_FLOATS, *SAMPLING_INTEGERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptTemplate:
    """A template as it is stored. `defaults` are values of variables, `settings` those of the emulator."""

    name: str
    system: str | None = None
    prompt: str | None = None
    defaults: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, float | int] = field(default_factory=dict)

    @property
    def variables(self) -> tuple[str, ...]:
        """The names of its variables, in their order, without `input`."""
        found = (name for text in (self.system, self.prompt) if text for name in Template(text).get_identifiers())
        return tuple(dict.fromkeys(name for name in found if name != INPUT))

    @property
    def takes_input(self) -> bool:
        """Whether the prompt says where the input stands, or is missing, so that the input is all of it."""
        return self.prompt is None or INPUT in Template(self.prompt).get_identifiers()

    def fill(self, values: Mapping[str, str]) -> "Filled":
        """The template with values for its variables. Raises CatalogError for one that is missing or unknown."""
        for name in values:
            if name not in self.variables:
                problem = f"the template {self.name} has no variable ${name}{nearest(name, self.variables)}"
                raise CatalogError(problem, "$input is the text itself." if name == INPUT else None)
        whole = {**self.defaults, **values}
        if missing := [name for name in self.variables if name not in whole]:
            named = " and ".join(f"${name}" for name in missing)
            raise CatalogError(
                f"the template {self.name} needs a value for {named}",
                f"Give it one: -p {missing[0]}=VALUE; in a chat, /template {self.name} {missing[0]}=VALUE.",
            )
        system = None if self.system is None else Template(self.system).substitute(whole)
        return Filled(self, system, whole)


@dataclass(frozen=True, slots=True)
class Filled:
    """A template whose variables have values: `system` is its text, and `message` makes the messages."""

    template: PromptTemplate
    system: str | None
    values: Mapping[str, str]

    def message(self, text: str) -> str:
        """The message for an input. It stands where `$input` is, or after the prompt where that is missing."""
        if self.template.prompt is None:
            return text
        prompt = Template(self.template.prompt).substitute(self.values, **{INPUT: text})
        return prompt if self.template.takes_input or not text else f"{prompt}\n\n{text}"


# --- the files --------------------------------------------------------------------------------------------------------


def folder() -> Path:
    """The folder with the user's templates."""
    return platformdirs.user_config_path("eftlocal") / "templates"


def names() -> list[str]:
    """The names of all templates."""
    try:
        found = [as_unicode(file.stem) for file in folder().glob("*.toml")]
    except OSError:
        return []
    return sorted(name for name in found if not_a_name(name) is None)


def path(name: str) -> Path:
    """The file of the template `name`. Raises CatalogError for a name that could be a path to another folder."""
    name = as_unicode(name)
    if (hint := not_a_name(name)) is not None:
        raise CatalogError(f'"{name}" is not a name for a template', hint)
    return folder() / path_of(f"{name}.toml")


def existing(name: str) -> Path:
    """The file of the template `name`. Raises CatalogError, with the nearest name, if there is none."""
    file, known = path(name), names()
    if not file.exists():
        raise CatalogError(
            f'no template is named "{name}"{nearest(name, known) if known else ""}',
            "`eftlocal templates` lists them." if known else f"`eftlocal templates edit {name}` makes it.",
        )
    return file


def load(name: str) -> PromptTemplate:
    """Reads the template `name`. Raises CatalogError for an unknown name and for every mistake in the file."""
    file = existing(name)
    return _read(file, as_unicode(name), document(file))


def text(name: str) -> str:
    """The text of the template's file, also of one with mistakes. Raises CatalogError if it cannot be read."""
    return text_of(existing(name))


def _read(file: Path, name: str, values: object) -> PromptTemplate:
    table = Table(file, "", values, KEYS)
    inner = table.table("settings", SETTINGS)
    found = PromptTemplate(
        name=name,
        system=_with_variables(table, "system"),
        prompt=_with_variables(table, "prompt"),
        defaults=_defaults(table),
        settings={key: _setting(inner, key) for key in inner.values},
    )
    if not table.values.keys() & {"system", "prompt", "settings"}:
        raise CatalogError(f"{file}: is empty; a template needs a system text, a prompt or settings")
    if found.system and INPUT in Template(found.system).get_identifiers():
        raise table.error("system", "has $input, which only a prompt can have")
    for key in found.defaults:
        if key not in found.variables:
            raise table.error(f"defaults.{key}", f"there is no variable ${key}{nearest(key, found.variables)}")
    return found


def _with_variables(table: Table, key: str) -> str | None:
    text = table.text(key)
    if text is not None and not Template(text).is_valid():
        raise table.error(key, "has a $ that no name follows; write $$ for a dollar sign")
    return text and text.removesuffix("\n")  # the end of a string of several lines


def _defaults(table: Table) -> dict[str, str]:
    inner = table.table("defaults", None)
    return {key: inner.text(key) or "" for key in inner.values}


def _setting(table: Table, key: str) -> float | int:
    return (table.integer(key) or 0) if key in SAMPLING_INTEGERS else table.number(key, 0.0)


def save(name: str, text: str) -> Path:
    """Stores the TOML `text` as the template `name`, in place of an old one, and returns its file.

    Raises CatalogError for every mistake in it; then nothing changes.
    """
    file = path(name)
    _read(file, as_unicode(name), parsed(file, text))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=file.parent) as beside:
            new = Path(beside) / file.name
            new.write_text(text, encoding="utf-8")
            new.replace(file)
    except OSError as error:
        raise CatalogError(f"{file}: cannot be written: {error.strerror}") from error
    except UnicodeEncodeError as error:
        raise CatalogError(f"{file}: the text is not Unicode: {error.object[error.start : error.end]}") from error
    return file


def delete(name: str) -> None:
    """Deletes the template `name`. Raises CatalogError."""
    file = existing(name)
    try:
        file.unlink()
    except OSError as error:
        raise CatalogError(f"{file}: cannot be deleted: {error.strerror}") from error


def toml(template: PromptTemplate) -> str:
    """The template as the text of a TOML file, which a person can read and change."""
    lines = [f"{key} = {_string(text)}" for key in ("system", "prompt") if (text := getattr(template, key)) is not None]
    for key in ("defaults", "settings"):
        if inner := getattr(template, key):
            lines += [
                "",
                f"[{key}]",
                *(f"{k} = {_string(v) if isinstance(v, str) else repr(v)}" for k, v in inner.items()),
            ]
    return "\n".join(lines) + "\n"


def _string(text: str) -> str:
    """A TOML string; one of several lines where the text has them."""
    if "\n" not in text or not text.replace("\n", "").replace("\t", "").isprintable():
        return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
    body = text.replace("\\", "\\\\").replace('"""', '""\\"')
    return f'"""\n{body}"""'  # up to two quotes at the end of the text are right there
