"""The work of the slash commands. Each takes the chat and the text after its name; EftError if the text is wrong."""

import re
from collections.abc import Callable

from rich.table import Table
from rich.text import Text

from eftlocal.apps.chat import asking, clipboard, dials
from eftlocal.apps.chat.compare import has_rewards
from eftlocal.apps.chat.rows import clean
from eftlocal.apps.chat.state import Chat
from eftlocal.apps.editor import edited
from eftlocal.catalog.changes import GUIDANCE
from eftlocal.decoding.thinking import spoken
from eftlocal.errors import EftError
from eftlocal.text import printable

__all__ = [
    "context",
    "continue_",
    "copy",
    "dial",
    "drop",
    "edit",
    "emulator",
    "mix",
    "negative",
    "regen",
    "reset",
    "retry",
    "set_",
    "stats",
    "system",
    "undo",
]

# --- dials ------------------------------------------------------------------------------------------------------------


def dial(name: str) -> Callable[[Chat, str], None]:
    """The action of a command that shows or sets the dial `name`."""

    def turn(chat: Chat, argument: str) -> None:
        if name == "beta" and not has_rewards(chat, "turn"):
            return
        if argument:
            chat.turn(**{name: dials.parse(name, argument)})
        chat.screen.note(f"{name} is {dials.shown(dials.value_of(chat.emulator.settings, name))}")

    return turn


def mix(chat: Chat, argument: str) -> None:
    if not has_rewards(chat, "turn"):
        return
    if argument:
        chat.turn(mix=dials.parse("mix", argument))
    settings, betas = chat.emulator.settings, chat.emulator.betas
    strengths = {name: settings.mix.get(name, beta) for name, beta in betas.items()}
    chat.screen.note(f"mix is {dials.shown(strengths)}, times beta {settings.beta:g}")


def set_(chat: Chat, argument: str) -> None:
    name, _, value = argument.partition(" ")
    if value.strip():
        dial(name)(chat, value)
        return
    if name:
        dials.known(name)
        dial(name)(chat, "")
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for each in dials.NAMES:
        table.add_row(each, Text(dials.shown(dials.value_of(chat.emulator.settings, each))))
    chat.screen.show(table)


# --- the conversation -------------------------------------------------------------------------------------------------


def regen(chat: Chat, argument: str) -> None:
    at = _last_question(chat)
    if (
        chat.emulator.settings.seed is not None
        and chat.last is not None
        and chat.last.settings == chat.emulator.settings
    ):
        chat.screen.note(
            f"the seed is fixed at {chat.emulator.settings.seed}, so the answer is the same; /seed off changes that"
        )
    chat.answer(chat.messages[: at + 1], chat.messages)


def retry(chat: Chat, argument: str) -> None:
    if not argument:
        raise EftError("/retry needs the new text of the message.", "/regen answers the old text again.")
    before = chat.messages[: _last_question(chat)]
    chat.answer([*before, asking.message(chat, argument, before)], chat.messages)


def continue_(chat: Chat, argument: str) -> None:
    if chat.answered() is None:
        raise EftError("There is no answer to continue.")
    chat.go_on()


def undo(chat: Chat, argument: str) -> None:
    at = _last_question(chat)
    asked = chat.messages[at].content
    chat.offered.append(chat.typed.get(asked) or _line(asked))
    chat.change(chat.messages[:at])
    chat.screen.note("the last turn is undone" + ("; Up brings its message back" if chat.interactive else ""))


def _line(message: str) -> str:
    """What the user types to send this message, also if it begins with a slash."""
    return f"/{message}" if message.startswith("/") else message


def _last_question(chat: Chat) -> int:
    at = chat.question()
    if at is None:
        raise EftError("The conversation is empty.", "Ask something first.")
    return at


def drop(chat: Chat, argument: str) -> None:
    if (turns := dials.number(argument or "1")) is None:
        raise EftError(f"/drop takes a number of turns, not {argument!r}.")
    if not chat.turns:
        raise EftError("The conversation is empty, so there is no turn to drop.")
    dropped = chat.drop_oldest(turns)
    chat.screen.note(
        f"oldest turns dropped: {dropped}" if dropped else "only the last turn is left; /undo or /reset removes it"
    )


def system(chat: Chat, argument: str) -> None:
    if argument:
        chat.system = None if argument.lower() == "off" else argument
    chat.screen.note(f"system: {clean(chat.system)}" if chat.system else "there is no system text")


