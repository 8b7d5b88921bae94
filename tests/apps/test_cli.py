"""The command line as scripts see it: what goes to stdout, what an error looks like, and the exit code."""

import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import eftlocal
from eftlocal import cli
from eftlocal.apps.generate import generate
from eftlocal.errors import SettingError
from tests.apps.fake import loads
from tests.builders import write_catalog
from tests.families import Family

PROGRAM = (sys.executable, "-c", "from eftlocal.cli import main; main()")
ROLES = ("base", "tuned", "reference")


class Done(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture(autouse=True)
def nothing_of_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's configuration, the network and the terminal's width out of the tests."""
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("EFTLOCAL_MODELS", raising=False)
    monkeypatch.setenv("TERM", "dumb")


@pytest.fixture
def catalog(family: Family, tmp_path: Path) -> Path:
    return write_catalog(
        tmp_path,
        {"base": family.base, "tuned": family.tuned, "reference": family.reference},
        base="base",
        rewards=[{"name": "kind", "tuned": "tuned", "reference": "reference"}],
        views={"base": "transcript", "tuned": "chat", "reference": "transcript"},
        sampling={"temperature": 0.0},
        context=256,
    )


@pytest.fixture
def run(catalog: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the program in this process, with the catalogue of tiny models and `stdin` as its standard input."""

    def run(*words: str, stdin: str | bytes | None = "", models: Path | None = catalog) -> Done:
        options = ["--models", str(models), "--threads", "1", "--max-tokens", "8"] if models else []
        monkeypatch.setattr(sys, "argv", ["eftlocal", words[0], *options, *words[1:]])
        data = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "stdin", None if data is None else io.TextIOWrapper(io.BytesIO(data), "utf-8"))
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        if data is None and sys.stdin is not None:  # what main opened in its place
            sys.stdin.close()
        out, err = capfd.readouterr()
        return Done(int(end.value.code or 0), out, err)

    return run


def program(words: Sequence[str], **options: Any) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [*PROGRAM, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )


# --- generate ---------------------------------------------------------------------------------------------------------


def test_an_argument_a_dash_and_a_pipe_are_the_same_prompt(run: Run) -> None:
    by_argument = run("generate", "Hello, world")
    assert by_argument.code == 0 and by_argument.out.endswith("\n") and by_argument.err == ""
    assert run("generate", "-", stdin="Hello, world\n") == by_argument
    assert run("generate", stdin="Hello, world\n") == by_argument
    assert run("generate", "-e", "e", "Hello, world") == by_argument


def test_json_is_the_documented_object(run: Run) -> None:
    done = run("generate", "Hello", "--json", "--seed", "7", "--beta", "0.5")
    assert done.code == 0 and done.err == "" and done.out.count("\n") == 1
    reply = json.loads(done.out)
    assert set(reply) == {"text", "finish_reason", "tokens", "emulator", "beta", "seed", "usage", "timings"}
    assert (reply["emulator"], reply["beta"], reply["seed"]) == ("e", 0.5, 7)
    assert reply["finish_reason"] in {"stop", "length"}
    assert set(reply["usage"]) == {"prompt_tokens", "completion_tokens"}
    assert set(reply["usage"]["prompt_tokens"]) == set(ROLES)
    assert reply["usage"]["completion_tokens"] == len(reply["tokens"]) <= 8
    assert set(reply["timings"]) == {"load_s", "ttft_s", "tokens_per_s"}
    assert run("generate", "Hello", "--beta", "0.5").out.rstrip("\n") == reply["text"].rstrip("\n")


def test_no_think_prints_what_comes_after_the_thoughts_and_json_has_both(capsys: pytest.CaptureFixture[str]) -> None:
    prompt, thoughts = "think 2 It is 2.", "t0000 of the thoughts\nt0001 of the thoughts"
    assert generate(loads(), prompt, as_json=False) == 0
    whole = capsys.readouterr().out
    assert whole == f"<think>\n{thoughts}\n</think>\n\nIt is 2.\n"
    assert generate(loads(), prompt, as_json=False, thoughts=False) == 0
    assert capsys.readouterr().out == "It is 2.\n"
    for shown in (True, False):
        generate(loads(), prompt, as_json=True, thoughts=shown)
        reply = json.loads(capsys.readouterr().out)
        assert reply["text"] == whole.rstrip("\n")
        assert reply["parts"] == {"thinking": thoughts, "answer": "It is 2."}


