"""Where the time of requests to a base on a server goes."""

from dataclasses import replace

from eftlocal.apps.bench.report import Afar
from eftlocal.emulation.emulator import Emulator
from eftlocal.emulation.members import Members

__all__ = ["afar"]

TOKENS = 32


def afar(emulator: Emulator, members: Members, prompt: str, ends: dict[int, float]) -> Afar | None:
    """The parts of a request, as means over an answer without drafts; None if the base is on this machine.

    The answer's prompt is read before. Raises EftError.
    """
    remote = members.specs[members.base].remote
    if remote is None:
        return None
    deltas = iter(emulator.stream(prompt, max_tokens=TOKENS, draft=0, logit_bias=ends, stop=()))
    next(deltas, None)  # reads the prompt
    before = replace(remote.link.timing)
    for _ in deltas:
        pass
    after, trip = remote.link.timing, remote.link.round_trip()
    n = max(1, after.requests - before.requests)
    return Afar(
        round_trip=1000 * trip,
        decode=1000 * max(0.0, (after.waited - before.waited) / n - trip),
        transfer=1000 * (after.transfer - before.transfer) / n,
        ours=1000 * (after.parsed - before.parsed) / n,
        kb=(after.received - before.received) / n / 1000,
    )
