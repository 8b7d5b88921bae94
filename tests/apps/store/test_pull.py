"""`eftlocal pull`: the plan that is shown before the download, the download itself, and what can prevent it."""

import hashlib
import json
from pathlib import Path

import pytest
from rich.progress import Progress

from eftlocal.apps.store.fetch import Item, _Bar
from eftlocal.catalog import hub
from eftlocal.runtime.plan.machine import Machine
from tests.apps.store.conftest import World
from tests.families import Family, write_lora

pytestmark = pytest.mark.slow  # downloads through a local server


def test_an_emulator_is_pulled_and_chats(world: World, family: Family) -> None:
    done = world.run("pull", "tiny")
    assert done.code == 0 and done.out == "", done.err
    assert "hf:us/Big-GGUF/Big.Q4_K_M.gguf" in done.err and "apache-2.0" in done.err
    assert "to download into" in done.err and "tiny is here: eftlocal chat tiny" in done.err
    answer = world.run("generate", "-e", "tiny", "--max-tokens", "4", "--temperature", "0", "Hello")
    assert answer.code == 0 and answer.err == ""
    trio = ("--base", str(family.base), "--tuned", str(family.tuned), "--reference", str(family.reference))
    same = world.run("generate", *trio, "--ctx", "256", "--max-tokens", "4", "--temperature", "0", "Hello")
    assert same.out == answer.out


def test_a_pull_of_what_is_here_asks_nobody(world: World) -> None:
    world.run("pull", "tiny")
    world.server.requests.clear()
    done = world.run("pull", "tiny")
    assert (done.code, done.err) == (0, "tiny is here: eftlocal chat tiny\n")
    assert world.server.requests == []


def test_only_what_lacks_is_downloaded(world: World) -> None:
    assert world.run("pull", "small").code == 0
    before = world.server.served
    done = world.run("pull", "tiny")
    assert done.code == 0
    rows = {line.split()[0]: line for line in done.err.splitlines() if line.startswith("hf:")}
    assert rows["hf:us/Small-GGUF/small.Q8_0.gguf"].split()[-1] == "here"
    assert world.server.served - before < 3 * sum(
        path.stat().st_size for path in (world.home / "hub").rglob("blobs/*") if path.is_file()
    )


def test_a_dry_run_downloads_headers_alone(world: World) -> None:
    done = world.run("pull", "tiny", "--dry-run")
    assert done.code == 0 and "to download" in done.err
    assert not list((world.home / "hub").rglob("*.gguf"))


def test_a_trio_by_its_places_needs_no_models_toml(world: World) -> None:
    places = ("hf:us/Big-GGUF/Big.Q4_K_M.gguf", "hf:us/Small-GGUF/small-chat.Q8_0.gguf", "small")
    trio = [word for pair in zip(("--base", "--tuned", "--reference"), places, strict=True) for word in pair]
    missing = world.run("generate", *trio, "hi")
    assert missing.code == 1 and f"`eftlocal pull {' '.join(trio)}` downloads what is missing" in missing.err
    done = world.run("pull", *trio)
    assert done.code == 0 and done.err.endswith(f"trio is here: eftlocal chat {' '.join(trio)}\n")
    assert world.run("generate", *trio, "--ctx", "256", "--max-tokens", "2", "hi").code == 0
    done = world.run("init", *trio)
    assert done.code == 0 and done.err.endswith("now defines mine: eftlocal chat mine\n")
    assert world.run("generate", "-e", "mine", "--ctx", "256", "--max-tokens", "2", "hi").code == 0
    again = world.run("init", *trio, "--name", "mine")
    assert again.code == 1 and 'the emulator "mine" is already defined' in again.err