def test_an_answer_that_never_leaves_its_thoughts_says_so(run: Run, catalog: Path, tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}<think>\\n"  # it opens them, as DeepSeek-R1's does
    opening = catalog.read_text().replace('"tuned" = "chat"', f'"tuned" = {{ template = "{template}" }}')
    models, prompts = tmp_path / "opening.toml", tmp_path / "p.jsonl"
    models.write_text(opening)
    prompts.write_text('{"prompt": "Hello"}\n')
    whole = run("generate", "Hello", models=models).out.rstrip("\n")
    done = run("generate", "Hello", "--no-think", models=models)
    assert whole and done.out == "\n" and "ended within its thoughts" in done.err
    reply = json.loads(run("generate", "Hello", "--json", models=models).out)
    assert reply["parts"] == {"thinking": whole.strip(), "answer": ""} and reply["text"] == whole
    line = json.loads(run("generate", "-i", str(prompts), models=models).out)
    assert line["parts"] == reply["parts"] and line["text"] == whole


def test_at_beta_0_only_the_base_is_counted(run: Run) -> None:
    reply = json.loads(run("generate", "Hello", "--json", "--beta", "0").out)
    assert set(reply["usage"]["prompt_tokens"]) == {"base"}


def test_raw_and_system_reach_the_models(run: Run) -> None:
    def prompt_tokens(*words: str) -> dict[str, int]:
        found: dict[str, int] = json.loads(run("generate", "Hello", "--json", *words).out)["usage"]["prompt_tokens"]
        return found

    assert set(prompt_tokens("--raw").values()) == {1}
    plain, system = prompt_tokens(), prompt_tokens("--system", "Be brief.")
    assert all(system[role] > plain[role] for role in ROLES)


def test_the_date_reaches_the_templates_and_stays_with_a_files_output(run: Run, family: Family, tmp_path: Path) -> None:
    dated = write_catalog(
        tmp_path,
        {"base": family.base},
        base="base",
        views={"base": {"template": "{{ strftime_now('%B') }}: {{ messages[0].content }}"}},
    )

    def read(*words: str) -> dict[str, int]:  # the prompt alone: the answer is drawn without a seed, and may end early
        done = run("generate", "--json", "Hi", *words, models=dated)
        counted: dict[str, int] = json.loads(done.out)["usage"]["prompt_tokens"]
        return counted

    assert read("--date", "2024-05-01") != read("--date", "2024-09-01") == read("--date", "2025-09-30")
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    for n, words in ((1, ["--date", "2024-05-01"]), (2, [])):
        source.write_text('{"prompt": "Hi"}\n' * n)
        assert run("generate", "-i", str(source), "-o", str(out), *words, models=dated).code == 0
    days = [json.loads(line)["settings"]["date"] for line in out.read_text().splitlines()]
    assert days == ["2024-05-01"] * 2


def test_a_date_that_no_template_asks_for_is_told(run: Run) -> None:
    done = run("generate", "hi", "--date", "2024-05-01")
    assert done.code == 0 and done.out == run("generate", "hi").out
    assert done.err == "eftlocal: --date has no effect: no chat template of e asks for the date.\n"


def test_mix_and_beta_are_the_same_dial_for_one_reward(run: Run) -> None:
    assert run("generate", "Hello", "--mix", "kind=0.5").out == run("generate", "Hello", "--beta", "0.5").out
    off = run("generate", "Hello", "--mix", "kind=2", "--beta", "0")
    assert off.code == 0 and off.out == run("generate", "Hello", "--beta", "0").out


def test_a_prompt_of_bytes_that_are_no_text_is_taken_as_python_gives_it(run: Run) -> None:
    def prompt_tokens(prompt: str) -> int:
        done = run("generate", prompt, "--raw", "--json")
        assert done.code == 0
        return int(json.loads(done.out)["usage"]["prompt_tokens"]["base"])

    assert prompt_tokens("caf") == 3 and prompt_tokens("caf\udce9") == 3 + 3  # half of a surrogate pair is three bytes
    assert prompt_tokens("\ufdd0 😀 <|im_end|>") == 3 + 1 + 2 + 1 + 10  # a typed control token is ten letters


