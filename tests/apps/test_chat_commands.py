"""The chat's commands over the scripted emulator, as a table of cases: what they do, and what they print."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from eftlocal.apps.chat import dials, session, store
from eftlocal.apps.chat.commands import TABLE, Leave, find, run, split
from eftlocal.apps.chat.interrupt import Interrupts
from eftlocal.apps.chat.loading import Loader
from eftlocal.apps.chat.screen import Screen
from eftlocal.apps.chat.state import Chat
from eftlocal.catalog import models as catalog
from eftlocal.decoding.settings import Dials, Settings
from eftlocal.emulation.scoring import Score
from eftlocal.errors import DecodeError, EftError, SettingError
from eftlocal.runtime.views import Message
from tests.apps.fake import FakeEmulator, FakeStream, loads

MODELS = """
[models.m]
path = "m.gguf"
[models.hub]
repo = "a/b"
file = "m.gguf"
[emulators.fake]
base = "m"
[emulators.other]
description = "the other one"
base = "m"
[emulators.far]
description = "not downloaded"
base = "hub"
"""


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.fixture
def chat(tmp_path: Path) -> Iterator[Chat]:
    yield make(tmp_path)


def make(folder: Path, *, context: int = 8000, **options: Any) -> Chat:
    models = folder / "models.toml"
    models.write_text(MODELS)
    (folder / "m.gguf").touch()
    loader = Loader(lambda name: loads(name, context=context), None, catalog.load(models))
    loader.start()
    assert loader.wait(10)
    return Chat(loader, Screen(), Interrupts(), **options)


def fake(chat: Chat) -> FakeEmulator:
    return cast(FakeEmulator, chat.emulator)


def contents(chat: Chat) -> list[str]:
    return [m.content for m in chat.messages]


HUGE = "9" * 5000  # more digits than Python takes for a number
TURN = ["say a", "a"]
THOUGHT = "<think>\nt0000 of the thoughts\n</think>\n\nHi"
CASES: list[tuple[list[str], str, list[str] | None]] = [
    # the lines that are typed, what the last one prints (on stdout or stderr), the conversation after it
    (["/beta 0.5"], "beta is 0.5", []),
    (["/beta"], "beta is 1", []),
    (["/beta much"], "beta is 'much'; it must be a number", []),
    (["/beta nan"], "beta is nan; it must be a finite number", []),
    (["/beta 0.5", "x"], "beta 0.5 emulated: x", ["x", "beta 0.5 emulated: x"]),
    (["/mix helpful=2 brief=0"], "mix is helpful=2 brief=0, times beta 1", []),
    (["/mix helpful=2", "/mix off"], "mix is helpful=1 brief=0.5", []),
    (["/mix polite=1"], "There is no reward named 'polite'", []),
    (["/mix helpful"], "mix is 'helpful'; it must be NAME=VALUE", []),
    (["/temp 0"], "temperature is 0", []),
    (["/temp -1"], "it must be 0 (greedy) or a number above it", []),
    (["/top_p 0.5"], "top_p is 0.5", []),
    (["/seed 7"], "seed is 7", []),
    (["/seed 7", "/seed off"], "seed is off", []),
    (["/seed 7.5"], "seed is '7.5'; it must be a whole number, or off", []),
    (["/set max_tokens 2", "say a b c"], "max_tokens reached (2); /continue", ["say a b c", "a b"]),
    (["/set top_k 5"], "top_k is 5", []),
    (["/set stop \\n\\nUser:"], "stop is '\\n\\nUser:'", []),
    (["/set logit_bias 5=-inf"], "logit_bias is 5=-inf", []),
    (["/set temprature 1"], "Did you mean 'temperature'?", []),
    (["/set temperature"], "temperature is 0.7", []),
    (["/set"], "repeat_penalty", []),
    (["say a", "/undo"], "the last turn is undone", []),
    (["/template"], "no template is saved yet", []),
    (["/read none.txt"], "There is no file none.txt.", []),
    (["/read @"], "/read needs a file", []),
    (["/undo"], "The conversation is empty", []),
    (["say a", "/regen"], "a", TURN),
    (["/seed 1", "say a", "/regen"], "the seed is fixed at 1", TURN),
    (["/regen"], "The conversation is empty", []),
    (["say a", "/retry say b"], "b", ["say b", "b"]),
    (["say a", "/retry"], "/retry needs the new text of the message", TURN),
    (["say a", "/continue"], " and so on", ["say a", "a and so on"]),
    (["say done", "/continue"], "nothing follows: the answer has ended", ["say done", "done"]),
    (["/continue"], "There is no answer to continue", []),
    (["/system Be kind."], "system: Be kind.", ["Be kind."]),
    (["/system Be kind.", "/system off"], "there is no system text", []),
    (["/system Be kind.", "say a", "/reset"], "the system text stays", ["Be kind."]),
    (["say a", "/reset"], "a new conversation", []),
    (["say a", "say b", "/drop"], "oldest turns dropped: 1", ["say b", "b"]),
    (["say a", "/drop"], "only the last turn is left", TURN),
    (["/drop"], "The conversation is empty, so there is no turn to drop", []),
    (["/system Be kind.", "/drop"], "The conversation is empty", ["Be kind."]),
    (["say a", "/drop x"], "/drop takes a number", TURN),
    (["say a", "/drop 0"], "/drop takes a number", TURN),
    (["say a", f"/drop {HUGE}"], "only the last turn is left", TURN),
    (["say a", "/context"], "of 8000 tokens (0%) in 1 turn; when it is full, you are asked what to do", TURN),
    (["/context rolling"], "when it is full, the oldest turns are dropped", []),
    (["/context all"], "/context takes rolling or ask", []),
    (["say a", "/stats"], "50.0 tokens/s", TURN),
    (["/stats"], "loaded in", []),
    (["say a", "/stats"], "1 answer, 1 tokens", TURN),
    (["say a", "/compare"], "tokens/s, decoded together: base alone 50.0; helpful.tuned alone 50.0; brief.tuned", TURN),
    (["/compare hello"], "base alone", []),
    (["/compare"], "There is no prompt yet", []),
    (["what", "/sweep 0 2"], "beta 0 50.0; beta 2 50.0", ["what", "beta 1 emulated: what"]),
    (["what", "/sweep much"], "/sweep takes numbers", ["what", "beta 1 emulated: what"]),
    (["say a b", "/why"], "2 tokens and the end, moved by 0.60 nats", ["say a b", "a b"]),
    (["say a b", "/why 2"], "token 2, after “a”", ["say a b", "a b"]),
    (["say [/x] b", "/why 2"], "token 2, after “[/x]”", ["say [/x] b", "[/x] b"]),  # it is no markup
    (["say a b", "/why b"], "token 2, after “a”", ["say a b", "a b"]),
    (["say a b", "/why 4"], "There is no token 4; the answer has 3 tokens", ["say a b", "a b"]),
    (["say a b", f"/why {HUGE}"], "the answer has 3 tokens", ["say a b", "a b"]),
    (["say a", "/why"], "1 token and the end", TURN),
    (["say a b", "/why z"], "No token of the answer contains 'z'", ["say a b", "a b"]),
    (["/why"], "There is no answer whose tokens are known", []),
    (["think 1 Hi", "/think"], "t0000 of the thoughts\n", ["think 1 Hi", THOUGHT]),
    (["say a", "/think"], "There is no answer with thoughts", TURN),
    (["/think"], "There is no answer with thoughts", []),
    (["/think hide"], "thoughts are not shown", []),
    (["/think loud"], "/think takes show, fold or hide, not 'loud'", []),
    (["think 1 Hi", "/compare"], "(thought: ", ["think 1 Hi", THOUGHT]),
    (["/save"], "/save needs a name", []),
    (["/save ../up"], "is not a name for a session", []),
    ([f"/save {'語' * 100}"], "It is too long", []),
    ([f"/load {'語' * 100}"], "It is too long", []),
    ([f"/delete {'語' * 100}"], "It is too long", []),
    (["say a", "/save it", "/reset", "/load it"], "it: 2 messages with fake", TURN),
    (["/load it"], "No session is named 'it'", []),
    (["/load"], "/load needs the name", []),
    (["/sessions"], "no session is saved yet", []),
    (["/save one", "/sessions"], "one", []),
    (["say a", "/save it", "say b", "/save it"], "saved as it is now", ["say a", "a", "say b", "b"]),
    (["say a", "/save it", "/reset", "say b", "/save it"], "There is a session named it already", ["say b", "b"]),
    (["say a", "/save it", "/reset", "say b", "/save --force it"], "saved as it is now", ["say b", "b"]),
    (["/rename"], "/rename needs the new name", []),
    (["say a", "/rename it"], "This chat is not kept, so it has no name", TURN),
    (["/delete"], "/delete needs the name of a session", []),
    (["/delete it"], "No session is named 'it'", []),
    (["say a", "/save it", "/delete it"], "A pipe cannot be asked", TURN),
    (["say a", "/save it", "/delete --force it"], "deleted: it", TURN),
    (["/history"], "The conversation is empty", []),
    (["say a", "/history 0"], "/history takes a number of turns", TURN),
    (["say a", f"/history {HUGE}"], ">>> say a\na\n", TURN),
    (["say a", "say b", "/history 1"], ">>> say b\nb\n", ["say a", "a", "say b", "b"]),
    (["say a", "say b", "/drop", "/history"], "not in the context any more)\n\n>>> say b", ["say b", "b"]),
    (["/export a.txt"], ".md or .json", []),
    (["/export ~no-such-user-here/a.md"], "cannot be written", []),
    ([f"/export {'語' * 100}.md"], "cannot be written", []),
    (["/export /no/such/place/a.md"], "cannot be written", []),
    (["/copy"], "There is no answer to copy", []),
    (["say a", "/copy code"], "no code block", TURN),
    (["/emulator"], "the other one", []),
    (["say a", "/emulator other"], "other: loaded in 0.1 s", TURN),
    (["say a", "/emulator far"], "far is not on this machine: hub is not downloaded yet", TURN),
    (["/emulator"], "more are not on this machine; in a shell, `eftlocal list` shows them", []),
    (["/emulator othr"], 'no emulator is named "othr"', []),
    (["/help"], "/compare [PROMPT]", []),
    (["/help beta"], "strength of all rewards", []),
    (["/?"], "/compare [PROMPT]", []),
    (["/h"], "Conversation", []),
    (["/HELP beta"], "0 is the base alone, 1 is as configured", []),
    (["  /Beta  0.5  "], "beta is 0.5", []),
    (["say a", " /clear "], "a new conversation", []),
    (["/model"], "the other one", []),
    (["/models"], "the other one", []),
    (["/hlep"], "Did you mean /help? To send it as a message, begin with //.", []),
    (["/claer"], "Did you mean /clear?", []),
    (["/beta=1"], "There is no command /beta=1.", []),
    (["/"], "There is no command /.", []),
    (["/tmp is what?"], "There is no command /tmp.", []),
    (["help"], "help was not sent; /help lists the commands", []),
    ([" ? "], "? was not sent", []),
    (["help me"], "emulated: help me", ["help me", "beta 1 emulated: help me"]),
    (["//beta"], "beta 1 emulated: /beta", ["/beta", "beta 1 emulated: /beta"]),
    ([" //beta"], "emulated: /beta", ["/beta", "beta 1 emulated: /beta"]),
    (['"""\n/beta\nx\n"""'], "emulated: /beta", ["/beta\nx", "beta 1 emulated: /beta\nx"]),
    (['"""exit"""'], "emulated: exit", ["exit", "beta 1 emulated: exit"]),
    (['"""\n"""'], "", []),
    (["/usr/bin is what?"], "emulated: /usr/bin", ["/usr/bin is what?", "beta 1 emulated: /usr/bin is what?"]),
    (["empty"], "the answer is empty, so your message was taken back", []),
]


@pytest.mark.parametrize(("lines", "said", "conversation"), CASES, ids=[" then ".join(c[0])[:60] for c in CASES])
def test_commands(
    lines: list[str], said: str, conversation: list[str], chat: Chat, capsys: pytest.CaptureFixture[str]
) -> None:
    for line in lines:
        capsys.readouterr()
        try:
            run(chat, line)
        except EftError as error:
            chat.screen.error(error)
    shown = capsys.readouterr()
    assert said in shown.out + shown.err
    assert contents(chat) == conversation


def test_an_answer_that_a_failed_decode_ends_is_kept_and_goes_on(
    chat: Chat, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A base's server may stop, and come back."""
    run(chat, "first")
    before, whole = contents(chat), FakeStream.__iter__

    def broken(stream: FakeStream) -> Iterator[str]:
        words = whole(stream)
        yield next(words)
        yield next(words)
        raise DecodeError("the server is gone")

    with monkeypatch.context() as patched:
        patched.setattr(FakeStream, "__iter__", broken)
        with pytest.raises(DecodeError):
            run(chat, "again")
    assert "the answer so far is kept; /continue goes on with it" in capsys.readouterr().err
    *rest, question, answer = contents(chat)
    assert rest == before and question == "again" and answer and "beta 1 emulated: again".startswith(answer.strip())
    with monkeypatch.context() as patched:
        patched.setattr(FakeStream, "__iter__", broken)
        with pytest.raises(DecodeError):
            run(chat, "/regen")
    assert contents(chat) == [*before, question, answer]  # the old answer, and not a part of a new one
    run(chat, "/continue")
    assert len(contents(chat)) == len(before) + 2 and contents(chat)[-1].startswith(answer)


