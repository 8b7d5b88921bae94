"""Notices an answer that repeats itself without end, as base models often do."""

__all__ = ["repeats"]

UNIT = 400  # characters; a longer part that comes again and again is not looked for
COPIES = 4  # how often a part of prose stands at the end, one after the other
PROSE = 160  # characters of those copies together, at least
LETTERS = 5  # prose has a letter among so many characters; a row of dashes, zeros or empty cells has not
LONG = 1000  # characters of copies that are too many also for code, for tables and for such a row


def repeats(text: str) -> bool:
    """Whether the text ends with the same part over and over again.

    Of prose, COPIES of a part are enough if they are PROSE characters long. Code, tables and rows of signs repeat
    themselves for good reasons, so they need LONG characters of it.
    """
    end = text[-(UNIT * COPIES) :]
    for n in range(1, min(UNIT, len(end) // COPIES) + 1):
        part = end[-n:]
        if end[-2 * n : -n] != part:
            continue
        prose = LETTERS * sum(map(str.isalpha, part)) >= n and not _is_set(text, part)
        copies = max(COPIES, -(-(PROSE if prose else LONG) // n))
        if text.endswith(part * copies):
            return True
    return False


def _is_set(text: str, part: str) -> bool:
    """Whether the end of the text stands in a code block that is open, or in a table."""
    fences = sum(line.lstrip().startswith(("```", "~~~")) for line in text.splitlines())
    return fences % 2 == 1 or "|" in part
