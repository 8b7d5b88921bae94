"""`list`, `show`, `rm` and `doctor`: what is on this machine, what it is made of, and what `rm` deletes."""

import json

import pytest

from eftlocal.catalog import token_ids
from eftlocal.catalog.token_ids import TokenIds
from eftlocal.runtime import gguf, vocab
from tests import families
from tests.apps.store.conftest import World
from tests.families import Family

pytestmark = pytest.mark.slow  # many commands, each over a whole catalogue


def test_list_says_what_is_here(world: World) -> None:
    found = json.loads(world.run("list", "--json").out)
    emulators = {entry["name"]: entry for entry in found["emulators"]}
    assert {name: entry["local"] for name, entry in emulators.items()} == {"tiny": False, "other": False, "here": True}
    assert emulators["here"]["fits"] is True and emulators["tiny"]["fits"] is None
    assert emulators["tiny"]["description"] == "a tiny one"
    world.run("pull", "small")
    found = json.loads(world.run("list", "--json").out)
    small = next(entry for entry in found["models"] if entry["name"] == "small")
    assert small["local"] and small["size"] > 0 and small["path"].endswith("small.Q8_0.gguf")
    assert [e["name"] for e in json.loads(world.run("list", "--local", "--json").out)["emulators"]] == ["other", "here"]
    done = world.run("list")
    assert done.code == 0 and done.err == "" and "\x1b" not in done.out
    assert any(line.split()[:2] == ["tiny", "no"] for line in done.out.splitlines())


def test_show_looks_at_models_that_are_far_away(world: World) -> None:
    done = world.run("show", "tiny")
    assert done.code == 0, done.err
    assert "tokens, the same for all members" in done.out and "memory:" in done.out
    assert "base sees:\n  User:\n  Why is the sky blue?" in done.out
    assert "tuned sees:\n  <|im_start|>" in done.out
    assert not list((world.home / "hub").rglob("blobs/*.gguf"))
    shown = json.loads(world.run("show", "tiny", "--json").out)
    assert set(shown["views"]) == {"base", "tuned", "reference"} and shown["memory"]["fits"] is True
    assert [role["role"] for role in shown["roles"]] == ["base", "tuned", "reference"]
    world.run("pull", "tiny")
    world.server.close()
    assert json.loads(world.run("show", "tiny", "--json").out)["views"] == shown["views"]


def test_layers_on_workers_count_there_and_the_workers_are_not_asked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one(rest: str) -> None:
        entry = f'[models.own]\npath = "own.gguf"\n{rest}\n[emulators.far]\nbase = "own"\n'
        world.catalog.with_name("far.toml").write_text(entry)

    def listed() -> object:
        found = json.loads(world.run("list", "--json", "--models", str(world.catalog.with_name("far.toml"))).out)
        return next(entry["fits"] for entry in found["emulators"] if entry["name"] == "far")

    one('rpc = ["127.0.0.1:1"]')
    shown = world.run("show", "far", "--models", str(world.catalog.with_name("far.toml"))).out
    assert "memory: what lies here fits: " in shown
    assert "on 127.0.0.1:1, whose memory `eftlocal doctor far` asks for" in shown
    monkeypatch.setattr("eftlocal.apps.store.listing.rough_memory", lambda size: size << 60)  # nothing fits here
    assert listed() is True
    one('rpc = ["127.0.0.1:1"]\ngpu_layers = 1')
    assert listed() is None
    one("")
    assert listed() is False


def test_show_says_what_it_cannot_know(world: World) -> None:
    world.server.close()
    done = world.run("show", "tiny")
    assert done.code == 1 and done.out.startswith("tiny: a tiny one\n") and "vocabulary" not in done.out
    assert done.err.startswith("eftlocal: cannot reach") and done.err.count("\n") == 2
    found = world.run("show", "tiny", "--json")
    assert found.code == 1 and json.loads(found.out)["problem"].startswith("cannot reach")


def test_show_and_doctor_say_that_llama_cpp_aborts_on_a_model(world: World) -> None:
    path = world.catalog.with_name("own.gguf")
    families.write_model(path, seed=1, architecture="internlm2", n_head_kv=3)
    said = f"{path}: llama.cpp ended the process in which this file was tried (ggml.c:"
    for command in ("show", "doctor"):
        done = world.run(command, "here")
        assert done.code == 1 and said in (done.out + done.err).replace("\n      ", " ").replace("\n", "")
    shown = json.loads(world.run("show", "here", "--json").out)
    assert shown["problem"].startswith(said) and [role["architecture"] for role in shown["roles"]] == ["internlm2"]


def test_show_of_a_model_is_about_that_model(world: World) -> None:
    done = world.run("show", "own")
    assert done.code == 0 and done.out.startswith("own\n") and "trio" not in done.out
    assert "vocabulary: " in done.out and "for all members" not in done.out
    assert json.loads(world.run("show", "own", "--json").out)["name"] == "own"


def test_special_tokens_that_differ_are_shown(world: World, family: Family) -> None:
    world.server.add("us/Odd-GGUF", {"odd.gguf": family.other_specials})
    world.catalog.write_text(
        world.catalog.read_text() + '[emulators.odd]\nbase = "hf:us/Odd-GGUF/odd.gguf"\ncontext = 256\n'
        'rewards = [{ tuned = "small-chat", reference = "small" }]\nspecial_tokens_differ = true\n'
    )
    done = world.run("show", "odd")
    assert done.code == 0 and "vocabulary: 314 of 316 tokens, the same for all members; special tokens" in done.out
    assert "314 <|User|> / <|im_start|>, 315 <|Assistant|> / <|im_end|>" in done.out
    world.run("pull", "odd")
    assert "314 tokens are the same for all members; 2 special ones differ" in world.run("doctor", "odd").out