def negative(chat: Chat, argument: str) -> None:
    if argument:
        chat.guide(None if argument.lower() == "off" else argument)
    if (text := chat.negative) is None:
        chat.screen.note("no guidance; /negative TEXT steers away from what the model says with that system text")
        return
    emulator = chat.emulator
    beta = emulator.settings.mix.get(GUIDANCE, emulator.betas[GUIDANCE]) * emulator.settings.beta
    chat.screen.note(f"guidance {1 + beta:g} away from: {clean(text)}")


def reset(chat: Chat, argument: str) -> None:
    kept = chat.begin_again()
    stays = ["; the system text stays"] if chat.system else []
    stays += [f"; /load {kept} goes back to the old one"] if kept else []
    chat.screen.note("a new conversation" + "".join(stays))


def context(chat: Chat, argument: str) -> None:
    if argument:
        if argument not in ("rolling", "ask"):
            raise EftError(f"/context takes rolling or ask, not {argument!r}.")
        chat.rolling = argument == "rolling"
    used, of = chat.count(), chat.emulator.context
    share = "?" if used is None else f"{used} of {of} tokens ({used / of:.0%})"
    n = sum(m.role == "user" for m in chat.messages)
    turns = "1 turn" if n == 1 else f"{n} turns"
    end = "the oldest turns are dropped" if chat.rolling else "you are asked what to do"
    chat.screen.note(f"context: {share} in {turns}; when it is full, {end}")


def stats(chat: Chat, argument: str) -> None:
    emulator = chat.emulator
    rows = {"emulator": emulator.name, "loaded in": f"{emulator.load_s:.1f} s"}
    if chat.last is not None:
        reply = chat.last.reply
        rows |= {
            "last answer": f"{len(reply.tokens)} tokens, ended by {reply.finish_reason}, seed {reply.seed}",
            "first token after": f"{reply.ttft_s:.2f} s" if reply.ttft_s is not None else "-",
            "speed": f"{reply.tokens_per_s:.1f} tokens/s" if reply.tokens_per_s else "-",
            "prompt": ", ".join(f"{role} {n}" for role, n in reply.prompt_tokens.items()),
        }
        if unknown := reply.unknown:
            sure = (
                f"a token may be off by up to {unknown['bound']:.1%}" if unknown["bound"] else "each token is certain"
            )
            rows["server"] = f"{unknown['mass']:.2%} of a row was left out; {sure}"
    answers = "1 answer" if chat.answers == 1 else f"{chat.answers} answers"
    rows["this run"] = f"{answers}, {chat.tokens} tokens"
    if decoded := ", ".join(f"{role} {n}" for role, n in emulator.fed_tokens.items() if n):
        rows["decoded"] = f"{decoded} (without what the KV caches saved)"
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in rows.items():
        table.add_row(name, Text(printable(value)))
    chat.screen.show(table)


# --- files ------------------------------------------------------------------------------------------------------------


def copy(chat: Chat, argument: str) -> None:
    at = chat.answered()
    if at is None:
        raise EftError("There is no answer to copy.")
    text = spoken(chat.messages[at].content)
    if not text:
        raise EftError("The last answer has only thoughts so far.", "/think shows them, and /continue goes on.")
    if argument == "code":
        blocks = re.findall(r"^ {0,3}(`{3,}|~{3,})[^\n]*\n(.*?)^ {0,3}\1", text, re.DOTALL | re.MULTILINE)
        if not blocks:
            raise EftError("The last answer has no code block.")
        text = blocks[-1][1]
    elif argument:
        raise EftError(f"/copy takes no argument or the word code, not {argument!r}.")
    chat.screen.note(f"copied {len(text)} characters with {clipboard.copy(text)}")


def edit(chat: Chat, argument: str) -> None:
    text = edited(argument, "message.md", chat.interrupts.ending.child).rstrip("\n")
    if not text.strip():
        chat.screen.note("the message is empty, so nothing was sent")
    else:
        chat.offered.append(_line(text))
        asking.ask(chat, text)


# --- the emulator -----------------------------------------------------------------------------------------------------


def emulator(chat: Chat, argument: str) -> None:
    if argument:
        chat.switch(argument)
        guided = "; guidance stays, /negative off ends it" if chat.negative is not None else ""
        chat.screen.note(f"{argument}: loaded in {chat.emulator.load_s:.1f} s, with its own settings{guided}")
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, description in chat.loader.names().items():
        mark = "*" if name == chat.emulator.name else ""
        table.add_row(mark, printable(name), Text(printable(description), style="dim"))
    chat.screen.show(table)
    if far := chat.loader.far():
        chat.screen.note(f"{far} more are not on this machine; in a shell, `eftlocal list` shows them")
    for line in chat.loader.mistakes():
        chat.screen.note(line)
