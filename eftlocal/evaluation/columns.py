"""The columns of an evaluation: each role by itself, and the emulator at each strength."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from eftlocal.decoding.settings import Dials
from eftlocal.emulation.members import Members
from eftlocal.errors import SettingError

__all__ = ["BETAS", "ROLES", "Column", "columns"]

BETAS: Final = (0.5, 0.75, 1.0, 1.5, 2.0)
ROLES: Final = ("base", "tuned", "reference", "emulated", "upper")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column.

    name    base, tuned, reference, emulated@B, upper; with several rewards tuned:NAME and reference:NAME
    dials   the settings with which it answers
    member  the member that it is; None for the emulator
    beta    the emulator's strength; None for a role
    """

    name: str
    dials: Dials
    member: int | None = None
    beta: float | None = None


def columns(
    members: Members, *, roles: Sequence[str] | None = None, betas: Sequence[float] | None = None
) -> tuple[Column, ...]:
    """The columns of these roles and strengths, in a fixed order; None takes all that there are, or BETAS.

    Raises SettingError for a role that the emulator does not have, and for one that is unknown.
    """
    have = {"base", *(("tuned", "reference", "emulated") if members.rewards else ())}
    have |= {"upper"} if members.upper is not None else set()
    for role in roles or ():
        if role not in ROLES:
            raise SettingError(f"There is no role named {role!r}.", f"Roles: {', '.join(ROLES)}.")
        if role not in have:
            hint = (
                "Name it with --upper MODEL." if role == "upper" else "An emulator without rewards has only its base."
            )
            raise SettingError(f"The emulator has no role {role!r}.", hint)
    wanted = have if roles is None else set(roles)
    found = []
    for role, member in members.roles.items():  # NAME.tuned where there are several rewards
        reward, _, kind = role.rpartition(".")
        if kind in wanted and kind != "upper":
            found.append(Column(name=f"{kind}:{reward}" if reward else kind, dials={"alone": role}, member=member))
    if "emulated" in wanted:
        strengths = sorted({float(beta) for beta in (BETAS if betas is None else betas)})
        found += [Column(name=f"emulated@{beta:g}", dials={"beta": beta}, beta=beta) for beta in strengths]
    if "upper" in wanted:
        found.append(Column(name="upper", dials={"alone": "upper"}, member=members.upper))
    return tuple(found)
