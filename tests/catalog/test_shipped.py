"""Tests of the catalogue that ships: its entries are complete, fit together and say where their names come from."""

import hashlib
import json
import re
from dataclasses import fields
from pathlib import Path

import platformdirs
import pytest

from eftlocal.arithmetic.sample import Sampling
from eftlocal.catalog.models import Catalog, Emulator, HubFile, Model, Reward, load, packaged
from eftlocal.runtime import views
from tests.families import Family
from tests.hub_server import HubServer
from tools import check_catalogue

FAMILIES = {"smollm2", "qwen2.5", "qwen2.5-coder", "qwen3", "llama3", "gemma3", "olmo2", "falcon3", "llama2"}
PROMISE = re.compile(r"\S.*; (\d+\.\d) GB to download, fits in (\d+) GB of memory")
TUNED = re.compile(r"-(instruct|it|chat|sft|dpo|alpaca)$")
SAMPLING = {field.name for field in fields(Sampling)}

CONVERSATION = [
    *(views.Message("system", "Be kind."), views.Message("user", "Hi!")),
    *(views.Message("assistant", "Hello."), views.Message("user", "Bye!")),
]


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalog:
    """The packaged catalogue alone, without the files of this machine's user."""
    monkeypatch.setattr(platformdirs, "user_config_path", lambda name: tmp_path / name)
    monkeypatch.delenv("EFTLOCAL_MODELS", raising=False)
    return load()


@pytest.fixture
def real(shipped: Catalog) -> dict[str, Emulator]:
    """The emulators of real models, by name, without the demo's, which are files of the package."""
    return {name: e for name, e in shipped.emulators.items() if isinstance(shipped.model(e.base).file, HubFile)}


def remote(model: Model) -> HubFile:
    """Returns the model's file, which must be on the Hub."""
    assert isinstance(model.file, HubFile), model.name
    return model.file


def size(model: Model) -> int:
    file = remote(model)
    assert file.size is not None, f"{model.name} says no size"
    return file.size


def pairs(emulators: dict[str, Emulator]) -> list[Reward]:
    return [reward for emulator in emulators.values() for reward in emulator.rewards]


# --- every entry ------------------------------------------------------------------------------------------------------


def test_every_emulator_names_only_models_that_the_catalogue_defines(shipped: Catalog) -> None:
    text = packaged("models.toml").read_text(encoding="utf-8")
    for emulator in shipped.emulators.values():
        for name in emulator.models:
            assert f"[models.{name}]" in text or f'[models."{name}"]' in text, f"{emulator.name}: {name}"


def test_every_model_is_used_by_an_emulator(shipped: Catalog) -> None:
    assert set(shipped.models) == {name for emulator in shipped.emulators.values() for name in emulator.models}


def test_no_file_is_listed_twice_but_for_an_adapter(shipped: Catalog) -> None:
    places = [(model.file, model.lora) for model in shipped.models.values()]
    assert len(places) == len(set(places))


def test_at_least_nine_families_for_machines_of_8_to_64_gb(real: dict[str, Emulator]) -> None:
    assert set(real) >= FAMILIES and len(FAMILIES) >= 9
    said = {PROMISE.fullmatch(emulator.description) for emulator in real.values()}
    assert {int(found[2]) for found in said if found} >= {8, 16, 32, 64}


def test_every_description_says_the_download_and_a_memory_that_holds_it(
    shipped: Catalog, real: dict[str, Emulator]
) -> None:
    for emulator in real.values():
        promise = PROMISE.fullmatch(emulator.description)
        assert promise, f"{emulator.name}: {emulator.description}"
        models = {remote(model): size(model) for model in map(shipped.model, emulator.models)}
        assert abs(sum(models.values()) / 1e9 - float(promise[1])) <= 0.06, f"{emulator.name}: {models}"
        assert float(promise[1]) < 5 / 6 * int(promise[2]), f"{emulator.name} has no room left for its context"
        assert len(emulator.description) <= 110, f"{emulator.name}: too long for a line of `eftlocal list`"


def test_every_file_is_one_gguf_whose_name_tells_the_size_that_the_models_name_tells(
    shipped: Catalog, real: dict[str, Emulator]
) -> None:
    for name in {name for emulator in real.values() for name in emulator.models}:
        file = remote(shipped.model(name))
        assert file.file.endswith(".gguf") and not re.search(r"-\d{5}-of-\d{5}", file.file), name
        for parameters in re.findall(r"(?<![\w.])\d+(?:\.\d+)?[bm](?![a-z])", name):
            assert parameters in file.file.casefold(), f"{name}: {file.file}"