def test_the_end_of_the_context_is_told_on_stderr(run: Run) -> None:
    options = ("--ctx", "24", "--max-tokens", "100", "--beta", "0", "--json")
    for prompt, reason, said in (("a", "context", "(the context of 24 tokens is full)\n"), ("Hello", "stop", "")):
        done = run("generate", prompt, *options)
        assert (done.code, json.loads(done.out)["finish_reason"], done.err) == (0, reason, said)


def test_a_schema_in_openais_form_is_taken_out_of_it_and_that_is_told(run: Run) -> None:
    schema = '{"enum": [7]}'
    for wrapped in (
        f'{{"name": "n", "schema": {schema}}}',
        f'{{"type": "json_schema", "json_schema": {{"schema": {schema}}}}}',
    ):
        done = run("generate", "hi", "--json-schema", wrapped)
        assert (done.code, done.out) == (0, "7\n")
        assert done.err == "eftlocal: --json-schema is in OpenAI's form; its inner schema is used.\n"
    assert run("generate", "hi", "--json-schema", schema).err == ""


# --- the version ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--version"], ["-V"], ["--version", "demo"]], ids=" ".join)
def test_the_version_is_one_line_and_exit_code_0(run: Run, words: list[str]) -> None:
    assert run(*words, models=None) == Done(0, f"eftlocal {eftlocal.__version__}\n", "")


def test_the_version_is_the_one_in_pyproject_toml() -> None:
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    written = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["version"]
    assert eftlocal.__version__ == written, "pyproject.toml has changed since the installation: pip install -e . again"


def test_view_and_negative_reach_the_models(run: Run) -> None:
    def tokens(*words: str) -> dict[str, int]:
        found: dict[str, int] = json.loads(run("generate", "e", "Hello", "--json", *words).out)["usage"][
            "prompt_tokens"
        ]
        return found

    plain, raw = tokens(), tokens("--view", "base=raw", "--view", "tuned=raw")
    assert raw == {"base": 1, "tuned": 1, "reference": plain["reference"]} and plain["reference"] > 1
    guided = tokens("--negative", "Be rude.")
    assert guided["kind.tuned"] == guided["guidance.tuned"] == plain["tuned"] < guided["guidance.reference"]
    for words, message in (
        (["--view", "base"], "--view has 'base': it must be ROLE=VIEW"),
        (["--view", "base=chap"], 'unknown view "chap"'),
        (["--view", "bose=chat"], "has no role 'bose'"),
        (["--guidance", "2"], "--guidance needs --negative"),
        (["--negative", "x", "--raw"], "a raw prompt has no system text"),
    ):
        done = run("generate", "e", "Hello", *words)
        assert done.code == 2 and message in done.err


