"""How the chat asks: a message becomes an answer, and a context that is full is told or rolls. It draws nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eftlocal.apps.chat.conversation import Answered, Conversation, Running
from eftlocal.apps.chat.interrupt import Interrupts
from eftlocal.apps.chat.loading import Loader
from eftlocal.apps.chat.record import Record
from eftlocal.apps.chat.room import FULL, ROOM, WAYS_OUT, most, too_long, turns_were
from eftlocal.apps.chat.screen import Screen
from eftlocal.catalog.templates import Filled
from eftlocal.decoding.generation import Reply
from eftlocal.decoding.settings import Dials, Settings
from eftlocal.emulation.emulator import Emulator
from eftlocal.errors import ContextError, DecodeError, EftError
from eftlocal.runtime.remote.troubles import told
from eftlocal.runtime.views import Message

__all__ = ["Chat", "InUse"]


@dataclass(frozen=True, slots=True)
class InUse:
    """The prompt template in use, and what was there before it: the settings that it changed, and the system text.

    system  a tuple of the text; None if the template has no system text
    """

    filled: Filled
    system: tuple[str | None] | None
    settings: Mapping[str, Any]


class Chat(Conversation):
    """A conversation in which the user asks. `rolling` drops the oldest turns when the context is full."""

    def __init__(
        self,
        loader: Loader,
        screen: Screen,
        interrupts: Interrupts,
        *,
        system: str | None = None,
        record: Record | None = None,
        rolling: bool = False,
        dials: Dials | None = None,
    ) -> None:
        super().__init__(loader, screen, interrupts, system=system, record=record, dials=dials)
        self.rolling = rolling
        self.answers = self.tokens = 0  # counts of this run
        self.interactive = False  # whether lines are typed and edited, and Up gives the earlier ones
        self.offered: list[str] = []  # lines that Up gives at the next prompt, the last one first
        self.typed: dict[str, str] = {}  # a message that holds files -> what the user typed, which is shorter
        self.template: InUse | None = None  # the prompt template that wraps each message
        self.explained: tuple[object, object] | None = None  # (what was scored, its score), kept for /why

    # --- asking -------------------------------------------------------------------------------------------------------

    def ask(self, text: str) -> None:
        """Answer a message of the user. The message is taken back if no answer begins."""
        before = list(self.messages)
        messages = [*before, Message("user", text)]
        self.answer(messages, before)

    def answer(self, messages: Sequence[Message], otherwise: Sequence[Message]) -> None:
        """Make `messages` the conversation, and answer it. If none begins, the conversation becomes `otherwise`.

        Raises EftError.
        """
        emulator = self.emulator
        dropped = list(self.dropped)
        unanswered = messages if len(messages) > len(otherwise) else otherwise
        self.messages = list(messages)
        if unanswered is messages:
            self.save()  # else the old answer stays in the file until the new one has begun
        try:
            self._make_room(emulator)
            reply = self._stream(emulator, (unanswered, dropped))
        except EftError as error:
            again = unanswered is not messages and messages[-1].role == "user"  # then there is an old, whole answer
            if isinstance(error, DecodeError) and not again and self.messages[-1].role == "assistant":
                self.screen.note("the answer so far is kept; /continue goes on with it")
                raise
            self._take_back(otherwise, dropped)
            raise self._with_ways_out(emulator, messages, error) from error
        if not reply.text:
            self._take_back(otherwise, dropped)
            stopped = reply.finish_reason == "cancelled"
            if messages[-1].role == "assistant":
                self.screen.note("stopped before the next word" if stopped else "nothing follows: the answer has ended")
            else:
                why = "stopped before the first word" if stopped else "the answer is empty"
                self.screen.note(f"{why}, so your message was taken back")
            return
        self._tell(emulator, reply)

    def _take_back(self, messages: Sequence[Message], dropped: Sequence[Message]) -> None:
        self.messages, self.dropped = list(messages), list(dropped)
        self.used = None if self.turns else 0
        self.save()

    def go_on(self) -> None:
        """Continue the last answer, from its tokens if they cover all of its text, else from its text.

        The tokens of a loaded session are used as they were saved.
        """
        *rest, last = self.messages
        whole = self.last is None or self.last.whole
        self.answer([*rest, last if whole else Message("assistant", last.content)], self.messages)

    def _stream(self, emulator: Emulator, unanswered: tuple[Sequence[Message], Sequence[Message]]) -> Reply:
        """Decode one answer to the screen. What was decoded goes into the conversation, even after an error."""
        opened = self.messages[-1] if self.messages[-1].role == "assistant" else None
        before = self.messages[:-1] if opened is not None else list(self.messages)
        stream = emulator.stream(self.messages, cancelled=self.interrupts.asked)
        self.running = running = Running(before, opened, stream, *unanswered)
        self.interrupts.answering(True)
        with self.screen.answer(stream) as shown:
            try:
                with told(lambda trouble: shown.tell("" if trouble.answers else str(trouble))):
                    for delta in stream:
                        shown.write(delta)
            finally:  # within the context, where nothing that is typed is echoed or taken for the end of the input
                self.interrupts.answering(False)
                self._keep(running, emulator.settings)
        return stream.reply

    def _keep(self, running: Running, settings: Settings) -> None:
        reply = running.stream.reply
        message, whole = running.message()
        self.messages = [*running.before, *([message] if message.content else [])]
        self.running = None
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
            self.dropped = [*self.dropped, *self.messages[asked[0] : asked[1]]]
            self.messages = [*self.messages[: asked[0]], *self.messages[asked[1] :]]
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
        elif reply.finish_reason == "stop" and reply.thinking and not reply.answer:
            self.screen.note("the answer ended within its thoughts; /regen tries again")
        elif reply.finish_reason == "length":
            self.screen.note(f"max_tokens reached ({emulator.settings.max_tokens}); /continue goes on")
        if reply.doubt is not None:
            self.screen.note(reply.doubt)
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
