"""`eftlocal show NAME`: shows an emulator's models, how each member sees a conversation, and whether it fits here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rich.table import Table

from eftlocal.apps.common import console, print_json, size
from eftlocal.apps.store.afar import Afar
from eftlocal.apps.store.cells import cell
from eftlocal.apps.store.columns import Row, rows_as_lines
from eftlocal.apps.store.memory import Memory, memory
from eftlocal.apps.store.survey import held, models_of
from eftlocal.catalog import models as catalog
from eftlocal.emulation.assembling import assemble
from eftlocal.emulation.members import Members
from eftlocal.errors import EftError
from eftlocal.runtime import trial
from eftlocal.runtime.views import Message
from eftlocal.runtime.vocab import Vocabulary
from eftlocal.text import one_line, printable

__all__ = ["show"]

SAMPLE = "Why is the sky blue?"
MOST_DIFFERING = 20  # special tokens that differ and are shown, at most


@dataclass(frozen=True, slots=True)
class Findings:
    """What is known of an emulator. `problem` is the error that keeps it from loading, or the rest from being known."""

    members: Members | None
    memory: Memory | None
    vocabulary: str | None
    problem: EftError | None


def show(cat: catalog.Catalog, name: str, *, as_json: bool) -> int:
    """Print everything that is known of an emulator or a model. Returns the exit code.

    Raises CatalogError for an unknown name. After printing, raises the error that kept the rest from being known.
    """
    emulator, models = models_of(cat, name)
    if emulator is None:
        emulator = catalog.Emulator(name=models[0].name, base=models[0].name)
    findings = _look(cat, emulator)
    files = [_file(model) for model in models]
    if as_json:
        print_json(_json(emulator, files, findings))
    else:
        _print(emulator, files, findings)
    if findings.problem is not None:
        raise findings.problem
    return 0


def _look(cat: catalog.Catalog, emulator: catalog.Emulator) -> Findings:
    afar = Afar()
    try:
        members = assemble(cat, emulator, find=afar.find)
        found = Findings(members, memory(emulator, members), _vocabulary(members), None)
    except EftError as error:
        return Findings(None, None, None, error)
    try:
        for spec in members.specs:
            if spec.remote is None:
                trial.must_survive(spec.header)
    except EftError as error:
        return replace(found, problem=error)
    return found


def _vocabulary(members: Members) -> str:
    """What the members' vocabularies have in common, as one line."""
    vocabularies = {spec.model: Vocabulary.of(spec.header) for spec in members.specs}
    padded = [f"{name} {len(v) - v.n_real}" for name, v in vocabularies.items() if len(v) > v.n_real]
    same = f"{members.n_real - len(members.skipped):,} of " if len(members.skipped) else ""
    line = f"{same}{members.n_real:,} tokens{', the same for all members' if len(vocabularies) > 1 else ''}"
    if padded:
        line += f"; padding rows left out: {', '.join(padded)}"
    if not len(members.skipped):
        return line
    first, *others = vocabularies.values()
    shown = ", ".join(
        f"{i} {' / '.join(dict.fromkeys(v.text(i).decode('utf-8', 'replace') for v in (first, *others)))}"
        for i in members.skipped[:MOST_DIFFERING].tolist()
    )
    return f"{line}; special tokens that differ (their reward is 0): {shown}"


# --- output -----------------------------------------------------------------------------------------------------------


def _file(model: catalog.Model) -> dict[str, object]:
    if model.server is not None:
        return {"name": model.name, "source": [str(model.server)], "path": None, "size": None, "local": False}
    files = [held(file) for file in model.files]
    return {
        "name": model.name,
        "source": [str(file.file) for file in files],
        "rpc": [str(endpoint) for endpoint in model.rpc],
        "path": None if files[0].path is None else str(files[0].path),
        "size": files[0].size,
        "local": all(file.path for file in files),
    }


def _role(role: str, member: int, members: Members) -> dict[str, object]:
    spec = members.specs[member]
    by_type: dict[str, int] = {}
    for tensor in spec.header.tensors:
        by_type[tensor.type] = by_type.get(tensor.type, 0) + tensor.n_bytes
    return {
        "role": role,
        "model": spec.model,
        "architecture": spec.header.architecture,
        "weights": max(by_type, key=lambda kind: by_type[kind], default=""),
        "context": spec.header.metadata.get(f"{spec.header.architecture}.context_length"),
        "chat_template": bool(spec.header.text("tokenizer.chat_template")),
        "licence": spec.header.text("general.license") or None,
    }