def test_a_batch_with_another_negative_text_is_another_run(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("Hello\n")
    words = ["generate", "-i", str(tmp_path / "in.txt"), "-o", str(tmp_path / "out.jsonl"), "--negative"]
    assert run(*words, "Be rude.").code == 0 and run(*words, "Be rude.").code == 0
    assert json.loads((tmp_path / "out.jsonl").read_text())["settings"]["mix"] == {"kind": 1.0, "guidance": 0.5}
    assert run(*words, "Be kind.").code == 1


def test_negative_in_the_chat_is_the_option_and_keeps_the_conversation_and_the_dials(run: Run) -> None:
    given = run("chat", "e", "--negative", "Be rude.", "--guidance", "3", stdin="Hello\nthe\n")
    typed = run("chat", "e", "--guidance", "3", stdin="/negative Be rude.\nHello\nthe\n")
    assert given.code == typed.code == 0 and given.out == typed.out
    assert "(guidance 3 away from: Be rude.)" in typed.err
    lines = "Hello\n/beta 0.5\n/negative Be rude.\n/beta\n/mix guidance=1\n/negative off\n/negative\n/mix\nthe\n"
    done = run("chat", "e", stdin=lines)
    plain = run("chat", "e", stdin="Hello\n/beta 0.5\nthe\n")
    assert done.code == 0 and done.out == plain.out and done.err.count("(beta is 0.5)") == 2
    assert "guidance stays" in run("chat", "e", stdin="/negative Be rude.\n/emulator e\n").err
    assert "(guidance 1.25 away from: Be rude.)" in done.err and done.err.count("(no guidance; ") == 2


# --- errors -----------------------------------------------------------------------------------------------------------

MISTAKES = [
    (["generate", "hi", "--mix", "kind"], "--mix has 'kind'; it must be NAME=WEIGHT", 2),
    (["generate", "hi", "--mix", "kind=much"], "--mix has 'kind=much'", 2),
    (["generate", "hi", "--mix", "=1"], "--mix has '=1'", 2),
    (["generate", "hi", "--mix", "kind=1,"], "--mix has ''", 2),
    (["generate", "hi", "--mix", "kin=1"], "no reward named 'kin'", 2),
    (["generate", "hi", "--mix", "kind=inf"], "finite", 2),
    (["generate", "hi", "--beta", "nan"], "beta is nan", 2),
    (["generate", "hi", "--temperature", "nan"], "temperature is nan", 2),
    (["generate", "hi", "--top-p", "2"], "top_p is 2.0", 2),
    (["generate", "hi", "--max-tokens", "0"], "max_tokens is 0", 2),
    (["generate", "hi", "--seed", "-1"], "seed is -1", 2),
    (["generate", "hi", "--threads", "0"], "threads", 2),
    (["generate", "hi", "--threads", "100000"], "threads is 100000; it must be between 1 and", 2),
    (["generate", "hi", "--ctx", "-1"], "context is -1", 2),
    (["generate", "hi", "--ctx", "100000"], "A context of 100000 tokens is more than", 2),
    (["generate", "hi", "--kv-type", "f8"], "kv_type is 'f8'", 2),
    (["generate", "hi", "--stop", ""], "stop string is empty", 2),
    (["generate", "hi", "-e", "nobody"], "nobody", 1),
    (["generate", "word " * 300], "tokens long for the", 1),
    (["generate", "hi", "--raw", "--system", "x"], "cannot have a system text", 2),
    (["generate", "hi", "--regex", r"a[^\s\S]b"], "nothing can satisfy it", 2),
    (["generate", "hi", "--regex", ""], "regex is empty", 2),
    (["generate", "hi", "--json-schema", ""], "--json-schema is empty", 2),
    (["generate", "hi", "--json-schema", '{"const": 9007199254740993}'], "too large to be enforced exactly", 2),
    (["generate", "hi", "--json-schema", '{"propertees": {}}'], 'Did you mean "properties"?', 2),
    (["score", "--prompt", "a", "--completion", ""], "completion is empty", 2),
    (["chat", "nobody"], "nobody", 1),
]


@pytest.mark.parametrize(("words", "message", "code"), MISTAKES, ids=[" ".join(words)[:40] for words, *_ in MISTAKES])
def test_a_mistake_is_one_or_two_lines_on_stderr_and_exit_code_2_if_it_is_a_wrong_value(
    run: Run, words: list[str], message: str, code: int
) -> None:
    done = run(*words)
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith("eftlocal: ") and message in done.err
    assert 1 <= done.err.count("\n") <= 2 and "Traceback" not in done.err


@pytest.mark.parametrize("words", [["generate"], ["generate", ""], ["generate", "-"], ["generate", "-e", "e", " \n"]])
@pytest.mark.parametrize("stdin", [None, "", " \n"])  # None: as a shell does with <&-
def test_an_empty_prompt_is_wrong_usage(run: Run, words: list[str], stdin: str | None) -> None:
    done = run(*words, stdin=stdin)
    assert (done.code, done.out) == (2, "") and "there is no prompt" in done.err


def test_what_is_piped_in_stands_before_the_prompt(run: Run) -> None:
    joined = run("generate", "one\n\ntwo")
    assert run("generate", "two", stdin="one\n") == joined
    assert run("generate", "e", "two", stdin="one\n\n") == joined
    assert run("generate", "two", stdin="\n") == run("generate", "two")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX files and devices")
@pytest.mark.slow
def test_only_a_text_for_this_command_is_read_from_standard_input(catalog: Path, tmp_path: Path) -> None:
    """Not the null device, nor the rest of a file that a shell's loop reads."""
    (tmp_path / "lines").write_text("one\ntwo\n")
    command = " ".join(map(shlex.quote, [*PROGRAM, "generate", "--models", str(catalog), "--max-tokens", "9"]))

    def shell(script: str) -> str:
        done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, timeout=60, check=True)
        assert done.stderr == b""
        return done.stdout.decode("utf-8", "replace")

    one, two = shell(f"{command} one </dev/null"), shell(f"{command} two <&-")
    assert shell(f'while read line; do {command} "$line"; done < lines') == one + two
    assert shell(f"{command} two < lines") == shell(f"printf 'one\\ntwo\\n' | {command} two") not in (one, two)


