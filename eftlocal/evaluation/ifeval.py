"""IFEval's own checks (arXiv 2311.07911), from lm-evaluation-harness (extra `ifeval`): are all instructions followed?

An answer is right if it follows all instructions of its prompt as it is: the paper's prompt-level strict accuracy.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypedDict

from eftlocal.errors import EftError
from eftlocal.evaluation.needed import MissingPackageError

__all__ = ["Instructions", "checked", "follows"]


class Instructions(TypedDict):
    """What IFEval's file says of a prompt: the names of its instructions, and the arguments of each."""

    prompt: str
    instruction_id_list: list[str]
    kwargs: list[dict[str, object]]


def checked(prompt: str, names: Sequence[str], arguments: Sequence[Mapping[str, object]]) -> Instructions:
    """The instructions of a line. Raises EftError for what the checks do not know, MissingPackageError without them."""
    given = Instructions(
        prompt=prompt,
        instruction_id_list=list(names),
        kwargs=[{name: value for name, value in each.items() if value} for each in arguments],  # as the harness does
    )
    registry = _registry()
    if unknown := [name for name in names if name not in registry]:
        raise EftError(f"has the instruction {unknown[0]!r}, which IFEval's checks do not know")
    for name, own in zip(names, given["kwargs"], strict=True):
        try:
            registry[name](name).build_description(**own)
        except Exception as error:  # whatever a foreign check does with arguments that are not its own
            raise EftError(f"the kwargs of {name} cannot be used: {type(error).__name__} {str(error)[:80]}") from None
    return given


def follows(instructions: Instructions, text: str) -> bool:
    """Whether a text follows all of them, as instruction_following_eval's test_instruction_following_strict says it."""
    return bool(text.strip()) and all(check.check_following(text) for check in _checks(instructions))


def _checks(instructions: Instructions) -> Iterator[Any]:
    for name, arguments in zip(instructions["instruction_id_list"], instructions["kwargs"], strict=True):
        check = _registry()[name](name)
        check.build_description(**arguments)
        if "prompt" in (check.get_instruction_args() or {}):
            check.build_description(prompt=instructions["prompt"])
        yield check


@cache
def _registry() -> Mapping[str, Any]:
    """Name of an instruction -> its check. Raises MissingPackageError."""
    if any(find_spec(name) is None for name in ("lm_eval", "nltk", "langdetect", "immutabledict")):
        raise MissingPackageError.extra("IFEval's checks need lm-evaluation-harness with its extra ifeval.", "ifeval")
    try:
        import_module("nltk").data.find("tokenizers/punkt_tab")
    except LookupError:  # the harness would ask the network as soon as it is imported
        raise MissingPackageError(
            "IFEval's checks need the data punkt_tab of nltk.", "Download it: python -m nltk.downloader punkt_tab"
        ) from None
    import_module("langdetect").DetectorFactory.seed = 0  # its guesses of languages are random without one
    registry: Mapping[str, Any] = import_module("lm_eval.tasks.ifeval.instructions_registry").INSTRUCTION_DICT
    return registry