def test_every_command_has_a_case_and_a_name_of_its_own() -> None:
    names = [name for command in TABLE for name in (command.name, *command.aliases)]
    assert len(names) == len(set(names))
    tried = {
        find(parts[0]).name for lines, _, _ in CASES for line in lines if (parts := split(line)) and parts[0] in names
    }
    assert {command.name for command in TABLE} - tried == {"bye", "edit", "negative"}  # they have tests of their own


def test_the_help_has_one_row_of_60_columns_for_each_command() -> None:
    width = max(len(f"  /{command.name} {command.arguments}".rstrip()) for command in TABLE)
    assert [command.name for command in TABLE if width + len("  ") + len(command.help) > 60] == []


def test_bye_leaves(chat: Chat) -> None:
    for line in ("/bye", "/exit", "/Quit", "exit", "quit", " Bye ", ":q"):
        with pytest.raises(Leave):
            run(chat, line)
    assert contents(chat) == []


def test_edit_takes_what_the_editor_wrote(chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nprintf 'say written' > \"$1\"\n")
    editor.chmod(0o755)
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", str(editor))
    run(chat, "/edit")
    assert contents(chat) == ["say written", "written"]
    assert chat.offered == ["say written"]  # Up gives it, to send it again
    monkeypatch.setenv("EDITOR", str(tmp_path / "missing"))
    with pytest.raises(EftError, match="cannot be run: No such file or directory"):
        run(chat, "/edit")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(EftError, match="cannot be given to an editor"):
        run(chat, "/edit")


