"""Other programs' formats of prompts: reads those that can mean only one thing, and tells how to convert the others."""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from eftlocal.emulation.from_json import SETTINGS, SHAPES, kind
from eftlocal.errors import EftError

__all__ = ["NUMBERING", "hint", "is_gsm8k", "ours", "sharegpt"]

SPEAKERS: Final = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "assistant", "model", "bot"), "assistant"),
    "system": "system",
}
UNUSED: Final = frozenset({"model", "user", "metadata", "store", "stream", "stream_options", "service_tier"})
NUMBERING: Final = frozenset({"id", "idx", "index", "question_id", "task_id"})
OURS: Final = frozenset({*SETTINGS, *SHAPES, "n", "system", "completion", "completions"})

Fields = Mapping[str, object]


def ours(fields: Fields, *, scored: bool = False) -> Fields:
    """A line's fields with a `prompt` or `messages` of ours, where they are in a known format.

    OpenAI's batches, ShareGPT that ends with a question, MT-Bench with one turn and GSM8K are read. Raises EftError
    with the way to convert a format that can be read in more than one way. Other fields are returned as they are.
    """
    if fields.get("prompt") is not None or fields.get("messages") is not None:
        return fields
    given = {name: value for name, value in fields.items() if value is not None}
    read = _openai(given) or _sharegpt(given, scored=scored) or _mt_bench(given) or _gsm8k(given)
    if read is not None:
        return {**read, **given}
    _not_alpaca(given)
    return fields


def hint(fields: Fields) -> str:
    """What to do with a line that has no prompt."""
    needed = 'A line needs "prompt" (a string) or "messages".'
    texts = [name for name, value in fields.items() if isinstance(value, str) and re.fullmatch(r"[A-Za-z_]\w*", name)]
    name = next((name for name in texts if name not in OURS | NUMBERING), None)
    return needed if name is None else f"{needed} If {name} is the prompt: jq -c '.prompt = .{name}' FILE"


def _openai(fields: Fields) -> Fields | None:
    """A line of OpenAI's batch API: `custom_id` and the request as `body`. The model's name in it is not used."""
    body = fields.get("body")
    if "custom_id" not in fields or not isinstance(body, dict):
        return None
    left = {name: value for name, value in body.items() if value is not None and name not in UNUSED}
    if "messages" not in left:
        raise EftError("body has no messages", "Of OpenAI's batches, lines for /v1/chat/completions are read.")
    read = {"messages": left.pop("messages")}
    if left.pop("logprobs", False):
        read["logprobs"] = left.pop("top_logprobs", 0)
    if (most := left.pop("max_completion_tokens", None)) is not None:
        read["max_tokens"] = most
    read |= _response_format(left.pop("response_format", None))
    read |= {name: left.pop(name) for name in (*SETTINGS, "n") if name in left}
    if left:
        raise EftError(f"body.{next(iter(left))} is not supported", "Remove it from the line to run without it.")
    return read


def _response_format(value: object) -> dict[str, object]:
    """The shape that OpenAI's `response_format` asks for."""
    wanted = value if isinstance(value, dict) else {"type": "text" if value is None else value}
    if wanted.get("type") == "text":
        return {}
    if wanted.get("type") == "json_object":
        return {"json_schema": {"type": "object"}}
    named = wanted.get("json_schema")
    if wanted.get("type") == "json_schema" and isinstance(named, dict) and isinstance(named.get("schema"), dict):
        return {"json_schema": named["schema"]}
    raise EftError(
        f"body.response_format is {kind(value)}, which is not supported", "Remove it, or give a json_schema."
    )


def sharegpt(fields: Fields) -> list[dict[str, object]] | None:
    """ShareGPT: `conversations` of turns with `from` and `value`, or with `role` and `content`, as messages.

    None for another format. Raises EftError for an unknown speaker.
    """
    turns = fields.get("conversations")
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        return None
    messages = []
    for i, turn in enumerate(turns):
        speaker = turn.get("from", turn.get("role"))
        if not isinstance(speaker, str) or speaker not in SPEAKERS:
            raise EftError(
                f"conversations[{i}].from is {kind(speaker)}; it must be one of {', '.join(SPEAKERS)}",
                "Convert the conversation to messages with the roles system, user and assistant.",
            )
        messages.append({"role": SPEAKERS[speaker], "content": turn.get("value", turn.get("content"))})
    return messages


def _sharegpt(fields: Fields, *, scored: bool) -> Fields | None:
    """A conversation of ShareGPT's that ends with a question."""
    messages = sharegpt(fields)
    if messages is None or messages[-1]["role"] != "assistant":
        return None if messages is None else {"messages": messages}
    shorter = ".conversations |= .[:-1]"
    if scored:
        turns = fields["conversations"]
        named = isinstance(turns, list) and "value" in turns[-1]
        answer = f".conversations[-1].{'value' if named else 'content'}"
        raise EftError(
            "conversations ends with an answer",
            f"To score this answer: jq -c '.completion = {answer} | {shorter}' FILE",
        )
    raise EftError("conversations ends with an answer", f"To answer its last question anew: jq -c '{shorter}' FILE")


def _mt_bench(fields: Fields) -> Fields | None:
    """MT-Bench: `turns` of the user's. The second belongs behind the answer to the first."""
    turns = fields.get("turns")
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) for turn in turns):
        return None
    if len(turns) > 1:
        raise EftError(
            f"has {len(turns)} turns without the answers between them",
            "For the first turn: jq -c '.prompt = .turns[0]' FILE. For the next, give messages with the first answers.",
        )
    return {"prompt": turns[0]}


def is_gsm8k(names: Iterable[str]) -> bool:
    """Whether fields are GSM8K's: `question` and `answer`. Beside others (choices, a context) a question is not all."""
    return set(names) - NUMBERING - OURS == {"question", "answer"}


def _gsm8k(fields: Fields) -> Fields | None:
    return {"prompt": fields["question"]} if is_gsm8k(fields) else None


def _not_alpaca(fields: Fields) -> None:
    """Raises EftError for Alpaca's `instruction`, `input` and `output`, which programs join in different ways."""
    if isinstance(fields.get("instruction"), str):
        joined = '[.instruction, .input // ""] | map(select(. != "")) | join("\\n\\n")'
        raise EftError(
            "has an instruction and no prompt, as in Alpaca's format", f"Convert it: jq -c '.prompt = ({joined})' FILE"
        )
