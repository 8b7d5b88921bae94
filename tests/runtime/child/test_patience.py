"""A call is given up in time, and never before twenty times what the longest one took."""

from eftlocal.runtime.child import patience
from eftlocal.runtime.child.patience import Patience


def test_limits_are_generous_and_finite() -> None:
    made = Patience()
    assert made.limit(512) == patience.FIRST_S + 512
    made.learn(64, 3.0)
    made.learn(1, 0.1)
    assert made.limit(1) == made.limit(64) == 120.0 and made.limit(128) == 180.0 and made.limit(0) == 60.0
