"""`eftlocal eval`: does emulation help, where, and how much."""

from eftlocal.apps.eval.options import Options
from eftlocal.apps.eval.run import evaluate

__all__ = ["Options", "evaluate"]
