"""Tries programs and libraries that speak OpenAI's dialect with `eftlocal serve`: `python -m tools.check_clients`.

    --node FOLDER       a folder in which `npm install openai` was run
    --langchain PYTHON  the Python of an environment with langchain-openai
    --aider PROGRAM     an installed aider
    --llm PROGRAM       an installed llm, as a client of the server; the plugin has its own tests

Each is tried on the demo emulator and prints a line for each thing that worked. The exit code is 1 if one did not.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.apps.serve.running import Running

SCRIPTS = Path(__file__).parent / "clients"
QUESTION = "How large is Lyon?"


def run(folder: Path, *words: str | Path, **variables: str) -> str:
    """What a program prints. Raises RuntimeError with all of its output if it fails."""
    done = subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{words[0]} ended with code {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout


def javascript(node: Path, folder: Path, address: str) -> Iterator[str]:
    """The openai client for JavaScript, in the folder `node`."""
    script = folder / "openai.mjs"
    script.write_bytes((SCRIPTS / "openai.mjs").read_bytes())
    (folder / "node_modules").symlink_to(node.absolute() / "node_modules")
    yield run(folder, "node", script, address)


def langchain(python: Path, folder: Path, address: str) -> Iterator[str]:
    """LangChain's ChatOpenAI and OpenAI."""
    yield run(folder, python.absolute(), SCRIPTS / "try_langchain.py", address)


def llm(program: Path, folder: Path, address: str) -> Iterator[str]:
    """The program llm as a client: its settings name the server."""
    model = {"model_id": "served", "model_name": "demo", "api_base": f"{address}/v1", "supports_schema": True}
    (folder / "extra-openai-models.yaml").write_text(json.dumps([model]), encoding="utf-8")

    def ask(*words: str) -> str:
        return run(folder, program.absolute(), *words, LLM_USER_PATH=str(folder), LLM_LOAD_PLUGINS="").strip()

    answer = ask("-m", "served", QUESTION, "-o", "temperature", "0")
    assert answer == ask("-m", "served", QUESTION, "-o", "temperature", "0", "--no-stream"), answer
    yield f"llm: streams, and answers in one piece: {answer}\n"
    yield f"llm: goes on with a conversation: {ask('-c', 'And Perth?', '-o', 'temperature', '0')}\n"
    schema = {"type": "object", "properties": {"big": {"enum": ["yes", "no"]}}, "required": ["big"]}
    found = ask("-m", "served", QUESTION, "--schema", json.dumps({**schema, "additionalProperties": False}))
    assert json.loads(found)["big"] in ("yes", "no"), found
    yield f"llm: gets JSON of a schema: {found}\n"


def aider(program: Path, folder: Path, address: str) -> Iterator[str]:
    """aider with one message about one file; its answer is not judged, since the models here are tiny."""
    (folder / "area.py").write_text("def area(r):\n    return 3 * r * r\n", encoding="utf-8")
    words = ("--model", "openai/demo", "--openai-api-base", f"{address}/v1", "--openai-api-key", "any")
    quiet = (
        "--no-git",
        "--yes-always",
        "--no-check-update",
        "--no-show-model-warnings",
        "--no-pretty",
        "--no-fancy-input",
    )
    said = run(
        folder, program.absolute(), *words, *quiet, "--chat-mode", "ask", "--message", "What is this?", "area.py",
        HOME=str(folder),
    )  # fmt: skip
    yield said


PROGRAMS = {"node": javascript, "langchain": langchain, "llm": llm, "aider": aider}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    for name in PROGRAMS:
        parser.add_argument(f"--{name}", type=Path)
    given = vars(parser.parse_args(arguments))
    failed = False
    with Running("demo") as server:
        for name, check in PROGRAMS.items():
            if given[name] is None:
                continue
            with tempfile.TemporaryDirectory() as folder:
                try:
                    for line in check(given[name], Path(folder), server.url):
                        print(line, end="")
                except (AssertionError, RuntimeError) as error:
                    print(f"{name}: {error}")
                    failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
