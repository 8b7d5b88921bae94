"""Of the tensors that a worker keeps, only whole ones are used again."""

from pathlib import Path

import pytest

from eftlocal.runtime.rpc import kept

WHOLE, LATER = "00000000000000aa", "00000000000000bb"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a whole file."""
    (tmp_path / WHOLE).write_bytes(b"weights")
    kept.list_whole(tmp_path)
    return tmp_path


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir() if file.suffix != ".json"}


def test_what_a_worker_left_that_ended_while_it_wrote_is_removed(folder: Path) -> None:
    (folder / LATER).write_bytes(b"half")
    kept.drop_unfinished(folder)
    assert names(folder) == {WHOLE} and (folder / WHOLE).read_bytes() == b"weights"


def test_a_file_of_another_size_than_it_had_is_removed(folder: Path) -> None:
    (folder / WHOLE).write_bytes(b"weig")
    kept.list_whole(folder)
    kept.drop_unfinished(folder)
    assert not names(folder)


@pytest.mark.parametrize("text", [None, "", "[1]", '{"00000000000000aa": "x"}'])
def test_without_a_list_nothing_is_whole(folder: Path, text: str | None) -> None:
    (folder / kept.LIST).unlink() if text is None else (folder / kept.LIST).write_text(text)
    kept.drop_unfinished(folder)
    assert not names(folder)


def test_what_was_written_while_the_disk_was_full_is_removed_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / LATER).write_bytes(b"cut")
    monkeypatch.setattr(kept, "FULL", 1 << 62)
    kept.list_whole(folder)
    assert names(folder) == {WHOLE}


def test_files_of_others_stay(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    kept.list_whole(folder)
    kept.drop_unfinished(folder)
    assert names(folder) == {WHOLE, "notes.txt"}
