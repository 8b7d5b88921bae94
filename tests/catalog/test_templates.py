"""Prompt templates: what a file may say, how variables are filled in, and that what is saved is what is read."""

import random
from pathlib import Path

import pytest

from eftlocal.catalog import templates
from eftlocal.catalog.templates import PromptTemplate
from eftlocal.errors import CatalogError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(templates, "folder", lambda: tmp_path / "templates")
    (tmp_path / "templates").mkdir()
    return tmp_path / "templates"


TRANSLATE = '''
system = "You translate $style."
prompt = """
Translate into $language for $$5:

$input
"""
defaults = { style = "faithfully" }
settings = { temperature = 0.2, max_tokens = 100, beta = 1 }
'''


def test_a_template_is_filled_with_values_and_then_with_each_input(folder: Path) -> None:
    (folder / "translate.toml").write_text("\ufeff" + TRANSLATE, encoding="utf-8")
    found = templates.load("translate")
    assert found.variables == ("style", "language") and found.takes_input
    assert found.settings == {"temperature": 0.2, "max_tokens": 100, "beta": 1.0}
    filled = found.fill({"language": "French"})
    assert filled.system == "You translate faithfully."
    assert filled.message("It costs $1 for $language.") == "Translate into French for $5:\n\nIt costs $1 for $language."
    assert found.fill({"language": "x", "style": "freely"}).system == "You translate freely."


def test_an_input_without_a_place_of_its_own_comes_after_the_prompt() -> None:
    joke = PromptTemplate(name="joke", prompt="Tell a joke.").fill({})
    assert joke.message("") == "Tell a joke." and joke.message("Of cats.") == "Tell a joke.\n\nOf cats."
    kind = PromptTemplate(name="kind", system="Be kind.")
    assert kind.fill({}).message("hi") == "hi" and kind.takes_input


def test_a_variable_that_is_missing_or_unknown_is_named() -> None:
    template = PromptTemplate(name="t", prompt="$input in $language and $style, $language")
    with pytest.raises(CatalogError, match=r"the template t needs a value for \$language and \$style") as raised:
        template.fill({})
    assert raised.value.hint == "Give it one: -p language=VALUE; in a chat, /template t language=VALUE."
    with pytest.raises(CatalogError, match=r'no variable \$languag; did you mean "language"\?'):
        template.fill({"languag": "x"})
    with pytest.raises(CatalogError, match=r"no variable \$input"):
        template.fill({"input": "x"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty; a template needs"),
        ("prompt = 3", "prompt: must be a string, not an integer"),
        ('promt = "x"', 'promt: unknown key; did you mean "prompt"?'),
        ('prompt = "costs $5"', "prompt: has a $ that no name follows; write $$ for a dollar sign"),
        ('system = "$input"', "system: has $input, which only a prompt can have"),
        ('prompt = "$a"\ndefaults = { b = "x" }', "defaults.b: there is no variable $b; expected one of: a"),
        ('prompt = "$a"\ndefaults = { a = 1 }', "defaults.a: must be a string, not an integer"),
        ("settings = { temprature = 1 }", 'settings.temprature: unknown key; did you mean "temperature"?'),
        ('settings = { beta = "x" }', "settings.beta: must be a number, not a string"),
        ("settings = { seed = 1.5 }", "settings.seed: must be an integer, not a number"),
        ("prompt = ", "is not valid TOML"),
    ],
)
def test_a_mistake_names_the_file_and_the_key_and_is_not_stored(text: str, said: str, folder: Path) -> None:
    (folder / "a.toml").write_text(text)
    with pytest.raises(CatalogError) as loading:
        templates.load("a")
    (folder / "a.toml").write_text('prompt = "right"')
    with pytest.raises(CatalogError) as saving:
        templates.save("a", text)
    assert str(folder / "a.toml") in str(loading.value) and said in str(loading.value) == str(saving.value)
    assert templates.load("a").prompt == "right" and [file.name for file in folder.iterdir()] == ["a.toml"]


def test_an_unknown_template_names_the_nearest_and_a_path_is_no_name(folder: Path) -> None:
    with pytest.raises(CatalogError) as raised:
        templates.load("translate")
    assert raised.value.hint == "`eftlocal templates edit translate` makes it."
    templates.save("translate", TRANSLATE)
    (folder / "not a name.toml").write_text("")
    assert templates.names() == ["translate"]
    with pytest.raises(CatalogError, match=r'no template is named "trnslate"; did you mean "translate"\?'):
        templates.load("trnslate")
    for name in ("../translate", "", ".x", "a/b", "a\0"):
        with pytest.raises(CatalogError, match="is not a name for a template"):
            templates.load(name)


def test_deleting_removes_the_file_and_a_folder_that_is_missing_has_no_templates(folder: Path) -> None:
    templates.save("a", 'prompt = "x"')
    templates.delete("a")
    with pytest.raises(CatalogError, match="no template is named"):
        templates.delete("a")
    folder.rmdir()
    assert templates.names() == []
    assert templates.save("b", 'prompt = "x"') == folder / "b.toml" and templates.names() == ["b"]


def test_a_template_that_cannot_be_written_says_so(folder: Path) -> None:
    folder.rmdir()
    folder.write_text("a file")
    with pytest.raises(CatalogError, match=r"a\.toml: cannot be written"):
        templates.save("a", 'prompt = "x"')
    with pytest.raises(CatalogError, match=r"a\.toml: "):
        templates.save("a", 'prompt = "\udcff"')


def test_what_is_saved_is_what_is_read() -> None:
    chosen = random.Random(7)
    alphabet = [
        "a",
        "$$",
        "$name",
        "$input",
        '"',
        '"""',
        "\\",
        "\n",
        "\t",
        "\r",
        "\x7f",
        "\0",
        "é",
        "🎉",
        "'",
        "#",
        " ",
        "'''",
    ]
    for _ in range(300):
        prompt = "".join(chosen.choices(alphabet, k=chosen.randrange(1, 12))).rstrip("\n") or "x"
        made = PromptTemplate(
            name="a",
            system="be $mood\n",
            prompt=prompt,
            defaults={"mood": prompt.replace("$", "")},
            settings={"seed": 3},
        )
        templates.save("a", templates.toml(made))
        read = templates.load("a")
        assert (read.prompt, read.defaults, read.settings) == (made.prompt, made.defaults, made.settings)
        assert read.system == "be $mood"
