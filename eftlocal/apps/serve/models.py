"""Model ids: which emulator, which role of it, and with which dials; and the emulators in memory."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, cast

from eftlocal.apps.serve.desk import Desk
from eftlocal.apps.serve.errors import Refused, invalid
from eftlocal.decoding.settings import Dials, Settings
from eftlocal.emulation.from_json import SETTINGS
from eftlocal.errors import EftError, FitError

__all__ = ["Dialled", "Known", "Shelf", "dialled"]

NOT_IN_IDS: Final = ("alone", "stop", "logit_bias", "logprobs", "mix")


class Dialled(NamedTuple):
    """What a model id stands for: an emulator, and dials that go before those of the request."""

    name: str
    dials: Dials


@dataclass(frozen=True, slots=True)
class Known:
    """The models that requests may name. `default` is the emulator that was named at the start."""

    default: str
    roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # emulator -> its roles

    @property
    def ids(self) -> list[str]:
        """All model ids without dials."""
        return [each for name, roles in self.roles.items() for each in (name, *(f"{name}:{role}" for role in roles))]


def dialled(text: str | None, known: Known) -> Dialled:
    """Read a model id: NAME, NAME:ROLE, and either with @DIAL=VALUE,DIAL=VALUE. None is the default emulator.

    `mix.REWARD=VALUE` is the strength of one reward. Raises Refused.
    """
    if not text:
        return Dialled(known.default, {})
    head, at, tail = text.partition("@")
    if text in known.roles:  # a name may have an @ of its own
        head, at, tail = text, "", ""
    name, colon, role = head.rpartition(":")
    if head in known.roles:
        name, role = head, ""
    elif not colon or name not in known.roles or role not in known.roles[name]:
        shown = ", ".join(known.ids[:12])
        message = f"The model {_short(head)} does not exist. Models here: {shown}."
        raise Refused(404, message, param="model", code="model_not_found")
    dials: dict[str, object] = {"alone": role} if role else {}
    mix: dict[str, float] = {}
    for part in (part for piece in tail.split("@") for part in piece.split(",")) if at else ():
        dial, equals, value = part.strip().partition("=")
        if not equals or not dial:
            raise invalid(f"The model id has {_short(part)} after @; it must be DIAL=VALUE, as beta=0.5.", "model")
        reward = dial.removeprefix("mix.") if dial.startswith("mix.") else None
        if reward is None and (dial not in SETTINGS or dial in NOT_IN_IDS):
            raise invalid(f"The model id has a dial {_short(dial)}, which does not exist.", "model")
        try:
            if reward is not None:
                mix[reward] = cast(float, SETTINGS["beta"](dial, _value(value)))
                Settings().turned(mix={reward: mix[reward]})
            else:
                dials[dial] = SETTINGS[dial](dial, _value(value))
                Settings().turned(**cast(Dials, {dial: dials[dial]}))
        except EftError as error:
            raise invalid(f"In the model id, {error.message}", "model") from None
    if mix:
        dials["mix"] = mix
    return Dialled(name, cast(Dials, dials))


def _value(text: str) -> object:
    """A number where the text is one, else the text."""

    def refuse(constant: str) -> float:
        raise ValueError(constant)

    try:
        value = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, int | float) else text


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


class Shelf:
    """The emulators in memory, at most `most` of them, each with its desk. It belongs to the owner's thread.

    `load` loads an emulator by name and makes its desk.
    """

    def __init__(self, load: Callable[[str], Desk], most: int) -> None:
        self._load = load
        self._most = most
        self._desks: dict[str, Desk] = {}  # the least recently used first

    def get(self, name: str) -> Desk | None:
        """The desk of that emulator, which is loaded if it has to be. None if all that could give their place are busy.

        Raises EftError if it cannot be loaded.
        """
        if name not in self._desks:
            while len(self._desks) >= self._most:
                idle = next((other for other, desk in self._desks.items() if not desk.working), None)
                if idle is None:
                    return None
                self._desks.pop(idle).close()
            self._desks[name] = self._loaded(name)
        self._desks[name] = self._desks.pop(name)
        return self._desks[name]

    def _loaded(self, name: str) -> Desk:
        """Load it. Where the memory is too small, emulators that are idle give their places first."""
        while True:
            try:
                return self._load(name)
            except FitError:
                idle = next((other for other, desk in self._desks.items() if not desk.working), None)
                if idle is None:
                    raise
                self._desks.pop(idle).close()

    @property
    def desks(self) -> tuple[Desk, ...]:
        """The desks of all emulators in memory."""
        return tuple(self._desks.values())

    def close(self) -> None:
        """Free all of them."""
        for desk in self._desks.values():
            desk.close()
        self._desks.clear()
