"""The application with all its commands: importing their modules adds them."""

from eftlocal.cli import chat, evaluation, generate, harness, measure, serve, sessions, store, templates, tune, worker  # noqa: F401
from eftlocal.cli.app import app

__all__ = ["app"]