def _views(members: Members) -> dict[str, str]:
    """By role: a short conversation as the role's member sees it, or the reason why it cannot be rendered."""
    system = [Message("system", members.system)] if members.system else []
    texts = {}
    for role, member in members.roles.items():
        try:
            texts[role] = members.views[member].text([*system, Message("user", SAMPLE)])
        except EftError as error:
            texts[role] = f"({error.message})"
    return texts


def _json(emulator: catalog.Emulator, files: Sequence[Mapping[str, object]], found: Findings) -> dict[str, object]:
    members = found.members
    return {
        "name": emulator.name,
        "description": emulator.description,
        "base": emulator.base,
        "rewards": [
            {"name": r.name, "tuned": r.tuned, "reference": r.reference, "beta": r.beta, **_bias(r)}
            for r in emulator.rewards
        ],
        "models": files,
        "roles": [] if members is None else [_role(r, m, members) for r, m in members.roles.items()],
        "views": {} if members is None else _views(members),
        "vocabulary": found.vocabulary,
        "notes": [] if members is None else members.notes,
        "memory": None if found.memory is None else found.memory.as_json(),
        "problem": None if found.problem is None else str(found.problem),
    }


def _bias(reward: catalog.Reward) -> dict[str, object]:
    """What the reward adds to some tokens, as models.toml has it; nothing where it adds nothing."""
    if (bias := reward.bias) is None:
        return {}
    file = None if bias.unseen_tokens is None else str(bias.unseen_tokens)
    return {"bias": {"end": bias.end, "unseen": bias.unseen, "unseen_tokens": file}}


def _print(emulator: catalog.Emulator, files: Sequence[Mapping[str, object]], found: Findings) -> None:
    out = console()
    out.print(one_line(f"{emulator.name}: {emulator.description}" if emulator.description else emulator.name))
    rows = []
    for file in files:
        n, source = file["size"], file["source"]
        assert isinstance(source, list)
        workers = file.get("rpc")
        on = f", layers on {', '.join(workers)}" if isinstance(workers, list) and workers else ""
        shown = size(n) if isinstance(n, int) else "?"
        rows.append(Row((str(file["name"]), "yes" if file["local"] else "no", shown), " + ".join(source) + on))
    for line in rows_as_lines(Row(("model", "here", "size"), "from"), rows, out.width, cut=False):
        out.print(line, soft_wrap=True)
    if (members := found.members) is None:
        return
    table = Table("role", "model", "weights", "trained for", "licence", box=None, pad_edge=False)
    for role, member in members.roles.items():
        facts = _role(role, member, members)
        context = facts["context"]
        tokens = f"{context:,} tokens" if isinstance(context, int) else ""
        model, licence = cell(str(facts["model"])), cell(str(facts["licence"] or ""))
        table.add_row(cell(role), model, cell(str(facts["weights"])), tokens, licence)
    out.print()
    out.print(table)
    out.print()
    out.print(printable(f"vocabulary: {found.vocabulary}"))
    for made, reward in zip(emulator.rewards, members.rewards, strict=True):
        if made.bias is not None and reward.bias is not None:
            parts = [f"{made.bias.end:+g} nats on the end of an answer"] if made.bias.end else []
            if made.bias.unseen:
                parts.append(f"{made.bias.unseen:+g} on {len(reward.bias.ids):,} tokens that its data never showed")
            out.print(printable(f"bias of {made.name}: {', '.join(parts) or 'none'}"))
    for note in members.notes:
        out.print(printable(f"note: {note}"))
    if found.memory is not None:
        out.print(printable(f"memory: {found.memory.line}"))
        for line in found.memory.advice:
            out.print(printable(f"  {line}"))
    if emulator.sampling:
        out.print(printable("sampling: " + ", ".join(f"{key} {value}" for key, value in emulator.sampling.items())))
    for role, text in _views(members).items():
        out.print(f"\n{printable(role)} sees:")
        for line in text.split("\n"):
            out.print(f"  {printable(line)}", soft_wrap=True)