WRONG = {
    "no such name": (["pull", "tinny"], ['no emulator or model is named "tinny"', 'mean "tiny"', "eftlocal list"]),
    "an empty name": (["pull", ""], ['no emulator or model is named ""']),
    "a page of the Hub": (
        ["pull", "https://huggingface.co/us/Big-GGUF/blob/main/Big.Q8_0.gguf"],
        ["write it as hf:us/Big-GGUF/Big.Q8_0.gguf"],
    ),
    "a repository's page": (["show", "https://huggingface.co/us/Big-GGUF"], ["write it as hf:us/Big-GGUF/FILE.gguf"]),
    "no hf:": (
        ["show", "us/Big-GGUF/Big.Q8_0.gguf"],
        ["if it is a file on the Hub, write hf:us/Big-GGUF/Big.Q8_0.gguf"],
    ),
    "no such path": (["pull", "./big.gguf"], ["big.gguf does not exist", "the path of a .gguf file"]),
    "a revision that leaves its folder": (
        ["pull", "hf:us/Big-GGUF/Big.Q8_0.gguf@../main"],
        ["does not name a .gguf file"],
    ),
    "a name and a base": (["pull", "tiny", "--base", "big"], ["Both tiny and --base were given"]),
    "no base": (["pull", "--tuned", "big"], ["need --base, which is missing"]),
    "no such repository": (["pull", "hf:us/None-GGUF/x.gguf"], ["no repository us/None-GGUF", "private"]),
    "no such file": (["pull", "hf:us/Big-GGUF/Big.Q5_K_M.gguf"], ["Big.Q5_K_M.gguf", "Big.Q4_K_M.gguf"]),
    "a repository alone": (["pull", "hf:us/Big-GGUF"], ["Q4_K_M", "Q8_0"]),
    "a repository at a revision": (["pull", "hf:us/Big-GGUF@main"], ["hf:us/Big-GGUF is a whole", "Q8_0"]),
    "no such revision": (["pull", "big", "--revision", "v9"], ["v9"]),
    "a revision of several repositories": (["pull", "tiny", "--revision", "v9"], ["several repositories"]),
}
USAGE = ("a name and a base", "no base", "a revision of several repositories")  # wrong usage, as an unknown option is


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_in_two_lines_at_most(case: str, world: World) -> None:
    words, parts = WRONG[case]
    done = world.run(*words)
    code = 2 if case in USAGE else 1
    assert done.code == code and done.err.startswith("eftlocal: ") and done.err.count("\n") <= 2, done.err
    assert all(part in done.err for part in parts), done.err
    assert not list((world.home / "hub").rglob("*.gguf"))


def test_vocabularies_are_compared_before_the_download(world: World, family: Family) -> None:
    world.server.add("us/Odd-GGUF", {"odd.gguf": family.other_vocabulary})
    world.catalog.write_text(
        world.catalog.read_text() + '\n[models.odd]\nrepo = "us/Odd-GGUF"\nfile = "odd.gguf"\n'
        '[emulators.mixed]\nbase = "big"\nrewards = [{ tuned = "odd", reference = "odd" }]\nviews = { tuned = "raw" }\n'
    )
    done = world.run("pull", "mixed")
    assert (done.code == 1 and "do not share a vocabulary" in done.err) or "different tokenizers" in done.err
    assert not list((world.home / "hub").rglob("blobs/*"))


def test_a_file_that_is_not_the_one_that_the_entry_names(world: World) -> None:
    text = world.catalog.read_text().replace(
        'file = "Big.Q4_K_M.gguf"\n', f'file = "Big.Q4_K_M.gguf"\nsha256 = "{"0" * 64}"\n'
    )
    world.catalog.write_text(text)
    done = world.run("pull", "big")
    assert done.code == 1 and "but models.toml expects 0000" in done.err and "revision" in done.err


def test_another_revision_is_another_file(world: World, family: Family) -> None:
    world.run("pull", "big")
    world.server.add("us/Big-GGUF", {"Big.Q4_K_M.gguf": family.tuned2}, refs=("v2",))
    text = world.catalog.read_text()
    pinned = f'file = "Big.Q4_K_M.gguf"\nsha256 = "{hashlib.sha256(family.base.read_bytes()).hexdigest()}"\n'
    world.catalog.write_text(text.replace('file = "Big.Q4_K_M.gguf"\n', pinned))
    done = world.run("pull", "big", "--revision", "v2")
    place = "hf:us/Big-GGUF/Big.Q4_K_M.gguf@v2"
    assert done.code == 0 and done.err.endswith(f"big is here at v2; use it as {place}\n"), done.err
    files = {name: json.loads(world.run("show", name, "--json").out)["models"][0] for name in ("big", place)}
    assert [Path(file["path"]).read_bytes() for file in files.values()] == [
        family.base.read_bytes(),
        family.tuned2.read_bytes(),
    ]
    world.server.requests.clear()
    assert world.run("pull", "big", "--revision", "v2").code == 0 and world.server.requests == []


