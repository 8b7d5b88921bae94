"""The tokenizer from afar: /tokenize, /detokenize and /tokenizer_info, in the form of vLLM's server."""

from collections.abc import Mapping
from typing import Any

from eftlocal.apps.serve import requests
from eftlocal.apps.serve.entries import token_text
from eftlocal.apps.serve.errors import invalid
from eftlocal.apps.serve.service import Service
from eftlocal.emulation.emulator import Emulator
from eftlocal.emulation.from_json import kind, string
from eftlocal.errors import SettingError

__all__ = ["detokenize", "info", "tokenize"]

MAX_TEXT = 4 << 20  # characters; more would keep the owner from its answers


async def tokenize(service: Service, body: Mapping[str, object]) -> dict[str, object]:
    """The token ids of `prompt`, or of `messages` as the base sees them. Raises Refused."""
    model = service.dialled(requests.field(body, "model", string, None))
    strings = requests.field(body, "return_token_strs", requests.flag, False)
    if body.get("messages") is not None:
        messages = requests.messages(body)

        def ids(emulator: Emulator) -> list[int]:
            return next(iter(emulator.render(messages, **model.dials).values()))
    else:
        prompt = requests.field(body, "prompt", string, None)
        if prompt is None:
            raise invalid("prompt is missing; it must be a string", "prompt")
        if len(prompt) > MAX_TEXT:
            raise invalid(f"prompt has {len(prompt):,} characters; at most {MAX_TEXT:,} are read", "prompt")
        special = requests.field(body, "add_special_tokens", requests.flag, True)

        def ids(emulator: Emulator) -> list[int]:
            return emulator.tokenizer.encode(prompt, controls=True, bos=special)

    def answer(emulator: Emulator) -> dict[str, object]:
        found = ids(emulator)
        texts = {"token_strs": [token_text(emulator.tokenizer.bytes_of(i)) for i in found]} if strings else {}
        return {"count": len(found), "max_model_len": emulator.context, "tokens": found, **texts}

    return await _asked(service, model.name, answer)


async def detokenize(service: Service, body: Mapping[str, object]) -> dict[str, object]:
    """The text of `tokens`. Raises Refused."""
    model = service.dialled(requests.field(body, "model", string, None))
    ids = body.get("tokens")
    if not isinstance(ids, list) or any(isinstance(i, bool) or not isinstance(i, int) for i in ids):
        raise invalid(f"tokens is {kind(ids)}; it must be a list of token ids", "tokens")

    def answer(emulator: Emulator) -> dict[str, object]:
        wrong = next((i for i in ids if not 0 <= i < emulator.n_vocab), None)
        if wrong is not None:
            raise SettingError(f"tokens has the id {wrong}; ids are from 0 to {emulator.n_vocab - 1}.")
        return {"prompt": emulator.tokenizer.text_of(ids)}

    return await _asked(service, model.name, answer)


async def info(service: Service, name: str | None) -> dict[str, object]:
    """The special tokens and the chat template. Raises Refused."""
    model = service.dialled(name)

    def answer(emulator: Emulator) -> dict[str, object]:
        return {
            "tokenizer_class": "eftlocal",
            "model": model.name,
            "model_max_length": emulator.context,
            "vocab_size": emulator.n_vocab,
            **emulator.tokenizer.special,
            "chat_template": emulator.tokenizer.chat_template,
        }

    return await _asked(service, model.name, answer)


async def _asked(service: Service, model: str, answer: Any) -> dict[str, object]:
    found: dict[str, object] = await service.ask(model, answer)
    return found