def test_every_dial_can_be_set_by_its_name(chat: Chat) -> None:
    values = {"mix": "helpful=0.5", "alone": "base", "stop": "END", "logit_bias": "3=-2", "constraint": "choice yes|no"}
    for name in Dials.__annotations__:
        value = values.get(name, "1")
        run(chat, f"/set {name} {value}")
        assert dials.value_of(chat.emulator.settings, name) == (
            ("END",) if name == "stop" else dials.parse(name, value)
        )


def test_a_session_keeps_a_constraint(chat: Chat) -> None:
    run(chat, "/set constraint regex [a-z]+")
    run(chat, "say a")
    run(chat, "/save shaped")
    assert store.load("shaped").settings == chat.emulator.settings
    for wrong in ("regex", "regexp x", "json_schema [1]", "choice a||b"):
        with pytest.raises(SettingError):
            run(chat, f"/set constraint {wrong}")
    with pytest.raises(SettingError, match=r"unclosed group: character 2: a<here>\("):
        run(chat, "/set constraint regex a(")


def test_export_writes_markdown_and_json(chat: Chat, tmp_path: Path) -> None:
    run(chat, "say a")
    run(chat, f"/export {tmp_path / 'a.md'}")
    assert (tmp_path / "a.md").read_text() == "## User\n\nsay a\n\n## Assistant\n\na\n"
    run(chat, f"/export {tmp_path / 'a.json'}")
    assert json.loads((tmp_path / "a.json").read_text())["messages"][1]["content"] == "a"


