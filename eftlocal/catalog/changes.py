"""Emulators that are changed for one run: by other views, by workers for the base, and by classifier-free guidance."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from eftlocal.catalog.catalog import Catalog
from eftlocal.catalog.endpoints import Endpoint
from eftlocal.catalog.entries import ROLES, Emulator, Reward, View
from eftlocal.errors import SettingError

__all__ = ["DEFAULT_GUIDANCE", "GUIDANCE", "guided", "on_workers", "with_views"]

GUIDANCE: Final = "guidance"  # the name of the reward that `guided` adds
DEFAULT_GUIDANCE: Final = 1.5


def with_views(emulator: Emulator, views: Mapping[str, View]) -> Emulator:
    """Returns the emulator with other views. `views` maps base, tuned or reference to a view, for each of its rewards.

    Raises SettingError for a role that the emulator does not have.
    """
    roles = ROLES if emulator.rewards else ("base",)
    for role in views:
        if role not in roles:
            raise SettingError(f"{emulator.name} has no role {role!r} to view.", f"Roles: {', '.join(roles)}.")
    own = [(reward, {r: v for r, v in views.items() if r in reward.views}) for reward in emulator.rewards]
    rewards = tuple(replace(reward, views={**reward.views, **changed}) for reward, changed in own)
    return replace(emulator, views={**emulator.views, **views}, rewards=rewards)


def on_workers(cat: Catalog, emulator: Emulator, workers: tuple[Endpoint, ...]) -> Catalog:
    """Returns the catalogue in which the emulator's base has its layers on these workers. Raises SettingError."""
    base = cat.model(emulator.base)
    if base.server is not None:
        raise SettingError(f"{base.name} runs on {base.server}, so it has no layers for workers.", "Leave --rpc out.")
    return replace(cat, models={**cat.models, base.name: replace(base, rpc=workers)})


def guided(emulator: Emulator, negative: str, guidance: float = DEFAULT_GUIDANCE) -> Emulator:
    """Returns the emulator with classifier-free guidance away from the system text `negative` (arXiv 2306.17806).

    The logits of a model m become z_negative + guidance * (z_m - z_negative), where z_negative is m with that system
    text. So it is a reward of one model with two system texts and beta = guidance - 1. The model is the base if it is
    alone, else the first reward's tuned model, which follows system texts. Raises SettingError.
    """
    if not math.isfinite(guidance):
        raise SettingError(f"guidance is {guidance}; it must be a finite number.", "1 is off, 1.5 is a good start.")
    if any(reward.name == GUIDANCE for reward in emulator.rewards):
        raise SettingError(f"{emulator.name} has a reward named {GUIDANCE!r} already.", "Leave --negative out.")
    first = next(iter(emulator.rewards), None)
    if first is None:
        model, view, system = emulator.base, emulator.views["base"], {}
    else:
        model, view = first.tuned, first.views.get("tuned") or emulator.views["tuned"]
        system = {role: text for role, text in first.system.items() if role == "tuned"}
        if view.role == "reference":  # in the new reward, that would be another model
            raise SettingError(f"{emulator.name} shows its tuned model a template of another model.", "Use --view.")
    reward = Reward(
        name=GUIDANCE,
        tuned=model,
        reference=model,
        beta=guidance - 1,
        views={"tuned": view, "reference": view},
        system={**system, "reference": negative},
    )
    return replace(emulator, rewards=(*emulator.rewards, reward))