def test_the_first_of_two_words_is_the_emulators_name_or_a_file(run: Run, family: Family) -> None:
    assert run("generate", "e", "Hello") == run("generate", "-e", "e", "Hello")
    greedy = ("--temperature", "0")
    assert run("generate", str(family.tuned), "Hello", *greedy) == run(
        "generate", "--base", str(family.tuned), "Hello", *greedy
    )
    done = run("generate", "e")
    assert done.code == 0 and "eftlocal generate e PROMPT" in done.err
    assert run("generate", "e", stdin="Hello").err == ""


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("run", "chat"), ("ls", "list"), ("create", "init"), ("delete", "rm"), ("complete", "generate"), ("lst", "list")],
)
def test_an_unknown_command_names_the_one_that_is_meant(run: Run, typed: str, meant: str) -> None:
    done = run(typed, models=None)
    assert (done.code, done.out) == (2, "") and f"No such command '{typed}'. Did you mean {meant}?" in done.err


@pytest.mark.parametrize("columns", [60, 80, 160])
def test_help_fits_the_terminal_and_has_a_heading_for_each_panel(
    run: Run, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    done = run("generate", "--help", models=None)
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= columns and not any("<" in line for line in lines)
    headings = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert headings[:2] == ["Arguments:", "Options:"] and {"Dials:", "A file of prompts:"} <= set(headings)
    assert "  --force " in done.out and "[OPTIONS] [NAME] [PROMPT]\n" in done.out


@pytest.mark.parametrize("command", ["show", "sessions show", "templates show"])
def test_the_help_of_each_command_is_plain_and_its_usage_shows_what_is_typed(run: Run, command: str) -> None:
    done = run(*command.split(), "--help", models=None)
    first = done.out.partition("\n")[0]  # the program's name depends on how the tests were started
    assert first.startswith("Usage: ") and first.endswith(f"eftlocal {command} [OPTIONS] NAME")
    assert "╭" not in done.out


def test_the_help_begins_with_what_most_people_want(run: Run) -> None:
    commands = run("--help", models=None).out.partition("Commands:\n")[2]
    names = [line.split()[0] for line in commands.splitlines() if line[:2] == "  " and line[2:3].isalpha()]
    assert names[:4] == ["chat", "generate", "score", "serve"] and {"bench", "doctor"} <= set(names[4:])


def test_two_names_of_an_emulator_are_wrong_usage_and_no_question(run: Run) -> None:
    done = run("chat", "e", "-e", "e")
    assert done.code == 2 and "e and -e e both name the emulator" in done.err


def test_logprobs_without_json_say_what_is_missing(run: Run) -> None:
    done = run("generate", "hi", "--logprobs", "2")
    assert done.code == 2 and "add --json, or -i FILE" in done.err


def test_a_piped_chat_that_failed_is_exit_code_1(run: Run) -> None:
    assert run("chat", "e", stdin="Hello\n").code == 0
    assert run("chat", "e", stdin="/nothing\nHello\n").code == 1


def test_bytes_piped_in_that_are_no_utf_8_are_an_error(run: Run) -> None:
    done = run("generate", stdin=b"caf\xe9")
    assert done.code == 1 and "not UTF-8 text (byte 3)" in done.err


@pytest.mark.parametrize(
    "content", [None, b"", b"not a model\n" * 20], ids=["a missing file", "an empty file", "a text file"]
)
def test_a_model_file_that_is_none_is_an_error(run: Run, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "broken.gguf"
    if content is not None:
        path.write_bytes(content)
    folder = tmp_path / "of-its-own"
    folder.mkdir()
    done = run("generate", "hi", models=write_catalog(folder, {"m": path}, base="m", views={"base": "raw"}))
    assert (done.code, done.out) == (1, "") and "broken.gguf" in done.err
    assert 1 <= done.err.count("\n") <= 2


def test_a_models_toml_that_is_not_there_is_an_error(run: Run, tmp_path: Path) -> None:
    done = run("generate", "hi", models=tmp_path / "none.toml")
    assert done.code == 1 and "none.toml: no such file" in done.err


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "hi", "--beta", "much"],
        ["generate", "hi", "--no-such-option"],
        ["generate", "one", "two"],
        ["generate", "hi", "--date", "tomorrow"],
        ["score", "--prompt", "x"],
        ["generate", "hi", "-o", "out.jsonl"],
        ["generate", "hi", "-n", "4"],
        ["score", "--prompt", "x", "--completion", "y", "--tokens"],
        ["chat", "demo", "-e", "demo", "hi"],
        ["no-such-command"],
    ],
)
def test_wrong_usage_is_exit_code_2(run: Run, words: list[str]) -> None:
    done = run(*words, models=None)
    assert (done.code, done.out) == (2, "") and "Usage" in done.err and "\x1b" not in done.err