def test_tuned_and_reference_are_one_model_in_one_quantization(shipped: Catalog, real: dict[str, Emulator]) -> None:
    for reward in pairs(real):
        tuned, reference = shipped.model(reward.tuned), shipped.model(reward.reference)
        assert TUNED.sub("", tuned.name) == TUNED.sub("", reference.name)
        quantizations = {re.split(r"[.-]", remote(model).file)[-2].upper() for model in (tuned, reference)}
        assert len(quantizations) == 1, f"{tuned.name}: {quantizations}"
        assert abs(size(tuned) / size(reference) - 1) < 0.005, f"{tuned.name}: other sizes"


def test_emulators_of_one_family_sample_alike(shipped: Catalog, real: dict[str, Emulator]) -> None:
    by_pair: dict[str, list[Emulator]] = {}
    for emulator in real.values():
        Sampling(**{k: v for k, v in emulator.sampling.items() if k in SAMPLING})  # type: ignore[arg-type]
        by_pair.setdefault(emulator.rewards[0].tuned, []).append(emulator)
    for alike in by_pair.values():
        assert len({(e.system, *sorted(e.sampling.items())) for e in alike if e.system}) <= 1


def test_models_that_may_think_first_do_not(real: dict[str, Emulator]) -> None:
    thinking = [e for e in real.values() if any(reward.tuned.startswith("qwen3-") for reward in e.rewards)]
    assert thinking and all(e.template_args == {"enable_thinking": False} for e in thinking)


# --- the special ones -------------------------------------------------------------------------------------------------


def test_two_emulators_mix_two_rewards(real: dict[str, Emulator]) -> None:
    mixed = {name: e.rewards for name, e in real.items() if len(e.rewards) > 1}
    assert set(mixed) == {"qwen2.5-mix", "olmo2-stages"}
    assert all(len(rewards) == 2 and rewards[0].tuned != rewards[1].tuned for rewards in mixed.values())


def test_the_second_stage_starts_where_the_first_one_ends(real: dict[str, Emulator]) -> None:
    sft, preference = real["olmo2-stages"].rewards
    assert sft.tuned == preference.reference and sft.reference == real["olmo2-stages"].base
    assert preference.views["reference"] == real["olmo2-stages"].views["tuned"]  # the same view: one member


def test_one_emulator_scales_down(shipped: Catalog, real: dict[str, Emulator]) -> None:
    down = {
        name
        for name, emulator in real.items()
        if any(size(shipped.model(emulator.base)) < size(shipped.model(r.reference)) for r in emulator.rewards)
    }
    assert down == {"smollm2-down"}


def test_one_tuned_model_is_its_reference_with_an_adapter(shipped: Catalog, real: dict[str, Emulator]) -> None:
    adapted = {name: [r for r in e.rewards if shipped.model(r.tuned).lora] for name, e in real.items()}
    assert [name for name, rewards in adapted.items() if rewards] == ["llama2-lora"]
    (reward,) = adapted["llama2-lora"]
    tuned, reference = shipped.model(reward.tuned), shipped.model(reward.reference)
    assert tuned.file == reference.file and reference.lora is None
    assert tuned.lora and isinstance(tuned.lora.file, HubFile) and tuned.lora.file.file.endswith(".gguf")


def test_one_reward_is_a_prompt(real: dict[str, Emulator]) -> None:
    prompts = {name: e for name, e in real.items() if any(r.tuned == r.reference for r in e.rewards)}
    assert set(prompts) == {"smollm2-brief"}
    (reward,) = prompts["smollm2-brief"].rewards
    assert set(reward.system) == {"tuned"} and reward.beta > 1
    assert len(set(prompts["smollm2-brief"].views.values())) == 1  # its roles differ only in the system text


# --- views ------------------------------------------------------------------------------------------------------------


def written(emulator: Emulator, reward: Reward) -> str:
    """Renders the conversation for the tuned member of an emulator that has its own template."""
    template = emulator.views["tuned"].template
    assert template
    variables = {"bos_token": "<s>", "eos_token": "</s>"}
    return views.View(template=template, variables=variables, system=reward.system.get("tuned")).text(CONVERSATION)


def test_every_view_is_known_and_those_with_a_template_of_their_own_render(real: dict[str, Emulator]) -> None:
    own = {name for name, e in real.items() if any(view.template for view in e.views.values())}
    assert own == {"llama2", "llama2-70b", "llama2-lora"}
    assert all(written(real[name], real[name].rewards[0]) for name in own)


