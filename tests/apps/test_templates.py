"""Prompt templates on the command line and in the chat."""

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from eftlocal import cli
from eftlocal.apps import templates as app
from eftlocal.apps.chat import templating
from eftlocal.apps.chat.commands import run as type_
from eftlocal.apps.chat.state import Chat
from eftlocal.catalog import templates
from eftlocal.errors import EftError
from tests.apps.terminal import CTRL_D, Terminal
from tests.apps.test_chat_commands import contents, fake, make


class Done(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    for name, value in (("TERM", "dumb"), ("COLUMNS", "200")):
        monkeypatch.setenv(name, value)
    return templates.folder()


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the program in this process, with `stdin` as its standard input."""

    def run(*words: str, stdin: str = "") -> Done:
        monkeypatch.setattr(sys, "argv", ["eftlocal", *words])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), "utf-8"))
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        return Done(int(end.value.code or 0), *capfd.readouterr())

    return run


@pytest.fixture
def chat(tmp_path: Path) -> Chat:
    return make(tmp_path)


# --- eftlocal templates -----------------------------------------------------------------------------------------------


def test_templates_are_listed_shown_and_deleted(run: Run, folder: Path) -> None:
    assert "no template is saved yet in" in run("templates").out
    templates.save("a", 'prompt = """\nAbout $what:\n$input"""\nsettings = { beta = 2 }')
    templates.save("b", 'system = "Be \x1b[31mkind."'.replace("\x1b", "\\u001b"))
    (folder / "c.toml").write_text("wrong")
    listed = run("templates")
    assert [line.split(maxsplit=1)[1].strip() for line in listed.out.splitlines()] == [
        "About $what: $input",
        "Be \\x1b[31mkind.",
    ]
    assert "c.toml: is not valid TOML" in listed.err and listed.code == 0
    document = json.loads(run("templates", "--json").out)["templates"]
    assert [each["name"] for each in document] == ["a", "b"] and document[0]["variables"] == ["what"]
    shown = run("templates", "show", "a")
    assert shown.out == 'prompt = """\nAbout $what:\n$input"""\nsettings = { beta = 2 }\n'
    assert shown.err.strip() == str(folder / "a.toml")
    assert run("templates", "delete", "a").err.endswith("Add --yes to delete without a question.\n")
    assert run("templates", "delete", "a", "c", "--yes").code == 0 and templates.names() == ["b"]
    assert 'no template is named "a"' in run("templates", "show", "a").err


def editor(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    file = folder.parent / "editor"
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", str(file))


def test_edit_makes_and_changes_a_template_and_keeps_the_old_one_after_a_mistake(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    editor(folder, monkeypatch, 'sed -i "s/# prompt/prompt/" "$1"')
    assert app.edit("translate") == 0
    assert templates.load("translate").prompt == "Translate into $language:\n\n$input"  # what a new one proposes
    editor(folder, monkeypatch, ":")
    assert app.edit("translate") == 0 and "nothing was changed" in capsys.readouterr().err
    editor(folder, monkeypatch, 'echo wrong >> "$1"')
    with pytest.raises(EftError, match="is not valid TOML"):
        app.edit("translate")
    answers = iter([True, False])  # to "Edit it again?"
    monkeypatch.setattr(app, "can_ask", lambda: True)
    monkeypatch.setattr(app, "agreed", lambda question, default: next(answers))
    assert app.edit("translate") == 1
    assert templates.load("translate").prompt == "Translate into $language:\n\n$input"
    for script, said in [("exit 3", "exited with code 3"), ("", "cannot be run")]:
        editor(folder, monkeypatch, script)
        if not script:
            monkeypatch.setenv("EDITOR", str(folder / "missing"))
        with pytest.raises(EftError, match=said):
            app.edit("translate")


# --- generate and chat ------------------------------------------------------------------------------------------------


def test_generate_saves_a_template_and_uses_it(run: Run) -> None:
    plain = run("generate", "-e", "demo", "How large is Lyon?")
    saved = run("generate", "--save-template", "size", "--temperature", "0", "How large is $city?")
    assert (saved.code, saved.out) == (0, "") and saved.err.endswith("size.toml; -t size uses it\n")
    assert templates.load("size").settings == {"temperature": 0.0}
    assert run("generate", "-e", "demo", "-t", "size", "-p", "city=Lyon") == plain
    templates.save("cities", 'prompt = "How large is $input?"')
    assert run("generate", "-e", "demo", "-t", "cities", "Lyon") == plain
    assert run("generate", "-e", "demo", "-t", "cities", stdin="Lyon\n") == plain
    for words, said in [
        (["-t", "size"], "needs a value for $city"),
        (["-t", "size", "-p", "town=Lyon"], "has no variable $town"),
        (["-t", "size", "-p", "Lyon"], "-p has 'Lyon'; it must be NAME=VALUE."),
        (["-t", "sizes", "x"], 'no template is named "sizes"; did you mean "size"?'),
        (["-p", "a=b", "x"], "add -t NAME"),
        (["-t", "size", "--save-template", "new"], "cannot be used together"),
        (["--save-template", "size", "x"], "There is a template size already."),
        (["--save-template", "new"], "There is nothing to save."),
        (["--save-template", "new", "$5"], "write $$ for a dollar sign"),
        (["--save-template", "new", "--stop", "x", "y"], "A template cannot keep stop."),
    ]:
        done = run("generate", "-e", "demo", *words)
        assert done.code in (1, 2) and said in " ".join(done.err.replace("│", "").split()), done
    assert "new" not in templates.names()


def test_a_template_wraps_the_prompts_of_a_file_and_a_run_that_goes_on_notices_another(
    run: Run, tmp_path: Path
) -> None:
    plain = run("generate", "-e", "demo", "How large is Lyon?").out.strip()
    templates.save("size", 'system = "Be brief."\nprompt = "How large is $input$end"')
    (tmp_path / "in.txt").write_text("Lyon\nParis\n")
    command = [
        "generate",
        "-e",
        "demo",
        "-q",
        "-t",
        "size",
        "-i",
        str(tmp_path / "in.txt"),
        "-o",
        str(tmp_path / "out"),
    ]
    assert run(*command, "-p", "end=?").code == 0
    lines = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [line["prompt"] for line in lines] == ["Lyon", "Paris"] and lines[0]["text"].strip() == plain
    assert lines[0]["settings"]["template"] == "How large is $input?" and lines[0]["settings"]["system"] == "Be brief."
    assert run(*command, "-p", "end=?").code == 0
    other = run(*command, "-p", "end=!")
    assert other.code == 1 and "template" in other.err
    (tmp_path / "in.jsonl").write_text('{"messages": [{"role": "user", "content": "Lyon"}]}\n')
    command[command.index(str(tmp_path / "in.txt"))] = str(tmp_path / "in.jsonl")
    assert "has messages, and a template wraps prompts" in run(*command, "-p", "end=?", "--overwrite").err
    templates.save("brief", 'system = "Be brief."')
    command[command.index("size")] = "brief"
    assert run(*command, "--overwrite").code == 0


def test_a_setting_of_the_command_line_goes_before_the_templates(run: Run) -> None:
    templates.save("t", 'system = "x"\nsettings = { seed = 7, beta = 0.5 }')
    words = ("generate", "-e", "demo", "-t", "t", "--json", "hi")
    both = [json.loads(run(*words, *more).out) for more in ((), ("--beta", "2"))]
    assert [(each["seed"], each["beta"]) for each in both] == [(7, 0.5), (7, 2.0)]


def test_chat_begins_with_a_template(run: Run) -> None:
    templates.save("size", 'system = "Be brief."\nprompt = "How large is $input?"\nsettings = { beta = 0.5 }')
    done = run(
        "chat", "demo", "Lyon", "-t", "size", stdin="/beta\n/system\n/template off\n/system\nHow large is Lyon?\n"
    )
    assert done.out.splitlines()[0] == done.out.splitlines()[1]
    for said in (
        "(template size: each message becomes “How large is $input?”, with its system text, beta 0.5)",
        "(beta is 0.5)",
        "(system: Be brief.)",
        "(there is no template; beta stays 0.5)",
        "(there is no system text)",
    ):
        assert said in done.err
    assert "(system: Be kind.)" in run("chat", "demo", "--system", "Be kind.", "-t", "size", stdin="/system\n").err
    assert run("chat", "demo", "--save-template", "new", "--system", "Be new.").code == 0
    assert templates.load("new").system == "Be new."
    assert 'no emulator is named "nobody"' in run("chat", "nobody", "--save-template", "newer").err


# --- in the chat ------------------------------------------------------------------------------------------------------


def test_a_template_in_the_chat_wraps_messages_and_leaves_things_as_they_were(
    chat: Chat, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    templates.save("up", 'system = "Be $mood."\nprompt = "say $input!"\nsettings = { temperature = 0, beta = 2 }')
    templates.save("down", 'prompt = "Low:"')
    type_(chat, "/beta 3")
    type_(chat, "/system Old.")
    type_(chat, '/template up mood="very kind"')
    assert "temperature 0, beta 2" in capsys.readouterr().err
    type_(chat, "hello")
    assert contents(chat) == ["Be very kind.", "say hello!", "hello!"]
    assert fake(chat).settings.beta == 2
    type_(chat, "/retry bye")
    assert contents(chat)[1] == "say bye!"
    (tmp_path / "a.txt").write_text("text")
    type_(chat, f"/read {tmp_path / 'a.txt'} why")
    assert contents(chat)[3] == f"say {tmp_path / 'a.txt'}:\n```\ntext\n```\n\nwhy!"
    type_(chat, "/undo")
    type_(chat, "/undo")
    assert chat.offered == [f'@"{tmp_path / "a.txt"}" why', "bye"]  # as they were typed
    type_(chat, "/template")
    assert [line.split() for line in capsys.readouterr().err.splitlines()[-2:]] == [
        ["down", "Low:"],
        ["*", "up", "say", "$input!"],
    ]
    type_(chat, "/temp 1")
    type_(chat, "/template down")  # in place of the other
    assert (chat.system, fake(chat).settings.beta, fake(chat).settings.sampling.temperature) == ("Old.", 3, 1)
    type_(chat, "x")
    assert chat.turns[0].content == "Low:\n\nx"
    type_(chat, "/template off")
    type_(chat, "say y")
    assert chat.turns[-1].content == "y"


def test_a_template_that_is_refused_changes_nothing(chat: Chat) -> None:
    templates.save("a", 'prompt = "A: $input"')
    templates.save("b", 'prompt = "B: $input $x"\nsettings = { temperature = -1 }')
    type_(chat, "/template a")
    for line, said in [
        ("/template b", r"needs a value for \$x"),
        ("/template b x=1", "temperature is -1"),
        ("/template bb", 'did you mean "b"'),
        ("/template b x", "must be VARIABLE=VALUE"),
        ("/template b x='", "cannot read"),
    ]:
        with pytest.raises(EftError, match=said):
            type_(chat, line)
        assert chat.template is not None and chat.template.filled.template.name == "a"
    assert templating.names() == ["a", "b"]


@pytest.mark.slow
def test_the_status_line_names_the_template_and_names_are_completed(tmp_path: Path) -> None:
    templates.save("size", 'prompt = "How large is $input?"')
    environment: dict[str, Any] = {"XDG_CONFIG_HOME": os.environ["XDG_CONFIG_HOME"]}
    with Terminal("-m", "eftlocal", "chat", "demo", data=tmp_path, **environment) as terminal:
        terminal.prompt(1)
        terminal.send("/template s")
        terminal.wait("size")
        terminal.enter("\t")
        terminal.wait("template size ·")
        terminal.enter("Lyon")
        terminal.wait("520,000")
        terminal.prompt(3)
        terminal.send(CTRL_D)
        assert terminal.close() == 0
