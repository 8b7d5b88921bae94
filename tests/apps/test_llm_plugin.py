"""The plugin of `llm`: emulators are its models, and answer as they do everywhere else."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from eftlocal import Emulator
from eftlocal.emulation import from_json
from eftlocal.runtime.views import Message

llm = pytest.importorskip("llm", reason="the extra `llm` is not installed")

from eftlocal.apps.llm_plugin import EmulatorModel, register_models  # noqa: E402 - it needs llm

QUESTION = "How large is Lyon?"
HEAVY = ("numpy", "llama_cpp", "llguidance", "jinja2", "rich")  # llm itself tries numpy, and does without it
LISTS_MODELS = f"""
import sys
sys.modules.update(dict.fromkeys({HEAVY}))  # each import of them fails
import llm
print([model.model_id for model in llm.get_models()])
"""


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator.load("demo") as loaded:
        yield loaded


@pytest.fixture
def model() -> EmulatorModel:
    return EmulatorModel("demo")


def run(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python with only this plugin of llm's, which keeps its own files in `folder`."""
    environment = {**os.environ, "LLM_USER_PATH": str(folder), "LLM_LOAD_PLUGINS": "eftlocal", **variables}
    return subprocess.run(
        (sys.executable, *words), env=environment, capture_output=True, encoding="utf-8", timeout=60, check=False
    )


# --- which models there are -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_package_says_that_it_is_a_plugin_and_listing_models_loads_nothing_heavy(tmp_path: Path) -> None:
    done = run(tmp_path, "-c", LISTS_MODELS)
    assert "'eftlocal/demo'" in done.stdout and not done.stderr
    assert "'eftlocal/smollm2'" not in done.stdout  # which is not downloaded here


def test_a_name_that_another_model_has_is_left_to_it() -> None:
    found: dict[str, tuple[str, ...]] = {}
    other = SimpleNamespace(model=SimpleNamespace(model_id="gpt"), aliases=["demo"])
    register_models(lambda model, aliases: found.update({model.model_id: aliases}), [other])
    assert found["eftlocal/demo"] == () and found["eftlocal/demo-down"] == ("demo-down",)


@pytest.mark.slow
def test_a_mistake_in_the_catalogue_is_told_and_leaves_the_other_models(tmp_path: Path) -> None:
    mine = tmp_path / "models.toml"
    mine.write_text("[emulators.mine]\nbase = 3\n", encoding="utf-8")
    for given in (mine, tmp_path / "missing.toml"):
        done = run(tmp_path, "-m", "llm", "models", EFTLOCAL_MODELS=str(given))
        assert done.returncode == 0 and "OpenAI" in done.stdout
        assert ("eftlocal/demo" in done.stdout) == (given == mine) and "eftlocal/mine" not in done.stdout
        assert done.stderr.startswith("eftlocal: ") and given.name in done.stderr


def test_each_option_is_a_setting_of_an_answer() -> None:
    options = EmulatorModel.Options.model_fields.keys()
    assert options < from_json.SETTINGS.keys()
    # llm has no place for log-probabilities, and its options are single values
    assert from_json.SETTINGS.keys() - options == {"logprobs", "logit_bias"}


# --- answers ----------------------------------------------------------------------------------------------------------


def test_an_answer_is_the_emulators_and_comes_in_parts_with_its_usage(model: EmulatorModel, emulator: Emulator) -> None:
    settings: dict[str, Any] = {"beta": 0.5, "mix": "answers=0.9", "seed": 3, "temperature": 1.5, "max_tokens": 20}
    response = model.prompt(QUESTION, **settings)
    parts = list(response)
    expected = emulator.generate(QUESTION, **{**settings, "mix": {"answers": 0.9}})
    assert "".join(parts) == expected.text and len(parts) > 3
    assert (response.input_tokens, response.output_tokens) == (expected.prompt_tokens["base"], len(expected.tokens))
    told = response.response_json
    assert told is not None and (told["seed"], told["finish_reason"]) == (3, expected.finish_reason)


