"""`eftlocal templates`: lists, shows, edits and deletes the user's prompt templates, and saves new ones."""

import sys
from collections.abc import Mapping, Sequence

from eftlocal.apps.common import agreed, can_ask, console, print_json
from eftlocal.apps.editor import edited
from eftlocal.catalog import templates
from eftlocal.catalog.templates import SETTINGS, PromptTemplate
from eftlocal.errors import EftError, SettingError
from eftlocal.interrupt import raising
from eftlocal.text import as_unicode, one_line, printable

__all__ = ["delete", "edit", "list_", "save", "show"]

NEW = """\
# A template may have a system text, a prompt, or both. In them, $name is a variable, $input stands for what is typed,
# and $$ is a dollar sign. Take away the # of the lines that you want.

# system = "You translate faithfully."
# prompt = "Translate into $language:\\n\\n$input"

# defaults = { language = "French" }
# settings = { temperature = 0.2 }
"""


def list_(*, as_json: bool) -> int:
    """Print all templates; one with a mistake is told on stderr. Returns the exit code."""
    found, wrong = [], []
    for name in templates.names():
        try:
            found.append(templates.load(name))
        except EftError as error:
            wrong.append(error)
    if as_json:
        print_json({"templates": [_json(template) for template in found]})
    elif found:
        out, width = console(), max(len(template.name) for template in found)
        for template in found:
            line = f"{template.name.ljust(width)}  {_summary(template)}"
            out.print(line, no_wrap=True, overflow="ellipsis")  # a terminal shows the first words
    elif not wrong:
        print(f"no template is saved yet in {templates.folder()}; `eftlocal templates edit NAME` makes one")
    for mistake in wrong:
        print(f"eftlocal: {mistake}", file=sys.stderr)
    return 0


def _summary(template: PromptTemplate) -> str:
    """Its first words: those of the prompt, else of the system text, else its settings."""
    text = template.prompt or template.system
    if text is None:
        return ", ".join(f"{key} {value:g}" for key, value in template.settings.items())
    return one_line(text)


def _json(template: PromptTemplate) -> dict[str, object]:
    return {
        "name": template.name,
        "path": str(templates.path(template.name)),
        "system": template.system,
        "prompt": template.prompt,
        "variables": template.variables,
        "defaults": template.defaults,
        "settings": template.settings,
    }


def show(name: str, *, as_json: bool) -> int:
    """Print a template as it stands in its file, whose path goes to stderr. Returns the exit code."""
    template = templates.load(name)
    if as_json:
        print_json(_json(template))
        return 0
    print(printable(str(templates.path(name))), file=sys.stderr)
    for line in templates.text(name).rstrip("\n").split("\n"):
        print(printable(line.replace("\t", "    ")))
    return 0


def edit(name: str) -> int:
    """Let the user write a template in their editor; a new one begins with an explanation. Returns the exit code.

    After a mistake they may edit their text again. Nothing is stored before it is right. Raises EftError.
    """
    is_new = not templates.path(name).exists()
    before = text = NEW if is_new else templates.text(name)
    while True:
        with raising():  # Ctrl-C reaches the editor, too
            text = edited(text, f"{as_unicode(name)}.toml")
        if text == before:
            print("nothing was changed", file=sys.stderr)
            return 0
        try:
            print(printable(f"saved: {templates.save(name, text)}"), file=sys.stderr)
            return 0
        except EftError as error:
            if not can_ask():
                raise
            print(f"eftlocal: {error}", file=sys.stderr)
            if not agreed("Edit it again?", default=True):
                print("nothing was changed", file=sys.stderr)
                return 1


def delete(names: Sequence[str], *, yes: bool) -> int:
    """Delete templates, after asking. Returns the exit code. Raises SettingError if nobody can be asked."""
    files = [templates.existing(name) for name in names]
    if not yes:
        if not can_ask():
            raise SettingError(
                f"Nothing was deleted: {' '.join(names)} needs a confirmation, and this is not a terminal.",
                "Add --yes to delete without a question.",
            )
        if not agreed(f"Delete {', '.join(map(str, files))}?", default=False):
            return 1
    for name, file in zip(names, files, strict=True):
        templates.delete(name)
        print(printable(f"deleted: {file}"), file=sys.stderr)
    return 0


def save(name: str, *, system: str | None, prompt: str | None, dials: Mapping[str, object]) -> int:
    """Store a system text, a prompt and settings as a template. An old one is replaced only if the user agrees.

    Returns the exit code. Raises SettingError for a setting that a template cannot keep, and CatalogError.
    """
    if system is None and prompt is None and not dials:
        raise SettingError("There is nothing to save.", "Give a system text, a prompt or dials such as --temperature.")
    for key in dials:
        if key not in SETTINGS:
            raise SettingError(f"A template cannot keep {key}.", f"It keeps {', '.join(SETTINGS)}.")
    made = PromptTemplate(
        name=name,
        system=None if system is None else as_unicode(system),
        prompt=None if prompt is None else as_unicode(prompt),
        settings={key: value for key, value in dials.items() if isinstance(value, int | float)},
    )
    file = templates.path(name)
    if file.exists():
        if not can_ask():
            raise SettingError(
                f"There is a template {name} already.", f"`eftlocal templates delete {name}` deletes it."
            )
        if not agreed(f"Replace {file}?", default=False):
            return 1
    templates.save(name, templates.toml(made))
    print(printable(f"saved: {file}; -t {name} uses it"), file=sys.stderr)
    return 0
