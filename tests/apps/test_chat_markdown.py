"""Streamed Markdown: the rows do not depend on how the text is cut into deltas, and finished rows never change."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from eftlocal.apps.chat.markdown import MarkdownStream, PlainStream
from eftlocal.apps.chat.rows import Row, clean

CONSOLE = Console(force_terminal=True, width=80, color_system="truecolor", legacy_windows=False)
DOCUMENT = """# A heading
Some **bold text that is long enough to wrap around the line, really** and `code`, 2 * 3 = 6, snake_case_name.
second line with [a link](http://x.y) in it

1. one
2. two **x**
   - nested a
   - nested b

3. three

```python
def f(x):

    return "a*b"  # comment
```
text after
---
| a | b |
|---|---|
| 1 | 2 |

> quote here
> more

- bullet
- bullet 2 <div> & more

日本語のテキスト 🎉 end.
"""


def rows(text: str, cuts: list[int], width: int = 60) -> list[Row]:
    stream = MarkdownStream(CONSOLE, lambda: width)
    finished: list[Row] = []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        finished += stream.push(text[start:end])[0]
    return finished + stream.finish()


def plain(found: list[Row]) -> list[str]:
    return ["".join(text for text, _ in row) for row in found]


def test_the_document_as_it_is_meant() -> None:
    assert plain(rows(DOCUMENT, [])) == [
        "A heading",
        "Some bold text that is long enough to wrap around the line,",
        "really and code, 2 * 3 = 6, snake_case_name.",
        "second line with a link (http://x.y) in it",
        "",
        " 1 one",
        " 2 two x",
        "    • nested a",
        "    • nested b",
        "",
        " 3 three",
        "",
        "```python",
        "def f(x):",
        "",
        '    return "a*b"  # comment',
        "```",
        "text after",
        "-" * 60,
        " a  b",
        " ────",
        " 1  2",
        "",
        "▌ quote here",
        "▌ more",
        "",
        " • bullet",
        " • bullet 2 <div> & more",
        "",
        "日本語のテキスト 🎉 end.",
    ]


@pytest.mark.parametrize("seed", range(12))
def test_deltas_do_not_matter(seed: int) -> None:
    rng = random.Random(seed)
    cuts = sorted(rng.sample(range(1, len(DOCUMENT)), rng.choice([3, 30, 150])))
    assert plain(rows(DOCUMENT, cuts)) == plain(rows(DOCUMENT, []))


@given(st.text(st.sampled_from("ab *_`#->|[]()\n1.~\\é漢"), max_size=80), st.randoms())
@settings(max_examples=60, deadline=None)
def test_no_word_of_any_text_is_lost_or_doubled(text: str, rng: random.Random) -> None:
    found = "".join("".join(plain(rows(text, sorted(rng.sample(range(len(text)), min(5, len(text))))))).split())
    for letter in "abé漢":
        assert found.count(letter) == text.count(letter), (text, found)


@pytest.mark.slow
def test_finished_rows_come_early_so_that_the_tail_stays_short() -> None:
    long_code = "```python\n" + "".join(f"line_{i} = {i}\n" for i in range(400)) + "```\n"
    long_list = "".join(f"- item {i}\n" for i in range(400))
    long_paragraph = "word " * 3000
    for text in (long_code, long_list, long_paragraph):
        stream, longest = MarkdownStream(CONSOLE, lambda: 60), 0
        for i in range(0, len(text), 7):
            longest = max(longest, len(stream.push(text[i : i + 7])[1]))
        assert longest <= 3


@pytest.mark.slow
def test_long_code_is_shown_whole() -> None:
    code = [f"line_{i} = {i}" for i in range(300)]
    text = "```python\n" + "\n".join(code) + "\n```\nafter"
    cuts = list(range(10, len(text), 10))
    assert plain(rows(text, cuts)) == ["```python", *code, "```", "after"]


def test_code_is_coloured_and_an_emphasis_from_its_first_word_on() -> None:
    stream = MarkdownStream(CONSOLE, lambda: 60)
    _, live = stream.push("so **bold wo")
    assert [(text, bool(style and style.bold)) for text, style in live[0]] == [("so ", False), ("bold wo", True)]
    code = rows("```python\ndef f():\n    return 1\n```", [])
    assert any(style and style.color for _, style in code[1])


def test_rows_are_as_wide_as_asked_also_with_wide_characters() -> None:
    text = "漢字かな交じり文" * 20 + " and words " * 20
    for row in plain(rows(text, [7, 50, 120], width=33)):
        assert cell_len(row) <= 33


def test_a_block_keeps_its_width_when_the_terminal_is_resized_in_it() -> None:
    widths = iter([60] + [30] * 100)
    stream = MarkdownStream(CONSOLE, lambda: next(widths))
    before, _ = stream.push("word " * 20)
    after, _ = stream.push("word " * 20)
    assert all(len(row) > 50 for row in plain([*before, *after]))


def test_an_answer_cannot_steer_the_terminal() -> None:
    assert clean("a\x1b[2Jb\x07c\x9bd\x1b]0;title\x07e\u202ef\tg\nh") == "abcd]0;titleef\tg\nh"
    assert "\x1b" not in "".join(plain(rows("x \x1b[31m y `\x1b]52;c;aaaa\x07`", [5])))


def test_plain_text_is_left_as_it_is() -> None:
    stream = PlainStream()
    finished, live = stream.push("**a**\n\n  b")
    assert plain(finished) == ["**a**", ""] and plain(live) == ["  b"]
    assert plain(stream.finish()) == ["  b"]
