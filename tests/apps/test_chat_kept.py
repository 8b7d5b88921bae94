"""Chats that are kept: their names, their locks, what is never lost, and `eftlocal sessions`."""

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from eftlocal.apps.chat import manage, store
from eftlocal.apps.chat.commands import run
from eftlocal.apps.chat.lock import Held, Lock
from eftlocal.apps.chat.record import Record
from eftlocal.apps.chat.session import Saved
from eftlocal.apps.chat.state import Chat
from eftlocal.decoding.settings import Settings
from eftlocal.errors import EftError
from eftlocal.runtime.views import Message
from tests.apps.test_chat_commands import contents, data, make

__all__ = ["data"]  # the fixture that gives each test a data folder of its own


@pytest.fixture
def chat(tmp_path: Path) -> Iterator[Chat]:
    chat = kept(tmp_path)
    yield chat
    chat.record.leave()


def kept(folder: Path, **options: Any) -> Chat:
    return make(folder, record=Record(keep=True), **options)


def talk(*texts: str, **more: Any) -> Saved:
    messages = [Message(role, text) for text in texts for role, text in (("user", text), ("assistant", f"to {text}"))]
    return Saved(emulator="fake", settings=Settings(), messages=tuple(messages), **more)


def said(name: str) -> list[str]:
    return [message.content for message in store.load(name).said]


# --- keeping ----------------------------------------------------------------------------------------------------------


def test_a_chat_is_kept_after_each_turn_under_its_first_words_and_only_the_user_can_read_it(chat: Chat) -> None:
    run(chat, "How large is Lyon?")
    assert store.names() == ["how-large-is-lyon"]
    run(chat, "say b")
    assert said("how-large-is-lyon")[2:] == ["say b", "b"]
    assert stat.S_IMODE(store.path("how-large-is-lyon").stat().st_mode) == 0o600
    assert stat.S_IMODE(store.folder().stat().st_mode) == 0o700
    assert store.load("how-large-is-lyon").kept and chat.session_name is None


def test_a_chat_without_an_answer_is_not_kept_and_one_that_is_undone_goes(chat: Chat) -> None:
    run(chat, "/system Be kind.")
    run(chat, "empty")
    assert store.names() == []
    run(chat, "say a")
    run(chat, "/undo")
    assert store.names() == [] and list(store.folder().iterdir()) == []
    run(chat, "say b")
    assert store.names() == ["say-b"]


def test_a_chat_that_keeps_nothing_writes_nothing(tmp_path: Path) -> None:
    run(make(tmp_path), "say a")
    assert not store.folder().exists()


@pytest.mark.parametrize(
    ("first", "name"),
    [
        ("How large is Lyon?", "how-large-is-lyon"),
        ("  ...\n\nIs it TRUE, that 2 + 2 = 5? And what else is true?", "is-it-true-that-2-2"),
        ("Wie groß ist Zürich?", "wie-groß-ist-zürich"),
        ("リヨンの人口は？", "リヨンの人口は"),
        ("../../etc/passwd", "etc-passwd"),
        ("a" * 300, "a" * 40),
        ("!?", "chat"),
        ("🎉🎉", "chat"),
        ("con", "chat"),  # a file that Windows has in each folder
        ("שלום עולם", "שלום-עולם"),
        ("", "chat"),
        ("```notes.txt\nsecret\n```\n\nSum it up", "sum-it-up"),
        ("/a/b/notes.txt:\n```\nsecret\n```\n\nc.txt:\n~~~\nx\n~~~\n\nSum it up", "sum-it-up"),
    ],
)
def test_a_name_is_made_of_the_first_words(first: str, name: str) -> None:
    assert store.name_for(talk(first)) == name
    assert store.path(name).parent == store.folder()


def test_equal_first_words_get_a_number(tmp_path: Path) -> None:
    for i in range(3):
        chat = kept(tmp_path)
        run(chat, "say a")
        if i != 1:  # the second one stays open
            chat.record.leave()
    assert sorted(store.names()) == ["say-a", "say-a-2", "say-a-3"]


def test_only_the_latest_kept_chats_stay_and_sessions_and_open_ones_are_never_removed() -> None:
    for i in range(7):
        store.save(f"n{i}", talk(str(i), kept=i != 2))
        os.utime(store.path(f"n{i}"), (i, i))
    held = store.lock("n1")
    (store.folder() / "broken.json").write_text("{")
    store.prune(3)
    held.release()
    assert sorted(store.names()) == ["broken", "n1", "n2", "n4", "n5", "n6"]