def test_options_of_the_command_line_are_texts_and_mean_the_same(model: EmulatorModel) -> None:
    texts: dict[str, Any] = {"beta": "0.5", "mix": "answers=1, other=0.5", "draft": "4", "top_k": "3", "stop": "x"}
    given = model.Options(**texts)
    assert given.model_dump(exclude_none=True) == {
        "beta": 0.5,
        "mix": {"answers": 1.0, "other": 0.5},
        "draft": 4,
        "top_k": 3,
        "stop": "x",
    }
    assert model.Options(draft="auto").draft == "auto"
    wrong: dict[str, Any]
    for wrong in ({"mix": "answers"}, {"mix": "answers=x"}, {"draft": "x"}, {"beta": "strong"}, {"alien": 1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            model.Options(**wrong)


def test_a_conversation_is_read_with_its_history_and_one_system_text(model: EmulatorModel, emulator: Emulator) -> None:
    conversation = model.conversation()
    first = conversation.prompt(QUESTION, system="Be brief.", temperature=0, seed=0)
    answer = first.text()
    second = conversation.prompt("And Perth?", system="Be brief.", temperature=0, seed=0)
    turns = [Message("system", "Be brief."), Message("user", QUESTION), Message("assistant", answer)]
    expected = emulator.generate([*turns, Message("user", "And Perth?")], temperature=0, seed=0)
    assert second.text() == expected.text
    assert second.input_tokens == expected.prompt_tokens["base"]


def test_a_schema_shapes_the_answer(model: EmulatorModel) -> None:
    schema = {
        "type": "object",
        "properties": {"big": {"enum": ["yes", "no"]}},
        "required": ["big"],
        "additionalProperties": False,
    }
    text = model.prompt(QUESTION, schema=schema, seed=0).text()
    assert json.loads(text)["big"] in ("yes", "no")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mix": "x=1"}, "no reward named 'x'"),
        ({"alone": "nobody"}, "no role named 'nobody'"),
        ({"top_k": -1}, "top_k is -1"),
        ({"messages": [llm.Message(role="tool", parts=[])]}, "role 'tool'"),
    ],
)
def test_a_mistake_is_an_error_of_llms(model: EmulatorModel, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(llm.ModelError, match=message):
        model.prompt(QUESTION, **settings).text()


def test_answers_that_are_read_by_turns_in_threads_or_not_to_their_end_are_those_alone(model: EmulatorModel) -> None:
    """llm makes a new model object for each call of get_model; all of them have one emulator in memory."""
    prompts = [(f"How large is {city}?", seed) for seed, city in enumerate(("Lyon", "Perth", "Najaf", "Lima"))]
    settings: dict[str, Any] = {"temperature": 1.5, "max_tokens": 12}
    alone = [model.prompt(text, seed=seed, **settings).text() for text, seed in prompts]

    left = iter(model.prompt("Tell me of Rome.", seed=9, **settings))
    next(left)  # and nobody reads on
    others = [EmulatorModel("demo").prompt(text, seed=seed, **settings) for text, seed in prompts]
    readers = [iter(response) for response in others]
    while readers:
        readers = [reader for reader in readers if next(reader, None) is not None]
    assert [response.text() for response in others] == alone

    texts: dict[int, str] = {}
    threads = [
        threading.Thread(
            target=lambda text=text, seed=seed: texts.update({seed: str(model.prompt(text, seed=seed, **settings))})
        )
        for text, seed in prompts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [texts[seed] for _, seed in prompts] == alone


@pytest.mark.slow
def test_the_program_llm_answers_and_logs_what_is_needed_to_get_the_answer_again(tmp_path: Path) -> None:
    options = ("-o", "temperature", "1.2", "-o", "beta", "0.8")
    first = run(tmp_path, "-m", "llm", "-m", "demo", QUESTION, *options)
    assert first.returncode == 0 and first.stdout.strip() and not first.stderr
    (logged,) = json.loads(run(tmp_path, "-m", "llm", "logs", "--json").stdout)
    assert logged["model"] == "eftlocal/demo" and logged["response"] == first.stdout.removesuffix("\n")
    again = run(
        tmp_path, "-m", "llm", "-m", "demo", QUESTION, *options, "-o", "seed", str(logged["response_json"]["seed"])
    )
    assert again.stdout == first.stdout
    wrong = run(tmp_path, "-m", "llm", "-m", "demo", QUESTION, "-o", "alone", "nobody")
    assert (
        wrong.returncode == 1
        and wrong.stderr == "Error: There is no role named 'nobody'.\nRoles: base, tuned, reference.\n"
    )
