"""The error for what a check needs and this machine has not."""

from eftlocal.errors import EftError

__all__ = ["MissingPackageError"]


class MissingPackageError(EftError):
    """A package that is missing is not the fault of a line: it is told once, and nothing is read further."""

    @classmethod
    def extra(cls, message: str, extra: str) -> "MissingPackageError":
        return cls(message, f"Install it: pip install 'eftlocal[{extra}]'")
