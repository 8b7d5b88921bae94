"""The state of the chat: a conversation and its emulator, and how they change. It reads no input and draws nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eftlocal.apps.chat import session
from eftlocal.apps.chat.interrupt import Interrupts
from eftlocal.apps.chat.loading import Loader
from eftlocal.apps.chat.room import FULL, ROOM, WAYS_OUT, most, too_long, turns_were
from eftlocal.apps.chat.screen import Screen
from eftlocal.catalog.templates import Filled
from eftlocal.decoding.generation import Reply
from eftlocal.decoding.settings import Dials, Settings
from eftlocal.emulation.emulator import Emulator
from eftlocal.errors import ContextError, EftError, SettingError
from eftlocal.runtime.views import Message

__all__ = ["Answered", "Chat", "InUse"]


@dataclass(frozen=True, slots=True)
class Answered:
    """The last answer, with the settings that it was made with. `whole`: its tokens cover all of its text."""

    reply: Reply
    settings: Settings
    whole: bool


@dataclass(frozen=True, slots=True)
class InUse:
    """The prompt template in use, and what was there before it: the settings that it changed, and the system text.

    system  a tuple of the text; None if the template has no system text
    """

    filled: Filled
    system: tuple[str | None] | None
    settings: Mapping[str, Any]


class Chat:
    """One conversation with an emulator.

    The messages end with an answer, except while one is decoding or if the last question has none.
    """

    def __init__(
        self,
        loader: Loader,
        screen: Screen,
        interrupts: Interrupts,
        *,
        system: str | None = None,
        session_name: str | None = None,
        rolling: bool = False,
        dials: Dials | None = None,
    ) -> None:
        self.loader = loader
        self.screen = screen
        self.interrupts = interrupts
        self.messages: list[Message] = [Message("system", system)] if system is not None else []
        self.session_name = session_name
        self.rolling = rolling
        self.last: Answered | None = None
        self.used: int | None = 0  # tokens used of the context; None if they are not counted yet
        self.answers = self.tokens = 0  # counts of this run
        self.interactive = False  # whether lines are typed and edited, and Up gives the earlier ones
        self.offered: list[str] = []  # texts that Up gives at the next prompt, the last one first
        self.typed: dict[str, str] = {}  # a message that holds files -> what the user typed, which is shorter
        self.template: InUse | None = None  # the prompt template that wraps each message
        self.explained: tuple[object, object] | None = None  # (what was scored, its score), kept for /why
        self.remarks: list[str] = []  # remarks to show when the screen is free
        self._dials: Dials = dials or {}  # dials of the command line; they override those of a session
        self._heard: Emulator | None = None  # the emulator whose notes are in `remarks` already
        self._waiting: session.Saved | None = None  # a session whose emulator is still loading
        self._saved: tuple[object, ...] | None = None  # what was saved last

    # --- the emulator -------------------------------------------------------------------------------------------------

    @property
    def emulator(self) -> Emulator:
        """The emulator; waits until it is loaded. Raises EftError when it cannot be loaded."""
        if self.loader.loading:
            with self.interrupts.raising(), self.screen.waiting(f"loading {self.loader.what}"):
                self.loader.wait()
        emulator = self.loader.emulator
        if emulator is not self._heard:
            self._heard = emulator
            self.remarks += emulator.notes
        if self._waiting is not None:
            saved, self._waiting = self._waiting, None
            self._apply(emulator, saved)
        return emulator

    def _apply(self, emulator: Emulator, saved: session.Saved) -> None:
        """Set the dials of a session that is continued; dials of the command line override them."""
        if saved.vocabulary != emulator.vocabulary and any(message.tokens for message in self.messages):
            self.messages = [Message(m.role, m.content) for m in self.messages]
            held = saved.emulator if saved.emulator != emulator.name else "another vocabulary"
            self.remarks.append(f"the session was held with {held}, so its texts are tokenized again")
        try:
            settings = saved.settings.turned(**self._dials)
            emulator.mix(settings)
            emulator.settings = settings
        except SettingError as error:
            self.remarks.append(f"the session's settings do not work with {emulator.name}: {error.message}")

    def turn(self, **dials: Any) -> None:
        """Change dials. Raises SettingError and changes nothing if the emulator refuses a value."""
        emulator = self.emulator
        settings = emulator.settings.turned(**dials)
        emulator.mix(settings)
        emulator.settings = settings

    # --- asking -------------------------------------------------------------------------------------------------------

    @property
    def system(self) -> str | None:
        """The system text of the conversation: its own, else the emulator's. None where there is none."""
        if self.messages and self.messages[0].role == "system":
            return self.messages[0].content or None
        return None if self.loader.loading else self.emulator.members.system

    @system.setter
    def system(self, text: str | None) -> None:
        rest = [m for m in self.messages if m.role != "system"]
        if text or self.loader.loading or self.emulator.members.system:
            rest = [Message("system", text or ""), *rest]  # an empty one stands for none, also not the emulator's
        self.change(rest)

    @property
    def turns(self) -> list[Message]:
        """The messages without the system text."""
        return [m for m in self.messages if m.role != "system"]

    def question(self) -> int | None:
        """The index of the last question in `messages`, or None."""
        return next((i for i in reversed(range(len(self.messages))) if self.messages[i].role == "user"), None)

    def answered(self) -> int | None:
        """The index of the last answer in `messages` if the conversation ends with it, else None."""
        return len(self.messages) - 1 if self.messages and self.messages[-1].role == "assistant" else None

    def change(self, messages: Sequence[Message]) -> None:
        """Replace the conversation."""
        self.messages = list(messages)
        self.last = None
        self.used = None if self.turns else 0
        self.save()

    def ask(self, text: str) -> None:
        """Answer a message of the user. If that fails or the answer is empty, the message is taken back."""
        before = list(self.messages)
        messages = [*before, Message("user", text)]
        self.answer(messages, before)

    def answer(self, messages: Sequence[Message], otherwise: Sequence[Message]) -> None:
        """Make `messages` the conversation, and answer it. Without an answer the conversation becomes `otherwise`.

        Raises EftError.
        """
        emulator = self.emulator
        self.messages = list(messages)
        self.save()
        try:
            self._make_room(emulator)
            reply = self._stream(emulator)
        except EftError as error:
            self._take_back(otherwise)
            raise self._with_ways_out(emulator, messages, error) from error
        if not reply.text:
            self._take_back(otherwise)
            why = "stopped before the first word" if reply.finish_reason == "cancelled" else "the answer is empty"
            self.screen.note(f"{why}, so your message was taken back")
            return
        self._tell(emulator, reply)

    def _take_back(self, otherwise: Sequence[Message]) -> None:
        self.messages = list(otherwise)
        self.used = None if self.turns else 0
        self.save()

    def go_on(self) -> None:
        """Continue the last answer, from its tokens if they cover all of its text, else from its text.

        The tokens of a loaded session are used as they were saved.
        """
        *rest, last = self.messages
        whole = self.last is None or self.last.whole
        self.answer([*rest, last if whole else Message("assistant", last.content)], self.messages)

    def _stream(self, emulator: Emulator) -> Reply:
        """Decode one answer to the screen. What was decoded goes into the conversation, even after an error."""
        opened = self.messages.pop() if self.messages[-1].role == "assistant" else None
        before = list(self.messages)
        stream = emulator.stream([*before, *([opened] if opened else [])], cancelled=self.interrupts.asked)
        self.interrupts.answering(True)
        try:
            with self.screen.answer(stream) as shown:
                for delta in stream:
                    shown.write(delta)
        finally:
            self.interrupts.answering(False)
            self._keep(before, opened, stream.reply, emulator.settings)
        return stream.reply

    def _keep(self, before: Sequence[Message], opened: Message | None, reply: Reply, settings: Settings) -> None:
        message, whole = reply.message, reply.whole
        if opened is not None:
            tokens = opened.tokens + message.tokens if opened.tokens else ()
            message, whole = Message("assistant", opened.content + message.content, tokens), whole and bool(tokens)
        self.messages = [*before, *([message] if message.content else [])]
        self.last = Answered(reply, settings, whole)
        # the next turn is without its thoughts
        self.used = None if reply.thinking else most(reply.prompt_tokens) + len(reply.tokens)
        self.answers += 1
        self.tokens += len(reply.tokens)
        self.save()

    # --- the context's end --------------------------------------------------------------------------------------------

    def count(self) -> int | None:
        """The tokens of the conversation for the role that needs most; None if they cannot be counted."""
        if self.used is None and not self.loader.loading and self.messages:
            try:
                emulator = self.emulator
                self.used = min(most(emulator.count(self.messages)), emulator.context)
            except EftError:
                return None
        return self.used

    def drop_oldest(self, turns: int = 1) -> int:
        """Drop the oldest questions with their answers, but never the last one. Returns how many were dropped."""
        dropped = 0
        while dropped < turns:
            asked = [i for i, m in enumerate(self.messages) if m.role == "user"]
            if len(asked) < 2:
                break
            del self.messages[asked[0] : asked[1]]
            dropped += 1
        self.used = None
        self.save()
        return dropped

    def _make_room(self, emulator: Emulator) -> None:
        """If the context is rolling, drop the oldest turns until an answer fits, and say so."""
        dropped = 0
        room = min(emulator.settings.max_tokens, emulator.context // ROOM)
        if not self.rolling or self._fits(emulator, room):
            return
        if (error := too_long(emulator, self.messages)) is not None:
            raise error  # before turns are dropped for nothing
        while not self._fits(emulator, room) and self.drop_oldest():
            dropped += 1
        if dropped:
            self.screen.note(f"the context is full: the oldest {turns_were(dropped)} dropped")

    def _fits(self, emulator: Emulator, room: int) -> bool:
        return most(emulator.count(self.messages)) + room <= emulator.context

    def _tell(self, emulator: Emulator, reply: Reply) -> None:
        """Say how the answer ended and how full the context is; a rolling context that is full is continued."""
        if reply.finish_reason == "cancelled":
            self.screen.note("stopped")
        elif reply.finish_reason == "length":
            self.screen.note(f"max_tokens reached ({emulator.settings.max_tokens}); /continue goes on")
        if reply.finish_reason == "context":
            dropped = self.drop_oldest(max(1, len(self.turns) // 4)) if self.rolling else 0
            if dropped:
                self.screen.note(
                    f"the context is full: the oldest {turns_were(dropped)} dropped, and the answer goes on"
                )
                self.go_on()
            else:
                self.screen.note(f"the context of {emulator.context} tokens is full: {WAYS_OUT}")
        elif self.used is not None and self.used >= FULL * emulator.context:
            share = self.used / emulator.context
            self.screen.note(f"{share:.0%} of the context is used ({self.used} of {emulator.context} tokens)")

    def _with_ways_out(self, emulator: Emulator, messages: Sequence[Message], error: EftError) -> EftError:
        if not isinstance(error, ContextError):
            return error
        return too_long(emulator, messages) or ContextError(error.message, f"{WAYS_OUT[0].upper()}{WAYS_OUT[1:]}.")

    # --- saving -------------------------------------------------------------------------------------------------------

    def saved(self) -> session.Saved:
        """The conversation in the form that is saved."""
        emulator = self.emulator
        return session.Saved(
            emulator=emulator.name,
            settings=emulator.settings,
            messages=tuple(self.messages),
            vocabulary=emulator.vocabulary,
        )

    def say_remarks(self) -> None:
        """Show the remarks that were kept while the screen was not free."""
        while self.remarks:
            self.screen.note(self.remarks.pop(0))

    def save(self) -> None:
        """Save the session, if it has a name and something has changed."""
        if self.session_name is None or self.loader.loading or self.loader.error is not None:
            return
        saved = self.saved()
        if self._saved != (now := (saved.emulator, saved.settings, saved.messages)):
            session.save(self.session_name, saved)
            self._saved = now

    def resume(self, saved: session.Saved) -> None:
        """Continue a saved conversation with the emulator that is loaded or loading."""
        self.messages = list(saved.messages)
        self.last, self.used = None, None if self.turns else 0
        self._waiting = saved
        if not self.loader.loading:
            _ = self.emulator
            self.save()

    def forget_tokens(self) -> None:
        """Keep only the texts of the messages: their token ids mean nothing in another emulator's vocabulary."""
        self.messages = [Message(m.role, m.content) for m in self.messages]
        self.last, self.used = None, None if self.turns else 0
        self.save()