@pytest.mark.parametrize("name", ["llama2", "llama2-70b"])
def test_llama_2_reads_what_it_was_trained_on(real: dict[str, Emulator], name: str) -> None:
    expected = "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nHi! [/INST] Hello. </s><s>[INST] Bye! [/INST]"
    assert written(real[name], real[name].rewards[0]) == expected


def test_alpaca_reads_what_it_was_trained_on(real: dict[str, Emulator]) -> None:
    asked = "### Instruction:\nHi!\n\n### Response:\nHello.\n\n### Instruction:\nBye!\n\n### Response:\n"
    task = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    assert written(real["llama2-lora"], real["llama2-lora"].rewards[0]) == f"{task}\n\n{asked}"


# --- evidence ---------------------------------------------------------------------------------------------------------


def blocks(text: str) -> dict[str, str]:
    """Returns the text of each [models.NAME] table of a models.toml, up to the next table or blank line, by name."""
    found = re.finditer(r"^\[models\.(?P<name>[^\]]+)\](?P<body>.*?)(?=^\[|^$|\Z)", text, re.MULTILINE | re.DOTALL)
    return {match["name"].strip('"'): match["body"] for match in found}


def missing_evidence(body: str) -> str | None:
    """Says what a model's table does not tell about where its names come from.

    None: nothing is missing, or the model is not on the Hub.
    """
    if not re.search(r"^repo\s*=", body, re.MULTILINE):
        return None
    comments = "\n".join(re.findall(r"(?:^|\s)#\s(.*)$", body, re.MULTILINE))
    codes = set(re.findall(r"\[([TPCM])\]", comments))
    if not codes:
        return "no evidence"
    if "T" in codes and "huggingface.co/" not in comments:
        return "a listing without its address"
    if codes == {"M"} and "unverified:" not in comments:
        return "not marked as unverified"
    if re.search(r"^sha256\s*=", body, re.MULTILINE) and "hash" not in comments:
        return "a sha256 without its source"
    if re.search(r"^revision\s*=", body, re.MULTILINE) and not codes & {"P", "C"}:
        return "a revision without its source"
    return None


def test_every_model_of_the_hub_says_who_else_names_its_file(shipped: Catalog) -> None:
    found = blocks(packaged("models.toml").read_text(encoding="utf-8"))
    adapters = {f"{name}.lora" for name, model in shipped.models.items() if model.lora}
    assert set(found) == set(shipped.models) | adapters  # all tables were found
    assert {name: fault for name, body in found.items() if (fault := missing_evidence(body))} == {}


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('\nrepo = "a/b"\n', "no evidence"),
        ('\nrepo = "a/[P]"\n', "no evidence"),
        ('  # [T] seen\nrepo = "a/b"\n', "a listing without its address"),
        ('  # [M]\nrepo = "a/b"\n', "not marked as unverified"),
        ('  # unverified: the name [M]\nrepo = "a/b"\n', None),
        ('  # [C] two\nrepo = "a/b"\nsha256 = "0"\n', "a sha256 without its source"),
        (
            '  # [T] huggingface.co/a/b\nrepo = "a/b"\nrevision = "0"\n',
            "a revision without its source",
        ),
        ('  # [P] size, hash and commit\nrepo = "a/b"\nsha256 = "0"\nrevision = "0"\n', None),
        ('\npath = "demo/a.gguf"\n', None),
    ],
)
def test_a_model_without_evidence_is_noticed(body: str, fault: str | None) -> None:
    assert missing_evidence(body) == fault


def test_names_by_convention_are_marked_as_unverified() -> None:
    text = packaged("models.toml").read_text(encoding="utf-8")
    marked = {name for name, body in blocks(text).items() if "# unverified:" in body}
    assert marked == {"qwen2.5-coder-1.5b-instruct", "gemma3-12b", "gemma3-4b"}


def test_hashes_and_commits_are_whole(shipped: Catalog) -> None:
    files = [file for model in shipped.models.values() for file in model.files if isinstance(file, HubFile)]
    assert all(re.fullmatch(r"[0-9a-f]{40}", file.revision) for file in files if file.revision)
    assert sum(file.sha256 is not None for file in files) >= 10


# --- the tool that asks the Hub ---------------------------------------------------------------------------------------

REPO, CLOSED = "tiny/Family-GGUF", "closed/Family-GGUF"
PAIR = 'rewards = [{ tuned = "tuned", reference = "reference" }]'

