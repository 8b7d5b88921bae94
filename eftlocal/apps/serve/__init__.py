"""`eftlocal serve`: an OpenAI-compatible server for many clients at once, with the dials."""

from eftlocal.apps.serve.server import Options, serve

__all__ = ["Options", "serve"]