def test_debug_shows_the_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(sys, "argv", ["eftlocal", "generate", "hi", "--mix", "x", "--debug"])
    with pytest.raises(SettingError):
        cli.main()


def test_a_pipe_that_is_not_utf_8_shows_what_it_can(run: Run, catalog: Path) -> None:
    done = subprocess.run(
        [*PROGRAM, "score", "--models", str(catalog), "--threads", "1", "--prompt", "x", "--completion", "é 日本"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        timeout=60,
    )
    assert done.returncode == 0 and done.stderr == b"" and b"?" in done.stdout


# --- score ------------------------------------------------------------------------------------------------------------


def test_score_json_is_the_documented_object_also_for_a_beta_of_0(run: Run) -> None:
    for beta in ("1", "0"):
        done = run("score", "--prompt", "Hello", "--completion", "the world 日本", "--json", "--beta", beta)
        assert done.code == 0 and done.err == "" and done.out.count("\n") == 1
        score = json.loads(done.out)
        assert set(score) == {"tokens", "logprob"}
        for token in score["tokens"]:
            assert set(token) == {"id", "text", "logprob", "base", "rewards"}
            assert set(token["rewards"]) == {"kind"} and set(token["rewards"]["kind"]) == {"tuned", "reference"}
            assert isinstance(token["id"], int) and token["logprob"] <= 0
        assert score["logprob"] == pytest.approx(sum(token["logprob"] for token in score["tokens"]))
    assert [t["logprob"] for t in score["tokens"]] == pytest.approx([t["base"] for t in score["tokens"]], abs=1e-5)


def test_a_score_is_shown_as_a_table_without_escape_codes(run: Run) -> None:
    done = run("score", "--prompt", "Hello", "--completion", "the\nworld")
    lines = done.out.splitlines()
    assert lines[0].split()[:3] == ["token", "emulator", "base"] and lines[-1].startswith("sum")
    assert "\\n" in done.out and "\x1b" not in done.out


# --- processes --------------------------------------------------------------------------------------------------------


COMMANDS = [[], ["generate"], ["chat"], ["serve"], ["list"], ["sessions"], ["templates", "show"]]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_imports_nothing_heavy(command: list[str]) -> None:
    script = (
        "import sys\nfrom eftlocal.cli import main\n"
        "try: main()\nexcept SystemExit as end: code = end.code\n"
        "heavy = {'numpy', 'llama_cpp', 'jinja2', 'huggingface_hub', 'prompt_toolkit', 'importlib.metadata'}\n"
        "heavy |= {'uvicorn', 'starlette', 'asyncio', 'pydantic', 'rich'}\n"
        "heavy = sorted(heavy & set(sys.modules))\n"
        "print(code, heavy, file=sys.stderr)"
    )
    words = [sys.executable, "-c", script, *command, "--help"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.stderr == "0 []\n" and "\x1b" not in done.stdout
    assert "Usage: " in done.stdout and (command or all(word in done.stdout for word in ("generate", "score", "chat")))


@pytest.fixture
def endless(smollm2: Path, tmp_path: Path) -> list[str]:
    """A command whose answer takes seconds: the real model continues the prompt until the context is full."""
    folder = tmp_path / "endless"
    folder.mkdir()
    models = write_catalog(folder, {"m": smollm2}, base="m", views={"base": "raw"})
    words = ["--models", str(models), "--threads", "1", "--temperature", "0", "--max-tokens", "1500", "--ctx", "2048"]
    return ["generate", "--raw", "1, 2, 3, 4, 5, 6, 7, 8,", *words]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_stops_the_answer_and_keeps_what_came(endless: list[str]) -> None:
    with program(endless) as process:
        assert process.stdout is not None and process.stderr is not None
        first = process.stdout.read(8)
        process.send_signal(signal.SIGINT)
        rest, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert (first + rest).decode().startswith(" 9, 10,") and err == b""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="closes a POSIX pipe")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is always full")
@pytest.mark.parametrize("words", [["list"], ["list", "--json"], ["show", "demo"]])
def test_a_full_disk_under_stdout_is_told_in_one_line(words: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*PROGRAM, *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (
        done.returncode == 1 and done.stderr == "eftlocal: standard output cannot be written: No space left on device\n"
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="closes a POSIX pipe")
@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize(
    "words",
    [
        ["list"],
        ["list", "--json"],
        ["show", "demo"],
        ["show", "demo", "--json"],
        ["--help"],
        ["list", "--help"],
        ["-V"],
    ],
    ids=" ".join,
)
def test_a_reader_that_was_never_there_is_no_failure(words: list[str], buffered: bool) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    env = {**os.environ, **({} if buffered else {"PYTHONUNBUFFERED": "1"})}
    with subprocess.Popen([*PROGRAM, *words], stdout=writes, stderr=subprocess.PIPE, env=env) as process:
        os.close(writes)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="closes files as a POSIX shell does")
def test_standard_files_that_are_closed_are_empty_or_lost_and_no_session_gets_their_numbers(
    catalog: Path, tmp_path: Path
) -> None:
    for closed in ("<&-", "</dev/null >&-", "</dev/null 2>&-", "<&- >&- 2>&-"):
        options = f'--models "{catalog}" --threads 1 --max-tokens 3 --temperature 0 --session s'
        command = f'"{sys.executable}" -m eftlocal chat "the world, please" {options} {closed}'
        env = {**os.environ, "XDG_DATA_HOME": str(tmp_path)}
        done = subprocess.run(command, shell=True, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "eftlocal/sessions/s.json").read_text())["messages"]) == 8


