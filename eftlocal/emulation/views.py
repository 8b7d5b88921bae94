"""Which view a model has in its role: a reward's or the emulator's, with the chat template of one of its roles."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from eftlocal.catalog import models as catalog
from eftlocal.errors import ViewError
from eftlocal.runtime import gguf
from eftlocal.runtime.views import RAW, TRANSCRIPT, TRANSCRIPT_STOPS, View

__all__ = ["resolve", "token_texts"]


def resolve(
    role: str,
    name: str,
    reward: catalog.Reward | None,
    emulator: catalog.Emulator,
    headers: Mapping[str, gguf.Header],
    texts: Callable[[str], Mapping[str, str]],
) -> View:
    """The view of the model `name` in `role`: the reward's, or the emulator's if the reward has none.

    `texts` gives the texts of a model's special tokens. Raises ViewError for a chat template that is missing.
    """
    chosen = (reward.views.get(role) if reward else None) or emulator.views[role]
    # `chat:ROLE` uses the template of that role: in the same reward, or for the base in the first reward.
    pair = reward or next(iter(emulator.rewards), None)
    models = {"base": emulator.base, **({"tuned": pair.tuned, "reference": pair.reference} if pair else {})}
    owners = {"transcript": name, "raw": name, "chat": name, **{f"chat:{r}": m for r, m in models.items()}}
    own = {"transcript": TRANSCRIPT, "raw": RAW}
    found = {v: own.get(v) or headers[m].text("tokenizer.chat_template") for v, m in owners.items()}
    able = {v: template for v, template in found.items() if template}
    wanted = f"{chosen.kind}:{chosen.role}" if chosen.role in models else chosen.kind
    if wanted == "auto":
        wanted = "chat" if "chat" in able else "transcript"
    template = chosen.template or able.get(wanted)
    if template is None:
        raise ViewError(
            f"{owners[wanted]} has no chat template, so the view {wanted!r} of the {role} model cannot be rendered.",
            f"Views that work: {', '.join(able)}.",
        )

    def view(kind: str, template: str, others: Mapping[str, View] = MappingProxyType({})) -> View:
        return View(
            template=template,
            variables={**texts(owners.get(kind, name)), **emulator.template_args},
            # a file that we trained in this form has it as its template (training/output.py)
            stops=TRANSCRIPT_STOPS if template == TRANSCRIPT else (),
            system=reward.system.get(role) if reward else None,
            role=role,
            others=others,
        )

    others = {template: v for v, template in reversed(able.items())} | {template: wanted}  # each template once
    return view(wanted, template, {v: view(v, other) for other, v in reversed(others.items()) if v != wanted})


def token_texts(header: gguf.Header) -> dict[str, str]:
    """The texts of bos_token and eos_token, as chat templates name them; empty if the vocabulary has no such token."""
    tokens = header.array("tokenizer.ggml.tokens")
    texts = tokens.strings() if tokens else []
    ids = {name: header.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos")}
    return {
        f"{name}_token": texts[i].decode("utf-8", "replace") if isinstance(i, int) and 0 <= i < len(texts) else ""
        for name, i in ids.items()
    }
