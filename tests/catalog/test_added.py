"""What init adds to a models.toml comes out again, and no other byte of the file changes."""

import multiprocessing
import random
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from eftlocal.catalog.added import added, replace, text_of, with_part
from eftlocal.errors import CatalogError

LINES = ["[models.m-base]", 'path = "a.gguf"', "", "[emulators.m]", 'base = "m-base"']
PART = "# added by eftlocal init: m\n" + "\n".join(LINES) + "\n# end of m\n"
OTHERS = [
    "",
    "# only a comment",
    'default = "e"\n\n[emulators.e]\nbase = "x"\n',
    "\ufeff",
    "\ufeff[models.x]\r\npath = 'y'\r\n",
    '[emulators.e]\nsystem = """\n# end of m\n"""\nbase = "x"\n\n\n',
]


@pytest.mark.parametrize("before", OTHERS)
def test_what_is_added_comes_out_again(before: str, tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_bytes(before.encode())
    after = with_part(file, text_of(file), "m", LINES)
    assert after.startswith(before) and after.endswith(PART)
    replace(file, before, after)
    found = added(file, "m")
    assert found is not None and found.models == {"m-base"} and added(file, "m-base") is None
    ended = before if not before.lstrip("\ufeff") or before.endswith("\n") else before + "\n"
    assert found.rest() == ended
    replace(file, after, found.rest())
    assert (file.read_bytes().decode() if before else "") == ended and file.exists() == bool(before)


def test_parts_come_out_in_any_order_and_text_that_was_written_meanwhile_stays(tmp_path: Path) -> None:
    file, draw = tmp_path / "models.toml", random.Random(1)
    for _ in range(60):
        names = draw.sample(["a", "b", "a.b", "a-b", "é"], 3)
        text = draw.choice(OTHERS)
        for name in names:
            lines = [f'[models."{name}-base"]', 'path = "x"', f'[emulators."{name}"]', f'base = "{name}-base"']
            text = with_part(file, text, name, lines) + draw.choice(
                ["", "# more\n", f'[models."z{name}"]\npath = "x"\n']
            )
            text = text.replace("\n", "\r\n").replace("\r\r", "\r") if draw.random() < 0.2 else text
        before = text
        for name in draw.sample(names, 3):
            file.write_bytes(text.encode())
            found = added(file, name)
            assert found is not None
            text = found.rest()
        assert "added by eftlocal" not in text and text.count("z") == before.count('"z')
        for line in (line for line in before.splitlines() if line.startswith(("# more", '[models."z'))):
            assert line in text


@pytest.mark.parametrize(
    "change",
    [
        ("# end of m", "[models.mine]\npath = 'b'\n# end of m"),
        ("# end of m", "[emulators.other]\nbase = 'b'\n# end of m"),
        ("# added", "x = '''\n# added"),
        ("# end of m\n", "# end of m\nsystem = 'x'\n"),
    ],
)
def test_a_part_with_more_than_its_entries_is_left_to_its_writer(change: tuple[str, str], tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    text = with_part(file, "", "m", LINES).replace(*change)
    file.write_text(text + ("'''\n" if "'''" in text else ""))
    found = added(file, "m")
    assert found is not None
    with pytest.raises(CatalogError, match=r"models\.toml: the part that init added for m"):
        found.rest()


@pytest.mark.parametrize("text", ["models = 3\n", "models = { a = { path = 'x' } }\n", "[models.m-base]\npath = 'x'\n"])
def test_nothing_is_added_where_it_would_not_be_read(text: str, tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="would not be read"):
        with_part(tmp_path / "models.toml", text, "m", LINES)


def test_a_file_that_changed_meanwhile_is_not_written(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text("# another program\n")
    with pytest.raises(CatalogError, match="another program changed it"):
        replace(file, "", "x = 1\n")
    assert [path.name for path in tmp_path.iterdir()] == ["models.toml"] and file.read_text() == "# another program\n"


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CatalogError, match="cannot be written"):
        replace(tmp_path / "file" / "models.toml", "", "x = 1\n")


def _add_many(file: Path, who: int, times: int) -> int:
    """How many parts this process added, as far as it was told."""
    done = 0
    for i in range(times):
        with suppress(CatalogError):
            text = text_of(file)
            replace(file, text, with_part(file, text, f"m{who}-{i}", [f"[emulators.m{who}-{i}]", 'base = "x"']))
            done += 1
    return done


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="has no such lock")
def test_of_processes_that_add_at_the_same_time_each_adds_or_is_told(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    with ProcessPoolExecutor(6, multiprocessing.get_context("spawn")) as pool:
        done = sum(pool.map(_add_many, [file] * 6, range(6), [40] * 6))
    assert file.read_text().count("# added by eftlocal init: ") == done > 0