def test_a_reader_that_leaves_ends_it_quietly(endless: list[str]) -> None:
    with program(endless) as process:
        assert process.stdout is not None and process.stderr is not None
        assert len(process.stdout.read(5)) == 5
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=30) == 0


def test_piped_lines_are_messages_and_answers_alone_are_printed(catalog: Path, run: Run) -> None:
    options = ["--models", str(catalog), "--threads", "1", "--max-tokens", "6"]
    done = subprocess.run([*PROGRAM, "chat", *options], input=b"Hello\n\nthe world\n", capture_output=True, timeout=60)
    assert done.returncode == 0 and b"\x1b" not in done.stdout + done.stderr
    short = run("generate", "Hello", "--max-tokens", "6").out
    assert done.stdout.decode().startswith(short)
    assert len(done.stdout) > len(short)


def test_a_question_after_the_emulators_name_is_the_chats_first_message(catalog: Path, family: Family) -> None:
    options = ["--models", str(catalog), "--threads", "1", "--max-tokens", "6", "--temperature", "0"]

    def answers(*words: str, piped: bytes = b"the world\n") -> bytes:
        done = subprocess.run([*PROGRAM, "chat", *options, *words], input=piped, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    typed = answers(piped=b"Hello\nthe world\n")
    assert typed == answers("e", "Hello") == answers("-e", "e", "Hello")
    assert answers("--base", str(family.tuned), "Hello") == answers(str(family.tuned), "Hello") != typed


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_ctrl_c_stops_an_answer_of_the_chat_which_goes_on_and_ctrl_d_leaves(smollm2: Path, tmp_path: Path) -> None:
    """The terminal has no cursor movements (TERM=dumb)."""
    pexpect = pytest.importorskip("pexpect")
    folder = tmp_path / "chat"
    folder.mkdir()
    models = write_catalog(folder, {"m": smollm2}, base="m", views={"base": "raw"})
    words = ["--models", str(models), "--threads", "1", "--temperature", "0", "--max-tokens", "1500", "--ctx", "2048"]
    child = pexpect.spawn(PROGRAM[0], [*PROGRAM[1:], "chat", *words], encoding="utf-8", timeout=30, echo=False)
    try:
        child.sendline("1, 2, 3, 4, 5, 6, 7, 8,")
        child.expect(", 30, 31,")
        child.sendintr()
        child.expect("stopped")
        child.sendline("9, 10, 11, 12, 13,")
        child.expect("14, 15, ")
        time.sleep(1.1)  # two Ctrl-C within a second would leave
        child.sendintr()
        child.expect("stopped")
        child.sendeof()
        child.expect(pexpect.EOF)
    finally:
        child.close(force=True)
    assert child.exitstatus == 0
