"""Files in messages: how a message names them, what can be read, and what fits in the context."""

import os
from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from eftlocal.apps.chat import files, store
from eftlocal.apps.chat.commands import run
from eftlocal.apps.chat.completion import Completions
from eftlocal.apps.chat.files import Mentions, TextFile, path_and_rest, read, scan
from eftlocal.apps.chat.state import Chat
from eftlocal.errors import ContextError, EftError
from tests.apps.terminal import CTRL_D, ENTER, fake
from tests.apps.test_chat_commands import contents, make


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own folder with files, in which the test runs."""
    for name, value in (("XDG_DATA_HOME", str(tmp_path / "data")), ("HOME", str(tmp_path)), ("COLUMNS", "200")):
        monkeypatch.setenv(name, value)
    here = tmp_path / "here"
    (here / "sub").mkdir(parents=True)
    (here / "notes.txt").write_text("one\ntwo\n")
    (here / "my notes.txt").write_text("mine")
    (here / "sub" / "deep.md").write_text("deep\n")
    (here / ".hidden").write_text("x")
    monkeypatch.chdir(here)
    return here


@pytest.fixture
def chat(tmp_path: Path) -> Chat:
    return make(tmp_path)


def bad(word: str) -> Mentions:
    return Mentions(f"@{word} x", (), (word,))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("about @notes.txt, please", Mentions("about notes.txt, please", ("notes.txt",), ())),
        ("@notes.txt", Mentions("", ("notes.txt",), ())),
        ("@notes.txt?", Mentions("", ("notes.txt",), ())),
        ('@"my notes.txt" why', Mentions("my notes.txt why", ("my notes.txt",), ())),
        ("@./notes.txt @sub/deep.md", Mentions("", ("./notes.txt", "sub/deep.md"), ())),
        ("@notes.txt or @notes.txt", Mentions("notes.txt or notes.txt", ("notes.txt",), ())),
        ("@user, see @notes.txt", Mentions("@user, see notes.txt", ("notes.txt",), ())),
        ("@user @notes.txt", Mentions("@user notes.txt", ("notes.txt",), ())),
        ("me@notes.txt", Mentions("me@notes.txt", (), ())),  # an address, not a path
        ("at @ 3 or @3.50", Mentions("at @ 3 or @3.50", (), ())),
        ("@nope.txt x", bad("nope.txt")),
        ("@no/pe x", bad("no/pe")),
        ('@"no pe" x', Mentions('@"no pe" x', (), ("no pe",))),
        ('s = @"no";', Mentions('s = @"no";', (), ("no",))),
        ('@@"my notes.txt" x', Mentions('@"my notes.txt" x', (), ())),
        ("@sub", Mentions("", ("sub",), ())),  # reading it says that it is a folder
        ("@sub\ndef f(): ...", Mentions("@sub\ndef f(): ...", (), ())),
        ("@nope x", Mentions("@nope x", (), ())),
        ("@@nope.txt x", Mentions("@nope.txt x", (), ())),
        ("@app.command() x", Mentions("@app.command() x", (), ())),
        (f"@{'a' * 300} x", Mentions(f"@{'a' * 300} x", (), ())),
        ("@a\0b x", Mentions("@a\0b x", (), ())),
    ],
)
def test_a_message_names_files_after_an_at(text: str, found: Mentions) -> None:
    assert scan(text) == found


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        ("notes.txt what is it", ("notes.txt", "what is it")),
        ("notes.txt\nwhat\nis it", ("notes.txt", "what\nis it")),
        ('"my notes.txt"  what', ("my notes.txt", "what")),
        ("my notes.txt", ("my notes.txt", "")),
        ("@notes.txt what", ("notes.txt", "what")),
    ],
)
def test_the_argument_of_read_is_a_path_and_a_question(argument: str, parts: tuple[str, str]) -> None:
    assert path_and_rest(argument) == parts


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("é\r\nb\rc".encode(), "é\nb\nc"),
        ("\ufeffé\r\n".encode(), "é\n"),
        ("é\r\n".encode("utf-16"), "é\n"),
        ("\ufeffé\n".encode("utf-16-be"), "é\n"),
        ("é\n".encode("utf-32"), "é\n"),
        (b"a\x1b[31mred\n", "a\x1b[31mred\n"),
    ],
)
def test_text_of_each_usual_encoding_is_read(data: bytes, text: str, folder: Path) -> None:
    (folder / "a.txt").write_bytes(data)
    assert read("a.txt") == TextFile("a.txt", text)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("café".encode("latin-1"), "a.txt is not UTF-8 text: byte 3 is 0xe9.\nIf it is Latin-1"),
        (b"a\0b", "a.txt is a binary file"),
        (b"\x89PNG\r\n\x1a\n", "a.txt is a binary file"),
        ("é".encode("utf-16") + b"x", "a.txt is a binary file"),
        (b"\n \n", "a.txt is empty."),
        (b"", "a.txt is empty."),
    ],
)
def test_what_is_no_text_is_told(data: bytes, said: str, folder: Path) -> None:
    (folder / "a.txt").write_bytes(data)
    with pytest.raises(EftError) as raised:
        read("a.txt")
    assert str(raised.value).startswith(said)


def test_folders_devices_missing_and_huge_files_are_told_without_reading_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(folder / "pipe")
    with (folder / "huge.log").open("wb") as file:
        file.truncate(5 * 10**9)  # a sparse file
    for name, said in [
        ("sub", "sub is a folder; name its files."),
        ("pipe", "pipe is not a regular file."),
        ("/dev/zero", "/dev/zero is not a regular file."),
        ("none.txt", "There is no file none.txt."),
        ("~/none.txt", "There is no file ~/none.txt."),
        ("a" * 300, "File name too long"),
        ("a\0b", "embedded null byte"),
        ("huge.log", "huge.log has 5.00 GB; a message takes files of at most 4.00 MB."),
    ]:
        with pytest.raises(EftError) as raised:
            read(name)
        assert said in str(raised.value)
    monkeypatch.setattr(Path, "open", _denied)
    with pytest.raises(EftError, match=r"notes.txt cannot be read: Permission denied\."):
        read("notes.txt")


def _denied(self: Path, mode: str) -> None:
    raise PermissionError(13, "Permission denied")


def test_the_home_folder_is_found(folder: Path) -> None:
    (folder.parent / "mine.txt").write_text("m")
    assert scan("@~/mine.txt").names == ("~/mine.txt",) and read("~/mine.txt").text == "m"


def test_a_fence_is_longer_than_any_in_the_file() -> None:
    file = TextFile("a.md", "```python\nx\n````\n")
    assert files.message([file], "why?") == "a.md:\n`````\n```python\nx\n````\n`````\n\nwhy?"
    assert file.lines == 3 and TextFile("b", "x\ny").lines == 2


# --- in the chat ------------------------------------------------------------------------------------------------------


def test_the_model_reads_the_file_and_the_user_sees_a_note(chat: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    run(chat, "what is in @notes.txt and @sub/deep.md?")
    message = "notes.txt:\n```\none\ntwo\n```\n\nsub/deep.md:\n```\ndeep\n```\n\nwhat is in notes.txt and sub/deep.md?"
    assert contents(chat)[0] == message
    shown = capsys.readouterr()
    assert shown.err == "(read notes.txt: 2 lines, 6 tokens; sub/deep.md: 1 line, 5 tokens)\n"
    run(chat, "/undo")
    assert chat.offered == ["what is in @notes.txt and @sub/deep.md?"]  # not the texts of the files


def test_read_retry_and_compare_take_files_too(chat: Chat) -> None:
    run(chat, "/read notes.txt what is it")
    asked = "notes.txt:\n```\none\ntwo\n```\n\nwhat is it"
    assert contents(chat)[0] == asked
    run(chat, "/retry again, @notes.txt")
    assert contents(chat)[0] == asked.replace("what is it", "again, notes.txt")
    before = contents(chat)
    run(chat, "/compare say @notes.txt")
    assert contents(chat) == before
    run(chat, "/undo")
    run(chat, '/read "my notes.txt"')
    assert contents(chat)[0] == "my notes.txt:\n```\nmine\n```"
    run(chat, "/undo")
    assert chat.offered[-1] == '@"my notes.txt"'
    with pytest.raises(EftError, match="/read needs a file"):
        run(chat, "/read")


def test_nothing_is_sent_for_a_missing_file(chat: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    for line in ("what is in @nope.txt", "@sub", "/read nope.txt x", "@notes.txt and @nope.txt"):
        with pytest.raises(EftError):
            run(chat, line)
        assert contents(chat) == []
    run(chat, "say a\n@nope.mark\ndef f(): ...")  # a program
    assert "there is no file nope.mark, so its @ is sent as text" in capsys.readouterr().err
    assert contents(chat)[0] == "say a\n@nope.mark\ndef f(): ..."


def test_a_file_is_counted_before_it_is_sent(tmp_path: Path, folder: Path) -> None:
    chat = make(tmp_path, context=100)
    run(chat, "say " + "a " * 20)
    before = contents(chat)
    (folder / "big.txt").write_text("word " * 200)
    (folder / "half.txt").write_text("word " * 60)
    with pytest.raises(ContextError) as raised:
        run(chat, "what is @big.txt")
    assert str(raised.value) == (
        "big.txt has 203 tokens; 52 are free in this context of 100.\n"
        "Read a part of it, or start the chat with a larger context: --ctx 1024"
    )
    with pytest.raises(ContextError) as raised:
        run(chat, "what is @half.txt")
    assert raised.value.hint == "/drop drops the oldest turn, /reset starts over."
    assert contents(chat) == before
    run(chat, "/context rolling")  # which drops the old turn for it
    run(chat, "/read half.txt")
    assert len(chat.turns) == 2 and chat.turns[0].content.startswith("half.txt:\n")


def test_a_session_and_an_export_hold_the_files_text(chat: Chat, folder: Path) -> None:
    run(chat, "@notes.txt why")
    run(chat, "/save it")
    assert "one\ntwo" in store.load("it").messages[0].content
    run(chat, "/export a.md")
    assert "one\ntwo" in (folder / "a.md").read_text()


def completions(chat: Chat, text: str) -> list[str]:
    document = Document(text, len(text))
    found = Completions(chat).get_completions(document, CompleteEvent())
    return [text[: len(text) + each.start_position] + each.text for each in found]


def test_paths_are_completed_after_an_at_and_where_a_command_takes_one(chat: Chat, folder: Path) -> None:
    (folder / "with space").mkdir()
    (folder / "steer\x1b.txt").write_text("x")
    for typed, whole in [
        ("see @no", ["see @notes.txt"]),
        ("a\nsee @no", ["a\nsee @notes.txt"]),
        ("see @m", ['see @"my notes.txt"']),
        ('see @"my n', ['see @"my notes.txt"']),
        ("see @s", ["see @sub/"]),
        ("see @sub/", ["see @sub/deep.md"]),
        ("see @w", ['see @"with space/']),
        ("see @.h", ["see @.hidden"]),
        ("see @~/her", ["see @~/here/"]),
        ("me@no", []),
        ("see @no/such/", []),
        ("/read no", ["/read notes.txt"]),
        ("/read notes.txt wh", []),
        ("/read notes.txt like @sub/", ["/read notes.txt like @sub/deep.md"]),
        ("/EXPORT sub/", ["/EXPORT sub/deep.md"]),
        ("/usr @no", ["/usr @notes.txt"]),
        ("no", []),
    ]:
        assert completions(chat, typed) == whole, typed
    assert completions(chat, "see @")[0] == 'see @"my notes.txt"'  # without what is hidden or not printable
    assert len(completions(chat, "see @")) == 4


def test_emulators_are_completed_that_are_here(chat: Chat) -> None:
    assert completions(chat, "/model f") == ["/model fake"]  # and not `far`


def test_commands_are_completed_by_name_and_alias_in_any_case(chat: Chat) -> None:
    assert completions(chat, "/sys") == ["/system"]
    assert completions(chat, "/CLE") == ["/clear"]
    assert completions(chat, "/system o") == ["/system off"]
    assert completions(chat, "//sys") == [] == completions(chat, "say\n/sys")


@pytest.mark.slow
def test_a_file_is_completed_and_sent_on_a_terminal_and_steers_nothing(tmp_path: Path, folder: Path) -> None:
    (folder / "steer.txt").write_text("a\x1b]0;title\x07\x1b[2J b\n")
    with fake(tmp_path / "data") as terminal:
        terminal.prompt(1)
        terminal.send(f"count @{folder}/ste")
        terminal.wait("steer.txt")
        terminal.send("\t" + ENTER)
        terminal.prompt(2)
        assert "steer.txt:1line,6tokens)" in "".join(terminal.text.split())
        assert b"\x1b]0;title" not in terminal.raw and ">>> count @" in terminal.text
        terminal.send(CTRL_D)
        assert terminal.close() == 0
