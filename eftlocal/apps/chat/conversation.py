"""The conversation of a chat: its messages, the emulator that it is held with, and where it is kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eftlocal.apps.chat.interrupt import Interrupts
from eftlocal.apps.chat.loading import Loader
from eftlocal.apps.chat.record import Record
from eftlocal.apps.chat.screen import Screen
from eftlocal.apps.chat.session import Origin, Saved
from eftlocal.catalog.changes import GUIDANCE
from eftlocal.decoding.generation import Reply
from eftlocal.decoding.settings import Dials, Settings
from eftlocal.emulation.emulator import Emulator
from eftlocal.emulation.stream import Stream
from eftlocal.errors import EftError, SettingError
from eftlocal.runtime.views import Message

__all__ = ["Answered", "Conversation", "Running"]

PATIENCE_S = 0.7  # for the main thread to write a file, when the process ends


@dataclass(frozen=True, slots=True)
class Answered:
    """The last answer, with the settings that it was made with. `whole`: its tokens cover all of its text."""

    reply: Reply
    settings: Settings
    whole: bool


@dataclass(frozen=True, slots=True)
class Running:
    """An answer that is decoding.

    before      the conversation before it
    opened      the answer that it continues
    unanswered  the conversation as long as there is no text of it, and the turns `dropped` then
    """

    before: Sequence[Message]
    opened: Message | None
    stream: Stream
    unanswered: Sequence[Message]
    dropped: Sequence[Message]

    def message(self) -> tuple[Message, bool]:
        """The answer as it is now, and whether its tokens cover all of its text."""
        reply = self.stream.reply
        if self.opened is None:
            return reply.message, reply.whole
        tokens = self.opened.tokens + reply.message.tokens if self.opened.tokens else ()
        return Message("assistant", self.opened.content + reply.message.content, tokens), reply.whole and bool(tokens)

    def conversation(self, dropped: Sequence[Message]) -> tuple[Sequence[Message], Sequence[Message]]:
        """The conversation if the answer ended now, and its turns that are not in the context any more."""
        message, _ = self.message()
        return ([*self.before, message], dropped) if self.stream.reply.text else (self.unanswered, self.dropped)


class Conversation:
    """One conversation with an emulator, and its file.

    The messages end with an answer, except while one is decoding or if the last question has none.
    """

    def __init__(
        self,
        loader: Loader,
        screen: Screen,
        interrupts: Interrupts,
        *,
        system: str | None = None,
        record: Record | None = None,
        dials: Dials | None = None,
    ) -> None:
        self.loader = loader
        self.screen = screen
        self.interrupts = interrupts
        self.messages: list[Message] = [Message("system", system)] if system is not None else []
        self.dropped: list[Message] = []  # the oldest turns, which are not in the context any more
        self.record = record or Record()
        self.last: Answered | None = None
        self.used: int | None = 0  # tokens used of the context; None if they are not counted yet
        self.running: Running | None = None  # the answer that is decoding
        self.remarks: list[str] = []  # remarks to show when the screen is free
        self._dials: Dials = dials or {}  # dials of the command line; they override those of a session
        self._heard: Emulator | None = None  # the emulator whose notes are in `remarks` already
        self._waiting: Saved | None = None  # a session whose emulator is still loading
        self._cannot_keep = False  # whether the user knows that the chat cannot be kept

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

    def _apply(self, emulator: Emulator, saved: Saved) -> None:
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
        self.save()

    # --- the messages -------------------------------------------------------------------------------------------------

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
    def session_name(self) -> str | None:
        """The name of the session, if the user gave it one."""
        return self.record.session_name

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

    # --- saving -------------------------------------------------------------------------------------------------------

    def saved(self) -> Saved:
        """The conversation in the form that is saved, with the answer that is decoding as far as it is."""
        emulator = self.emulator
        running, messages, dropped = self.running, self.messages, self.dropped
        kept = (messages, dropped) if running is None else running.conversation(dropped)
        return Saved(
            emulator=emulator.name,
            settings=emulator.settings,
            messages=tuple(kept[0]),
            vocabulary=emulator.vocabulary,
            dropped=tuple(kept[1]),
            origin=self.loader.origin,
        )

    def say_remarks(self) -> None:
        """Show the remarks that were kept while the screen was not free."""
        while self.remarks:
            self.screen.note(self.remarks.pop(0))

    def save(self) -> None:
        """Save the conversation if it is kept and has changed. Raises EftError if a session cannot be saved."""
        if self.loader.loading or self.loader.error is not None:
            return
        try:
            if (told := self.record.save(self.saved())) is not None:
                self.remarks.append(told)
        except EftError as error:
            if self.record.session_name is not None:
                raise
            if not self._cannot_keep:  # a chat that was not asked to be kept goes on
                self._cannot_keep = True
                self.remarks.append(f"this chat is not kept: {error.message}")

    def rescue(self) -> None:
        """Save what is there now, in another thread, while the main thread does anything. Raises EftError."""
        if not self.loader.loading and self.loader.error is None:
            self.record.save_last(self.saved(), PATIENCE_S)
        self.record.close()

    def resume(self, saved: Saved) -> None:
        """Continue a saved conversation with the emulator that is loaded or loading."""
        self.messages, self.dropped = list(saved.messages), list(saved.dropped)
        self.last, self.used = None, None if self.turns else 0
        self._waiting = saved
        if not self.loader.loading:
            _ = self.emulator
            self.save()

    def begin_again(self) -> str | None:
        """Begin a new conversation. Returns the name under which the old one stays, or None if it is not kept."""
        kept = self.record.begin_again()
        self.dropped = []
        self.change([m for m in self.messages if m.role == "system"])
        return kept

    def switch(self, name: str, origin: Origin | None = None, *, forget: bool = True) -> None:
        """Load another emulator. If that fails or is interrupted, load the old one again, and raise.

        origin  where it is defined, if that is elsewhere than in this chat's catalogue
        forget  whether this conversation goes on with it, as texts without token ids
        """
        name_before, settings, origin_before = self.emulator.name, self.emulator.settings, self.loader.origin
        self.loader.switch(name, origin)
        try:
            _ = self.emulator
        except (EftError, KeyboardInterrupt):
            self.loader.wait()
            self.loader.switch(name_before, origin_before)
            self.emulator.settings = settings
            raise
        if forget and (name, self.loader.origin) != (name_before, origin_before):
            self.forget_tokens()

    @property
    def negative(self) -> str | None:
        """The system text that guidance steers away from; None without guidance."""
        members = self.emulator.members
        found = (members.views[r.reference].system for r in members.rewards if r.name == GUIDANCE)
        return next(found, None)

    def guide(self, negative: str | None) -> None:
        """Load the emulator with guidance away from this system text (None: without). Conversation and dials stay.

        If that fails or is interrupted, the emulator is loaded as it was, and the error is raised.
        """
        before, settings = self.negative, self.emulator.settings
        self.loader.guide(negative)
        try:
            emulator = self.emulator
        except (EftError, KeyboardInterrupt):
            self.loader.wait()
            self.loader.guide(before)
            self.emulator.settings = settings
            raise
        emulator.settings = settings.turned(mix={n: w for n, w in settings.mix.items() if n in emulator.betas})
        self.used = None if self.turns else 0

    def forget_tokens(self) -> None:
        """Keep only the texts of the messages: their token ids mean nothing in another emulator's vocabulary."""
        self.messages = [Message(m.role, m.content) for m in self.messages]
        self.last, self.used = None, None if self.turns else 0
        self.save()