def test_a_bias_is_shown_and_a_file_of_tokens_that_is_missing_is_told(world: World) -> None:
    text = world.catalog.read_text()
    bias = 'bias = { end = -0.5, unseen = 1, unseen_tokens = "unseen.txt" }'
    world.catalog.write_text(text.replace('reference = "small" }', f'reference = "small", {bias} }}'))
    assert "unseen.txt: no such file" in (done := world.run("show", "tiny")).out + done.err
    fingerprint = vocab.fingerprint(gguf.read(world.catalog.parent / "own.gguf"), 316)
    (world.catalog.parent / "unseen.txt").write_text(token_ids.text(TokenIds(fingerprint, (1, 2, 3, 9))))
    done = world.run("show", "tiny")
    told = "bias of kind: -0.5 nats on the end of an answer, +1 on 4 tokens that its data never showed\n"
    assert done.code == 0 and told in done.out
    (reward,) = json.loads(world.run("show", "tiny", "--json").out)["rewards"]
    assert (reward["bias"]["end"], reward["bias"]["unseen"]) == (-0.5, 1.0)


def test_what_a_models_toml_says_is_no_markup_and_no_control_code(world: World) -> None:
    text = world.catalog.read_text().replace('"a tiny one"', '"a [/b] :cat: \\u001b[31m one,\\nof two lines"')
    world.catalog.write_text(text + '[models."odd[/x]"]\npath = "own.gguf"\n')
    for words in (["list", "--models-too"], ["show", "tiny"], ["show", "odd[/x]"], ["doctor", "tiny"]):
        done = world.run(*words)
        assert "\x1b" not in done.out + done.err and "Traceback" not in done.err
    out = world.run("list", "--models-too").out
    assert "a [/b] :cat: \\x1b[31m one, of two lines\n" in out and "odd[/x]" in out


def test_each_entry_is_one_line_of_a_pipe(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    long = "a description that is longer than forty columns are wide"
    world.catalog.write_text(world.catalog.read_text().replace("a tiny one", long))
    emulators = world.run("list").out.splitlines()
    assert len(emulators) == 1 + 3 and sum(row.endswith(long) for row in emulators) == 1
    assert emulators[0].split()[:4] == ["emulator", "here", "fits", "size"]
    rows = world.run("list", "--models-too").out.splitlines()
    assert len(rows) == 1 + 4 + 1 + 1 + 3
    assert rows[-4:] == emulators  # the emulators are last: most people look for them
    assert rows[1].split() == ["big", "no", "?", "hf:us/Big-GGUF/Big.Q4_K_M.gguf"]


def test_rm_frees_what_no_other_emulator_here_uses(world: World) -> None:
    world.run("pull", "tiny")
    blobs = {path: path.stat().st_size for path in (world.home / "hub").rglob("blobs/*")}
    assert len(blobs) == 3
    refused = world.run("rm", "tiny")
    assert refused.code == 2 and "--yes" in refused.err
    done = json.loads(world.run("rm", "tiny", "--yes", "--json").out)
    assert [entry["file"] for entry in done["kept"]] == ["hf:us/Small-GGUF/small.Q8_0.gguf"]
    assert done["kept"][0]["used_by"] == ["other"]
    gone = [path for path in blobs if not path.exists()]
    assert len(gone) == 2 and done["freed"] == sum(blobs[path] for path in gone)
    assert world.run("generate", "-e", "other", "--max-tokens", "2", "hi").code == 0
    again = world.run("rm", "tiny", "--yes")
    assert again.code == 0 and "nothing to delete" in again.err
    assert world.run("rm", "small", "--yes").code == 0
    assert not list((world.home / "hub").rglob("blobs/*"))


def test_rm_keeps_what_is_used_under_another_entry(world: World) -> None:
    world.run("pull", "tiny")
    text = world.catalog.read_text() + '[emulators.mine]\nbase = "hf:us/Big-GGUF/Big.Q4_K_M.gguf@main"\n'
    world.catalog.write_text(text)
    kept = json.loads(world.run("rm", "tiny", "--yes", "--json").out)["kept"]
    assert {entry["file"]: entry["used_by"] for entry in kept} == {
        "hf:us/Big-GGUF/Big.Q4_K_M.gguf": ["mine"],
        "hf:us/Small-GGUF/small.Q8_0.gguf": ["other"],
    }


def test_rm_never_touches_a_file_that_was_not_downloaded(world: World) -> None:
    done = world.run("rm", "here", "--yes")
    assert done.code == 0 and "own.gguf ships with eftlocal" in done.err
    assert (world.catalog.parent / "own.gguf").exists()


def test_doctor_examines_an_emulator_from_file_to_first_token(world: World) -> None:
    missing = world.run("doctor", "tiny")
    assert missing.code == 1 and "WRONG" in missing.out and "eftlocal pull tiny" in missing.out
    world.run("pull", "tiny")
    done = world.run("doctor", "tiny", "--json")
    findings = json.loads(done.out)
    assert done.code == 0 and {finding["state"] for finding in findings} == {"ok"}
    assert [finding["name"] for finding in findings][-3:] == ["vocabulary", "load", "first token"]
    blob = max((world.home / "hub").rglob("blobs/*"), key=lambda path: path.stat().st_size)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    broken = world.run("doctor", "tiny")
    assert broken.code == 1 and "damaged" in broken.out and "pull it again" in broken.out


def test_doctor_looks_at_this_machine(world: World) -> None:
    done = world.run("doctor", "--json")
    names = {finding["name"] for finding in json.loads(done.out)}
    assert {"python", "build", "device", "cores", "memory", "cache", "network", "token", "catalogue"} <= names
    assert done.err == ""