WRONG = {
    "no repository": ({"base": 'repo = "tiny/Nothing"\nfile = "base.gguf"'}, "", "tiny/Nothing"),
    "no file": (
        {"base": f'repo = "{REPO}"\nfile = "bass.gguf"'},
        "",
        "has no file 'bass.gguf'; the nearest: base.gguf",
    ),
    "no commit": ({"base": f'repo = "{REPO}"\nfile = "base.gguf"\nrevision = "v9"'}, "", "v9"),
    "sha256": ({"base": f'repo = "{REPO}"\nfile = "base.gguf"\nsha256 = "{"0" * 64}"'}, "", "not 0000"),
    "size": ({"base": f'repo = "{REPO}"\nfile = "base.gguf"\nsize = 12_345'}, "", "on the Hub, not 12_345"),
    "rounded size": ({"base": f'repo = "{REPO}"\nfile = "base.gguf"\nsize = 900_000_000'}, "", "not 900_000_000"),
    "gated": ({"base": f'repo = "{CLOSED}"\nfile = "base.gguf"'}, "", "[models.base] gated is true on the Hub"),
    "no GGUF": ({"base": f'repo = "{REPO}"\nfile = "text.gguf"'}, "", "[models.base]"),
    "vocabulary": ({"tuned": f'repo = "{REPO}"\nfile = "other.gguf"'}, "", "do not share a vocabulary"),
    "template": ({"tuned": f'repo = "{REPO}"\nfile = "no_template.gguf"'}, "", "tuned has no chat template"),
    "context": ({}, "context = 100_000", "100000 tokens is more than the 512"),
    "adapter": (
        {"tuned": f'repo = "{REPO}"\nfile = "tuned.gguf"\nlora = {{ repo = "{REPO}", file = "base.gguf" }}'},
        "",
        "[models.tuned.lora] tiny/Family-GGUF/base.gguf: is not a LoRA adapter",
    ),
}


@pytest.fixture
def family_of_the_hub(server: HubServer, family: Family) -> HubServer:
    """A Hub with the tests' tiny models in two repositories, one of them gated."""
    files = {name: getattr(family, name) for name in ("base", "tuned", "reference", "no_template", "lora")}
    served = {f"{name}.gguf": path for name, path in files.items()} | {"other.gguf": family.other_vocabulary}
    server.add(REPO, served | {"text.gguf": b"no model at all"})
    server.add(CLOSED, served, gated=True)
    return server


def checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: dict[str, str], emulator: str, *options: str
) -> int:
    """Runs the tool for an emulator `e` of the tiny family and returns its exit code.

    `models` are tables that replace those of the family.
    """
    tables = {name: f'repo = "{REPO}"\nfile = "{name}.gguf"' for name in ("base", "tuned", "reference")} | models
    text = "".join(f"[models.{name}]\n{table}\n" for name, table in tables.items())
    path = tmp_path / "asked.toml"
    path.write_text(f'{text}[emulators.e]\nbase = "base"\n{PAIR}\n{emulator}\n', encoding="utf-8")
    monkeypatch.setattr(platformdirs, "user_config_path", lambda name: tmp_path / name)
    monkeypatch.setenv("EFTLOCAL_MODELS", str(path))
    return check_catalogue.main(["e", *options])


def test_the_tool_finds_nothing_wrong_and_says_what_to_add(
    family_of_the_hub: HubServer,
    family: Family,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = f'repo = "{REPO}"\nfile = "reference.gguf"\nsize = {family.reference.stat().st_size}\n'
    adapted = {"tuned": f'{table}lora = {{ repo = "{REPO}", file = "lora.gguf" }}', "reference": table}
    assert checked(tmp_path, monkeypatch, adapted, 'views = { tuned = "chat" }') == 0
    out = capsys.readouterr().out
    sha256 = hashlib.sha256(family.base.read_bytes()).hexdigest()
    assert re.search(
        rf'^add: \[models.base\] revision = "[0-9a-f]{{40}}", sha256 = "{sha256}", size = ', out, re.MULTILINE
    )
    assert "wrong" not in out and re.search(r"^ ?e .* apache-2.0 +no .* right", out, re.MULTILINE)
    assert sum("/api/models/" in request.path for request in family_of_the_hub.requests) == 1
    assert not list(home.rglob("*.gguf"))  # nothing was downloaded


@pytest.mark.parametrize("name", WRONG)
def test_the_tool_finds_what_is_wrong(
    family_of_the_hub: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    models, emulator, expected = WRONG[name]
    assert checked(tmp_path, monkeypatch, models, emulator, "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    wrong = [f"{finding['about']} {finding['text']}" for e in found["emulators"] for finding in e["findings"]]
    assert [line for line in wrong if expected in line], wrong


def test_the_tool_says_in_one_line_that_there_is_no_hub(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.close()
    assert checked(tmp_path, monkeypatch, {}, "") == 1
    captured = capsys.readouterr()
    assert captured.out == "" and 1 <= captured.err.count("\n") <= 2