def test_copy_gives_the_answer_or_its_last_code_block(
    chat: Chat, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "pbcopy"
    program.write_text(f"#!/bin/sh\ncat > {tmp_path / 'clip'}\n")
    program.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda name: str(program) if name == "pbcopy" else None)
    run(chat, "say text\n```python\nx = 1\n```")
    run(chat, "/copy")
    assert (tmp_path / "clip").read_text().startswith("text")
    run(chat, "/copy code")
    assert (tmp_path / "clip").read_text() == "x = 1\n"


def test_the_emulators_own_system_text_is_shown_and_can_be_replaced_and_turned_off(
    chat: Chat, capsys: pytest.CaptureFixture[str]
) -> None:
    fake(chat).members.system = "Be wise."
    for line, said, messages in [
        ("/system", "system: Be wise.", []),
        ("/system Be kind.", "system: Be kind.", ["Be kind."]),
        ("/system off", "there is no system text", [""]),  # which stands for none, also not the emulator's
    ]:
        run(chat, line)
        assert said in capsys.readouterr().err and contents(chat) == messages


# --- comparing --------------------------------------------------------------------------------------------------------


def test_compare_asks_the_same_prompt_with_the_same_seed_and_leaves_the_conversation(chat: Chat) -> None:
    run(chat, "/system Be kind.")
    run(chat, "what")
    fake(chat).prompts.clear()
    run(chat, "/compare and now")
    asked = fake(chat).prompts
    assert [settings.alone for _, settings in asked] == ["base", "helpful.tuned", "brief.tuned", None]
    assert len({settings.seed for _, settings in asked}) == 1 and asked[0][1].seed is not None
    assert {tuple(m.content for m in messages) for messages, _ in asked} == {
        ("Be kind.", "what", "beta 1 emulated: what", "and now")
    }