def test_reset_begins_another_kept_chat_and_the_old_one_stays(chat: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    run(chat, "say a")
    run(chat, "/reset")
    assert "/load say-a goes back to the old one" in capsys.readouterr().err
    run(chat, "say b")
    assert said("say-a") == ["say a", "a"] and said("say-b") == ["say b", "b"]


def test_reset_leaves_a_session_as_it_is_and_in_a_pipe_keeps_its_turns_in_a_copy(chat: Chat, tmp_path: Path) -> None:
    run(chat, "say a")
    run(chat, "/rename work")
    run(chat, "/reset")
    run(chat, "say b")
    assert said("work") == ["say a", "a"] and said("say-b") == ["say b", "b"]
    chat.record.leave()
    piped = make(tmp_path, record=Record())
    piped.record.open("work")
    piped.resume(store.load("work"))
    run(piped, "/reset")
    run(piped, "say c")
    assert said("work") == ["say c", "c"] and said("work-2") == ["say a", "a"]
    assert store.load("work-2").kept and not store.load("work").kept
    piped.record.leave()


def test_turns_that_the_context_lost_stay_in_the_file_and_in_the_history(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chat = kept(tmp_path, context=40, rolling=True)
    for word in ("one", "two", "three", "four", "five", "six"):
        run(chat, f"say {word} {word}")
    assert "say one one" not in contents(chat)
    assert said("say-one-one")[0] == "say one one" and len(said("say-one-one")) == 12
    capsys.readouterr()
    run(chat, "/history")
    shown = capsys.readouterr().err
    assert shown.index(">>> say one one") < shown.index("not in the context any more") < shown.index(">>> say six six")
    fresh = kept(tmp_path)
    fresh.resume(store.load("say-one-one"))
    assert (fresh.messages, fresh.dropped) == (chat.messages, chat.dropped)


def test_a_message_that_is_taken_back_brings_the_dropped_turns_back_once(tmp_path: Path) -> None:
    chat = kept(tmp_path, context=40, rolling=True)
    for word in ("one", "two", "three"):
        run(chat, f"say {word} {word} {word}")
    before = [*chat.dropped, *chat.messages]
    run(chat, "empty")
    assert [*chat.dropped, *chat.messages] == before and len(said("say-one-one-one")) == len(before)


def test_a_dial_that_is_turned_is_kept(chat: Chat) -> None:
    run(chat, "say a")
    run(chat, "/beta 0.5")
    assert store.load("say-a").settings.beta == 0.5


def test_a_kept_chat_that_cannot_be_written_goes_on_and_says_so_once(
    chat: Chat, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    for line in ("say a", "say b"):
        run(chat, line)
        chat.say_remarks()
    said = capsys.readouterr().err
    assert said.count("this chat is not kept") == 1 and "No space left" in said
    assert contents(chat) == ["say a", "a", "say b", "b"]


# --- two chats --------------------------------------------------------------------------------------------------------


def test_a_lock_is_one_process_s_and_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = f"""if True:
        from pathlib import Path
        from eftlocal.apps.chat.lock import Lock
        Lock.take(Path({str(path)!r}))
        print("locked", flush=True)
        input()"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"locked\n"
        with pytest.raises(Held) as caught:
            Lock.take(path)
        assert caught.value.pid == other.pid
        other.kill()
        other.wait()
    assert path.exists()  # kill -9 leaves the file, and it locks nothing
    lock = Lock.take(path)
    with pytest.raises(Held):
        Lock.take(path)
    lock.release()
    lock.release()
    assert not path.exists()


def test_two_chats_that_go_on_with_one_session_lose_no_turn(
    chat: Chat, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(chat, "say a")
    other = kept(tmp_path)
    run(other, "/load say-a")
    assert "say-a is open in another chat" in " ".join(capsys.readouterr().err.split())
    run(chat, "say b")
    run(other, "say c")
    assert said("say-a") == ["say a", "a", "say b", "b"] and said("say-a-2") == ["say a", "a", "say c", "c"]
    for command in ("/save --force say-a", "/delete --force say-a", "/rename say-a"):
        with pytest.raises(EftError, match=r"is open in another chat \(process \d+\)|a session named say-a already"):
            run(other, command)
    other.record.leave()


def test_a_file_that_another_program_changed_is_not_written_over(chat: Chat) -> None:
    run(chat, "say a")
    store.save("say-a", talk("something else"))
    run(chat, "say b")
    chat_name = chat.record.name
    assert said("say-a") == ["something else", "to something else"]
    assert chat_name == "say-a-2" and said("say-a-2") == ["say a", "a", "say b", "b"]
    assert chat.remarks == ["another program has changed say-a, so this conversation is kept as say-a-2"]


def test_load_goes_on_in_that_session_and_leaves_this_one_whole(chat: Chat) -> None:
    store.save("old", talk("x"))
    run(chat, "say a")
    run(chat, "/load old")
    run(chat, "say b")
    assert said("say-a") == ["say a", "a"] and said("old") == ["x", "to x", "say b", "b"]
    assert chat.session_name == "old"


def test_rename_keeps_a_chat_for_good_and_moves_its_file(chat: Chat) -> None:
    run(chat, "say a")
    run(chat, "/rename work")
    run(chat, "say b")
    assert store.names() == ["work"] and not store.load("work").kept and chat.session_name == "work"
    run(chat, "/rename work")
    store.save("other", talk("x"))
    with pytest.raises(EftError, match="There is a session named other already"):
        run(chat, "/rename other")
    assert len(said("work")) == 4


def test_a_chat_that_cannot_be_written_under_its_new_name_keeps_the_old_one(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat.record.keep = True
    run(chat, "say a")
    name, save = chat.record.name, store.save

    def full(name: str, saved: Saved) -> Path:
        raise EftError("No space left on device.")

    monkeypatch.setattr(store, "save", full)
    with pytest.raises(EftError, match="No space"):
        run(chat, "/rename work")
    monkeypatch.setattr(store, "save", save)
    assert (chat.record.name, chat.record.by_itself, store.names()) == (name, True, [name])
    run(chat, "/rename work")
    assert store.names() == ["work"]


def test_this_conversation_is_not_deleted_under_itself(chat: Chat) -> None:
    run(chat, "say a")
    with pytest.raises(EftError, match="say-a is this conversation"):
        run(chat, "/delete --force say-a")
    assert store.names() == ["say-a"]


# --- files of before --------------------------------------------------------------------------------------------------


def test_a_session_of_an_older_version_loads() -> None:
    store.save("old", talk("x"))
    document = json.loads(store.path("old").read_text())
    for new in ("origin", "kept", "dropped", "vocabulary"):
        del document[new]
    store.path("old").write_text(json.dumps(document))
    saved = store.load("old")
    assert saved.turns == 1 and saved.origin is None and saved.dropped == () and not saved.kept


# --- eftlocal sessions ------------------------------------------------------------------------------------------------


@pytest.fixture
def three() -> None:
    for i, (name, saved) in enumerate(
        {"work": talk("Plan it"), "how-large": talk("How large?", "And now?", kept=True), "third": talk("x")}.items()
    ):
        store.save(name, saved)
        os.utime(store.path(name), (i * 86400, i * 86400))
    (store.folder() / "broken.json").write_text("{")
    os.utime(store.folder() / "broken.json", (9 * 86400, 9 * 86400))


@pytest.mark.usefixtures("three")
def test_sessions_are_listed_latest_first_with_all_that_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert manage.listing(None, as_json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in found] == ["broken", "third", "how-large", "work"]
    assert "is not a valid session" in found[0]["damaged"]
    assert {k: found[2][k] for k in ("emulator", "turns", "first", "kept")} == {
        "emulator": "fake",
        "turns": 2,
        "first": "How large?",
        "kept": True,
    }
    manage.listing(None, as_json=False)
    rows = capsys.readouterr().out.splitlines()
    assert rows == [row.rstrip() for row in rows] and "is not a valid session" in rows[1]
    assert rows[0].split() == ["name", "last", "used", "emulator", "turns", "begins", "with"]
    assert rows[3].startswith("how-large") and rows[3].rstrip().endswith("How large?")


@pytest.mark.skipif(sys.platform == "win32", reason="makes a FIFO")
def test_what_is_not_a_file_is_not_a_session_and_nobody_waits_for_it() -> None:
    store.save("real", talk("Hello"))
    os.mkfifo(store.path("pipe"))
    store.path("folder").mkdir()
    assert store.names() == ["real"] and [entry.name for entry in store.entries()] == ["real"]
    for name in ("pipe", "folder"):
        with pytest.raises(EftError, match="is not a regular file"):
            store.load(name)
    with pytest.raises(EftError, match="cannot be removed"):
        store.delete("folder")


@pytest.mark.usefixtures("three")
def test_sessions_are_found_by_what_was_said(capsys: pytest.CaptureFixture[str]) -> None:
    manage.listing("AND NOW", as_json=True)
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)] == ["how-large"]
    manage.listing("nothing like it", as_json=False)
    assert "Nobody said" in capsys.readouterr().err


@pytest.mark.usefixtures("three")
def test_sessions_are_renamed_deleted_and_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manage.rename("how-large", "lyon")
    assert not store.load("lyon").kept and not store.exists("how-large")
    with pytest.raises(EftError, match="named work already"):
        manage.rename("lyon", "work")
    with pytest.raises(EftError, match="Add --yes"):
        manage.delete(["third"], yes=False)
    with pytest.raises(EftError, match="No session is named 'no'"):
        manage.delete(["third", "no"], yes=True)
    assert manage.delete(["third", "broken"], yes=True) == 0
    assert sorted(store.names()) == ["lyon", "work"]
    target = tmp_path / "out.md"
    manage.export("work", str(target), force=False)
    assert target.read_text() == "## User\n\nPlan it\n\n## Assistant\n\nto Plan it\n"
    manage.export("work", str(target), force=False)  # the same content is no loss
    with pytest.raises(EftError, match="exists already"):
        manage.export("lyon", str(target), force=False)
    manage.export("lyon", str(target), force=True)
    assert "And now?" in target.read_text()
    capsys.readouterr()
    manage.show("work", as_json=False)
    assert capsys.readouterr().out == "## User\n\nPlan it\n\n## Assistant\n\nto Plan it\n"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other permissions")
def test_an_export_is_as_readable_as_any_file_and_goes_where_a_link_points(chat: Chat, tmp_path: Path) -> None:
    run(chat, "hello")
    mask = os.umask(0o022)
    try:
        run(chat, f"/export {tmp_path / 'new.md'}")
        assert stat.S_IMODE((tmp_path / "new.md").stat().st_mode) == 0o644
        (tmp_path / "old.md").write_text("old", encoding="utf-8")
        (tmp_path / "old.md").chmod(0o640)
        (tmp_path / "link.md").symlink_to("old.md")
        run(chat, f"/export --force {tmp_path / 'link.md'}")
    finally:
        os.umask(mask)
    assert (tmp_path / "link.md").is_symlink() and "hello" in (tmp_path / "old.md").read_text(encoding="utf-8")
    assert stat.S_IMODE((tmp_path / "old.md").stat().st_mode) == 0o640


def test_export_asks_before_it_replaces_a_file(chat: Chat, tmp_path: Path) -> None:
    run(chat, "say a")
    for name in ("a.md", "a.json"):
        target = tmp_path / name
        run(chat, f"/export {target}")
        run(chat, f"/export {target}")  # the same again
        target.write_text("mine")
        with pytest.raises(EftError, match=f"exists already.\nTo do it without a question: /export --force {target}"):
            run(chat, f"/export {target}")
        assert target.read_text() == "mine"
        run(chat, f"/export --force {target}")
        assert "say a" in target.read_text()


def test_the_end_writes_once_and_nothing_after_it(chat: Chat) -> None:
    run(chat, "say a")
    chat.rescue()
    for _ in range(2):  # whatever the main thread or the end's thread still does
        chat.messages.append(Message("user", "late"))
        chat.save()
        chat.rescue()
    assert store.names() == ["say-a"] and said("say-a") == ["say a", "a"]
    assert [file.name for file in store.folder().iterdir()] == ["say-a.json"]


@pytest.mark.parametrize("columns", [60, 80, 100, 160])
def test_the_list_fits_in_each_terminal_and_keeps_names_and_dates_whole(columns: int) -> None:
    names = ["a" * 28, "リヨンの人口は", "work"]
    for name in names:
        store.save(name, talk("漢字 \x1b[31mred and more words " * 9))
    out = Console(width=columns, force_terminal=True, color_system=None)
    with out.capture() as drawn:
        out.print(manage.table(store.entries(), out, here="work"))
    rows = drawn.get().splitlines()
    assert len(rows) == 1 + len(names) and all(cell_len(row) <= columns for row in rows)
    assert all(any(row.startswith(name) for row in rows) for name in [*names, "work *"])
    assert all(re.search(r"  \d{4}-\d\d-\d\d \d\d:\d\d  ", row) for row in rows[1:])
    assert "\x1b" not in drawn.get()
