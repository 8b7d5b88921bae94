"""/compare and /sweep: one prompt, answered in several ways at the same time, with the same random numbers."""

import secrets
from collections.abc import Mapping, Sequence

from eftlocal.apps.chat.columns import Column, Columns
from eftlocal.apps.chat.repeats import repeats
from eftlocal.apps.chat.state import Chat
from eftlocal.decoding.generation import Generation
from eftlocal.decoding.settings import Dials
from eftlocal.decoding.thinking import Part
from eftlocal.emulation.batch import Job
from eftlocal.errors import EftError, ModelLoadError, SettingError
from eftlocal.runtime.llama.context import MAX_SEQUENCES
from eftlocal.runtime.views import Message

__all__ = ["compare", "has_rewards", "sweep"]

AT_ONCE = 8  # answers that decode together; each takes the memory of a whole context
ENDS = {"length": "…", "cancelled": "(stopped)", "context": "(the context is full)"}
REPEATS = "… (repeats itself)"


def compare(chat: Chat, prompt: str) -> None:
    """Answer with the base alone, each tuned model alone and the emulator, beside each other.

    A model with several roles, as guidance gives one, answers once. Without a prompt, the last question is answered.
    Raises EftError if there is none.
    """
    if not has_rewards(chat, "compare"):
        return
    roles: dict[int, str] = {}  # member -> its first role
    for role, member in chat.emulator.members.roles.items():
        if role == "base" or role.split(".")[-1] == "tuned":
            roles.setdefault(member, role)
    ways: dict[str, Dials] = {f"{role} alone": {"alone": role} for role in roles.values()}
    beta = chat.emulator.settings.beta
    _answer(chat, prompt, {**ways, f"emulated, beta {beta:g}": {"alone": None}})


def sweep(chat: Chat, argument: str) -> None:
    """Answer the last question at several betas. Raises SettingError for what is not a number."""
    if not has_rewards(chat, "turn"):
        return
    try:
        betas = [float(word) for word in argument.replace(",", " ").split()] or [0.0, 0.5, 1.0, 1.5]
    except ValueError:
        raise SettingError(f"/sweep takes numbers, not {argument!r}.", "Example: /sweep 0 0.5 1 1.5") from None
    if len(betas) > MAX_SEQUENCES:
        raise SettingError(f"/sweep takes at most {MAX_SEQUENCES} numbers.")
    _answer(chat, "", {f"beta {beta:g}": {"beta": beta, "alone": None} for beta in betas})


def has_rewards(chat: Chat, what: str) -> bool:
    """Whether the emulator has rewards. If not, say that there is nothing to `what`."""
    if chat.emulator.betas:
        return True
    chat.screen.note(f"{chat.emulator.name} is a model without rewards, so there is nothing to {what}")
    return False


def _answer(chat: Chat, prompt: str, ways: Mapping[str, Dials]) -> None:
    """Answer one prompt in several ways and show the answers. The conversation does not change."""
    emulator = chat.emulator
    messages, seed = _asked(chat, prompt)
    columns = [Column(name) for name in ways]
    chat.interrupts.answering(True)
    try:
        with chat.screen.waiting(f"{', '.join(ways)}: {len(ways)} answers, as many as fit at a time"):
            answers = [emulator.prepare(Job(messages, {**dials, "seed": seed})) for dials in ways.values()]
            together = _reserve(chat, min(len(answers), AT_ONCE))
        with chat.screen.columns(columns) as shown:
            _decode(chat, answers, columns, shown)
    finally:
        chat.interrupts.answering(False)
    speeds = [
        f"{name} {reply.tokens_per_s:.1f}"
        for name, reply in zip(ways, (answer.reply for answer in answers), strict=True)
        if reply.tokens_per_s
    ]
    how = "tokens/s, decoded together: " if together > 1 else "tokens/s: "
    chat.screen.note("; ".join([f"seed {seed}", *([how + "; ".join(speeds)] if speeds else [])]))


def _asked(chat: Chat, prompt: str) -> tuple[Sequence[Message], int]:
    """The conversation to answer, and the seed: that of the last answer if its question is answered again."""
    last, seed = chat.question(), chat.emulator.settings.seed
    if prompt:
        messages = [*chat.messages, Message("user", prompt)]
    elif last is not None:
        messages = chat.messages[: last + 1]
    else:
        raise EftError("There is no prompt yet.", "Ask something first, or give one: /compare PROMPT")
    if seed is None:
        seed = chat.last.reply.seed if chat.last is not None and not prompt else secrets.randbits(32)
    return messages, seed


def _reserve(chat: Chat, n: int) -> int:
    """Make room for `n` answers at a time, or for fewer where memory is short. Returns their number."""
    try:
        return chat.emulator.reserve(n)
    except ModelLoadError:  # the plan was wrong about the memory; the answers take turns
        return 1


def _decode(chat: Chat, answers: Sequence[Generation], columns: Sequence[Column], shown: Columns) -> None:
    """Decode the answers until all have ended. Ctrl-C ends all of them, and they keep their texts."""
    column_of = dict(zip(answers, columns, strict=True))
    splitters = {answer: answer.splitter() for answer in answers}
    texts = dict.fromkeys(answers, "")  # with their thoughts
    scheduler = chat.emulator.scheduler()
    looped: set[Generation] = set()
    try:
        for answer in answers:
            scheduler.add(answer)
        while scheduler:
            if chat.interrupts.asked():
                for answer in answers:
                    scheduler.cancel(answer)
            for answer, text in scheduler.step():
                column, splitter = column_of[answer], splitters[answer]
                column.tokens = len(answer.tokens)
                _grow(column, [*splitter.push(text), *(splitter.finish() if answer.ended else [])])
                texts[answer] += text
                if answer.ended:
                    column.end = _ended(answer, looped=answer in looped)
                elif text and repeats(texts[answer]):
                    looped.add(answer)
                    scheduler.cancel(answer)
            shown.draw(columns)
    finally:
        scheduler.close()
        for answer, column in column_of.items():
            if column.end is None:
                column.end = _ended(answer, looped=False)


def _grow(column: Column, parts: Sequence[Part]) -> None:
    """Add what an answer says, and count the tokens of its thoughts."""
    for part in parts:
        if part.thinking:
            column.thought = column.tokens
        else:
            column.text += part.text


def _ended(answer: Generation, *, looped: bool) -> str:
    """A remark on how the answer ended."""
    if answer.error is not None:
        return f"(error: {answer.error.message})"
    reason = answer.finish_reason or "cancelled"
    return REPEATS if looped and reason == "cancelled" else ENDS.get(reason, "")