def test_an_adapter_comes_from_a_repository_of_its_own(world: World, family: Family, tmp_path: Path) -> None:
    world.server.add("us/Lora-GGUF", {"ad.gguf": write_lora(tmp_path / "ad.gguf", family.reference, seed=3)})
    world.catalog.write_text(
        world.catalog.read_text() + '[models.taught]\nrepo = "us/Small-GGUF"\nfile = "small.Q8_0.gguf"\n'
        'lora = { repo = "us/Lora-GGUF", file = "ad.gguf" }\n'
        '[emulators.lora]\nbase = "big"\nrewards = [{ tuned = "taught", reference = "small" }]\ncontext = 128\n'
    )
    for name in ("big", "small"):
        world.run("pull", name)
    missing = world.run("generate", "-e", "lora", "hi")
    assert missing.code == 1 and "lora is not on this machine: taught is not downloaded yet" in missing.err
    done = world.run("pull", "lora")
    assert done.code == 0 and done.err.count("ad.gguf: downloaded and checked") == 1
    assert "Big.Q4_K_M.gguf: downloaded" not in done.err
    assert world.run("generate", "-e", "lora", "--max-tokens", "2", "hi").code == 0
    assert "ok taught lora: " in world.run("doctor", "lora").out
    blob = next((world.home / "hub" / "models--us--Lora-GGUF" / "blobs").iterdir())
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    damaged = world.run("doctor", "lora")
    assert damaged.code == 1 and "ad.gguf is damaged" in damaged.out


def test_a_bar_does_not_go_back_while_what_is_here_is_hashed() -> None:
    part = hub.RemoteFile(name="m.gguf", size=100, sha256="0" * 64)
    repository = hub.Repository(repo="us/M", commit="0" * 40, files=(part,), gated=False, licence=None)
    progress = Progress()
    total = progress.add_task("all", total=300, completed=150)
    bar = _Bar(progress, total, Item(repository, part, have=50))
    seen = []
    for n in (10, 50, 60, 100):
        bar.at(n)
        seen.append(tuple(task.completed for task in progress.tasks))
    assert seen == [(150, 50), (150, 50), (160, 60), (200, 100)]


def test_names_are_no_markup(world: World, family: Family) -> None:
    world.server.add("us/Odd-GGUF", {"a[/x]:cat:.gguf": family.base})
    done = world.run("pull", "hf:us/Odd-GGUF/a[/x]:cat:.gguf")
    assert done.code == 0 and done.err.count("a[/x]:cat:.gguf") == 5, done.err


def test_too_little_disk_is_told_before_the_download(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eftlocal.catalog.hub.free_bytes", lambda folder: 1000)
    done = world.run("pull", "tiny")
    assert done.code == 1 and "are free in" in done.err and "HF_HOME" in done.err


def test_a_gated_repository_says_where_to_ask_and_no_token(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.server.add("us/Gated-GGUF", {"g.gguf": next(iter(world.server.folder.iterdir()), b"x")}, gated=True)
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecret")
    done = world.run("pull", "hf:us/Gated-GGUF/g.gguf")
    assert done.code == 1 and "/us/Gated-GGUF" in done.err and "secret" not in done.out + done.err


def test_without_a_network_what_is_here_still_runs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.run("pull", "tiny")
    world.server.close()
    assert world.run("pull", "tiny").code == 0
    assert world.run("generate", "-e", "tiny", "--max-tokens", "2", "hi").code == 0
    done = world.run("pull", "hf:us/Big-GGUF/Big.Q8_0.gguf")
    assert done.code == 1 and done.err.count("\n") <= 2


def test_an_interrupted_pull_goes_on(world: World, family: Family) -> None:
    size = family.base.stat().st_size
    world.server.faults.status = 503
    failed = world.run("pull", "big")
    assert failed.code == 1
    world.server.faults.status = None
    assert world.run("pull", "big").code == 0
    blob = next(path for path in (world.home / "hub").rglob("blobs/*"))
    assert blob.read_bytes() == family.base.read_bytes() and blob.stat().st_size == size


def test_the_default_is_what_was_pulled_and_else_what_ships(world: World) -> None:
    before = world.run("generate", "--max-tokens", "2", "hi")
    assert before.code == 0 and "tiny is not on this machine; `eftlocal pull tiny` downloads it" in before.err
    world.run("pull")
    after = world.run("generate", "--json", "--max-tokens", "2", "hi")
    assert after.code == 0 and after.err == "" and '"emulator": "tiny"' in after.out


def test_what_does_not_fit_is_told_before_the_download_with_a_quantization_that_would(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = json.loads(world.run("show", "tiny", "--json").out)["memory"]["needed"]
    memory = Machine(cores=2, memory=needed, free=int(needed * 0.8))
    monkeypatch.setattr("eftlocal.runtime.machine.here", lambda **_: memory)
    monkeypatch.setattr("eftlocal.runtime.plan.loads.TINY", 0)  # models smaller than this are never refused
    done = world.run("pull", "tiny", "--dry-run")
    assert done.code == 0 and "it DOES NOT FIT" in done.err
    # in this repository the Q8_0 file is the smaller one
    assert "  it would fit with this base from the same repository: Big.Q8_0.gguf\n" in done.err
    assert "--force" not in done.err  # pull does not have this option