def test_why_asks_once_for_one_answer_and_under_the_dials_it_came_with(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []
    score = FakeEmulator.score

    def counted(*args: Any, **dials: Any) -> Score:
        calls.append(dials)
        return score(*args, **dials)

    monkeypatch.setattr(FakeEmulator, "score", counted)
    run(chat, "/beta 0.5")
    run(chat, "say a b")
    run(chat, "/beta 2")
    run(chat, "/why")
    run(chat, "/why 1")
    assert [call["beta"] for call in calls] == [0.5]
    run(chat, "say c")
    run(chat, "/why")
    assert [call["beta"] for call in calls] == [0.5, 2.0]


# --- the context's end ------------------------------------------------------------------------------------------------


def test_a_context_that_is_nearly_full_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chat = make(tmp_path, context=40)
    run(chat, f"say {'word ' * 15}".strip())
    assert "of the context is used" in capsys.readouterr().err


def test_a_message_that_does_not_fit_is_taken_back_and_ways_out_are_offered(tmp_path: Path) -> None:
    chat = make(tmp_path, context=40)
    run(chat, f"say {'word ' * 15}".strip())
    before = contents(chat)
    with pytest.raises(EftError, match="/drop drops the oldest turn, /reset"):
        run(chat, f"say {'more ' * 30}")
    assert contents(chat) == before


@pytest.mark.parametrize("rolling", [False, True])
@pytest.mark.parametrize("system", [None, "Be kind."])
def test_a_message_that_does_not_fit_even_alone_says_its_length_and_costs_no_turn(
    system: str | None, rolling: bool, tmp_path: Path
) -> None:
    chat = make(tmp_path, context=40, rolling=rolling, system=system)
    run(chat, "say a")
    before = contents(chat)
    fits = 38 if system is None else 35  # the fake counts words, and one token around each message
    with pytest.raises(EftError) as caught:
        run(chat, f"say {'word ' * 50}")
    assert caught.value.message == f"Your message has 51 tokens, and at most {fits} fit in the context of 40 tokens."
    assert caught.value.hint == "Shorten it, or start the chat with a larger context: --ctx 1024"
    assert contents(chat) == before
    run(chat, "/reset")
    run(chat, "say " + "word " * (fits - 1))  # with as many as it says, it fits
    with pytest.raises(EftError, match=f"Your message has {fits + 1} tokens"):
        run(chat, "say " + "word " * fits)


def test_a_system_text_that_fills_the_context_is_what_is_too_long(tmp_path: Path) -> None:
    chat = make(tmp_path, context=40, system="word " * 60)
    with pytest.raises(EftError, match="The system text takes 62 tokens, and the context holds 40"):
        run(chat, "hello")


def test_an_answer_that_meets_the_end_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chat = make(tmp_path, context=40)
    run(chat, f"say {'word ' * 30}".strip())
    assert "the context of 40 tokens is full: /drop" in " ".join(capsys.readouterr().err.split())


def test_a_rolling_context_drops_the_oldest_turns_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chat = make(tmp_path, context=40, rolling=True, system="Be kind.")
    for word in ("one", "two", "three", "four", "five", "six", "seven"):
        run(chat, f"say {word} {word}")
    assert contents(chat)[0] == "Be kind."
    assert contents(chat)[-1] == "seven seven"
    assert "say one one" not in contents(chat)
    assert "the oldest turn was dropped" in capsys.readouterr().err


# --- switching and sessions -------------------------------------------------------------------------------------------


def test_switching_keeps_the_texts_and_drops_the_ids_and_frees_the_models(chat: Chat) -> None:
    run(chat, "say a")
    before = fake(chat)
    run(chat, "/emulator other")
    assert before.closed and chat.emulator.name == "other"
    assert contents(chat) == TURN and not chat.messages[1].tokens


def test_a_loaded_session_is_what_was_saved_to_the_last_token_and_dial(chat: Chat, data: Path) -> None:
    run(chat, "/set logit_bias 5=-inf")
    run(chat, "/set stop END")
    run(chat, "/mix helpful=0.1")
    run(chat, "say äöü 漢字 🎉\n\x1b[31m red")
    messages, settings = list(chat.messages), chat.emulator.settings
    run(chat, "/save it")
    run(chat, "/reset")
    run(chat, "/set logit_bias off")
    run(chat, "/load it")
    assert chat.messages == messages and messages[1].tokens
    assert chat.emulator.settings == settings
    text = (data / "eftlocal/sessions/it.json").read_text()
    assert '"tokens": [ 0, 1, 2, 3, 4 ]' in text  # the ids are on one line, so that the file is readable


def test_a_loaded_answer_is_continued_from_its_saved_tokens(chat: Chat, data: Path) -> None:
    run(chat, "say a b c")
    run(chat, "/save it")
    run(chat, "/reset")
    run(chat, "/load it")
    saved = chat.messages[-1]
    assert saved.tokens
    fake(chat).prompts.clear()
    run(chat, "/continue")
    [(asked, _)] = fake(chat).prompts
    assert asked[-1] == saved


def test_token_ids_of_another_vocabulary_are_left_out_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chat = make(tmp_path)
    messages = (Message("user", "x"), Message("assistant", "a", (1, 2)))
    mine = chat.emulator.vocabulary
    for vocabulary, kept in ((mine, messages[1].tokens), ("another", ()), (None, ())):
        chat.resume(session.Saved(emulator="fake", settings=Settings(), messages=messages, vocabulary=vocabulary))
        chat.say_remarks()
        said = capsys.readouterr().err
        assert chat.messages[-1].tokens == kept
        assert ("held with another vocabulary, so its texts are tokenized again" in said) == (not kept)


def test_dials_given_for_this_run_go_before_those_of_the_session(tmp_path: Path) -> None:
    chat = make(tmp_path, dials={"beta": 0.3})
    saved = session.Saved(emulator="fake", settings=Settings(beta=2.0, seed=5), messages=())
    chat.resume(saved)
    assert (chat.emulator.settings.beta, chat.emulator.settings.seed) == (0.3, 5)


def test_a_session_whose_dials_do_not_fit_goes_on_without_them_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chat = make(tmp_path)
    settings = Settings(mix={"polite": 1.0})
    chat.resume(session.Saved(emulator="another", settings=settings, messages=(Message("assistant", "a", (1, 2)),)))
    chat.say_remarks()
    said = capsys.readouterr().err
    assert "held with another" in said and "There is no reward named 'polite'" in said
    assert chat.messages == [Message("assistant", "a")] and not chat.emulator.settings.mix


def test_the_sizes_of_the_models_are_known_before_loading(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"x" * 5000)
    models = tmp_path / "local.toml"
    models.write_text('[models.m]\npath = "m.gguf"\n[emulators.fake]\nbase = "m"\n')
    loader = Loader(loads, "fake", catalog.load(models))
    assert loader.sizes() == {"m": 5000}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text[: len(text) // 2], "is not a valid session"),
        (lambda text: "", "is not a valid session"),
        (lambda text: "[]", "the file is not a JSON object"),
        (lambda text: text.replace("session-1", "session-9"), "eftlocal-session-9"),
        (lambda text: text.replace('"assistant"', '"butler"'), "'butler'"),
        (lambda text: text.replace("[ 0 ]", "[ -1 ]"), "message 2 has tokens that are not token ids"),
        (lambda text: text.replace('"beta": 1.0', '"beta": "x"'), "is not a valid session"),
        (lambda text: text.replace('"top_p"', '"top_q"'), "top_q"),
    ],
)
def test_a_damaged_session_is_named_and_kept(damage: Any, said: str, chat: Chat, data: Path) -> None:
    run(chat, "say a")
    run(chat, "/save it")
    path = data / "eftlocal/sessions/it.json"
    path.write_text(damaged := damage(path.read_text()))
    with pytest.raises(EftError) as caught:
        run(chat, "/load it")
    assert str(path) in str(caught.value) and said in str(caught.value)
    assert path.read_text() == damaged
    assert contents(chat) == TURN


def test_a_session_that_cannot_be_written_whole_leaves_the_old_one(
    chat: Chat, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(chat, "say a")
    run(chat, "/save it")
    before = (data / "eftlocal/sessions/it.json").read_text()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    run(chat, "say b")
    with pytest.raises(EftError, match="No space left"):
        run(chat, "/save it")
    assert [path.name for path in (data / "eftlocal/sessions").iterdir()] == ["it.json"]
    assert (data / "eftlocal/sessions/it.json").read_text() == before


def test_the_list_of_emulators_ends_with_what_is_broken(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "eftlocal").mkdir(exist_ok=True)
    (data / "eftlocal" / "models.toml").write_text("[emulators.bad]\nbse = 1\n")
    chat = make(data)
    run(chat, "/emulator")
    listed, _, broken = capsys.readouterr().err.partition("the other one")
    assert "[emulators.bad] bse: unknown key" in broken and "bad" not in listed.split()
