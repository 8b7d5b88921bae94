"""Tests of models.toml: what it may contain, and that an error names the file, table, key and nearest right name."""

import dataclasses
import random
import tomllib
from pathlib import Path

import platformdirs
import pytest

from eftlocal.arithmetic.sample import Sampling
from eftlocal.catalog import models
from eftlocal.catalog.models import Bias, Catalog, Model, View, load, local_path, packaged, parse_view
from eftlocal.catalog.reading import SAMPLING_FLOATS, SAMPLING_INTEGERS
from eftlocal.errors import CatalogError

WHOLE = """
default = "smol"

[models.big]
repo = "owner/Big-GGUF"
revision = "v2"
size = 12_000_000
file = "Big-Q4_K_M.gguf"
sha256 = "2E8040CEAE7815ABE0DCB3540B9995EAA1FA0D2CA9E797D0A635AE4433C68C2D"
gpu_layers = 12
[models.mine]
path = "weights/mine.gguf"
lora = { path = "adapter.gguf", scale = 0.5 }
[models.small]
path = "/abs/small.gguf"

[emulators.smol]
description = "for the test"
base = "big"
rewards = [
  { name = "helpful", tuned = "mine", reference = "small", beta = 2, bias = { end=1, unseen=-1, unseen_tokens="u" } },
  { tuned = "small", reference = "small", views = { tuned = "chat:tuned" }, system = { tuned = "Be brief." } },
]
views = { base = "raw", reference = { template = "{{ messages[0].content }}" } }
system = "You help."
template_args = { enable_thinking = false }
sampling = { temperature = 0.7, top_p = 1, seed = 3 }
context = 4096
special_tokens_differ = true
stop = ["###"]
[emulators.alone]
base = "big"
"""

SMALL = '[models.small]\npath = "small.gguf"\n[models.other]\npath = "other.gguf"\n'
REWARD = 'base = "small"\nrewards = [ { tuned = "small", reference = "other"'


@pytest.fixture(autouse=True)
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Hides this machine's configuration from the tests. Returns the path of the user's models.toml."""
    folder = tmp_path / "config"
    monkeypatch.setattr(platformdirs, "user_config_path", lambda name: folder / name)
    monkeypatch.delenv("EFTLOCAL_MODELS", raising=False)
    return folder / "eftlocal" / "models.toml"


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replaces the packaged catalogue with an empty one, so that no test depends on what ships."""
    file = tmp_path / "packaged.toml"
    file.write_text("", encoding="utf-8")
    monkeypatch.setattr(models, "packaged", lambda name: file)
    return file


def loaded(tmp_path: Path, text: str) -> Catalog:
    file = tmp_path / "models.toml"
    file.write_text(text, encoding="utf-8")
    return load(file)


def raised(catalog: Catalog) -> CatalogError:
    """The error of the catalogue's one mistake, which is raised when its entry is asked for."""
    (mistake,) = catalog.mistakes
    if mistake.kind in ("model", "emulator"):
        with pytest.raises(CatalogError) as caught:
            (catalog.model if mistake.kind == "model" else catalog.emulator)(mistake.name)
        assert caught.value.message == mistake.error.message
    return mistake.error


def error(tmp_path: Path, text: str) -> str:
    """The message about the one mistake in `text`, without the file's name."""
    try:
        message = raised(loaded(tmp_path, text)).message
    except CatalogError as told:  # of a file that cannot be read at all
        message = told.message
    prefix = f"{tmp_path / 'models.toml'}: "
    assert message.startswith(prefix) and "\n" not in message
    return message.removeprefix(prefix)


def test_everything_a_models_toml_may_say(tmp_path: Path) -> None:
    catalog = loaded(tmp_path, WHOLE)
    assert catalog.default == ("smol",)
    big, mine, small = catalog.models.values()
    assert big.file == models.HubFile(
        repo="owner/Big-GGUF",
        file="Big-Q4_K_M.gguf",
        revision="v2",
        sha256="2e8040ceae7815abe0dcb3540b9995eaa1fa0d2ca9e797d0a635ae4433c68c2d",
    )
    assert (big.file.size, big.gpu_layers) == (12_000_000, 12)
    assert mine.file == tmp_path / "weights/mine.gguf" and small.file == Path("/abs/small.gguf")
    assert mine.lora == models.Lora(file=tmp_path / "adapter.gguf", scale=0.5)
    emulator = catalog.emulator("smol")
    helpful, brief = emulator.rewards
    assert (helpful.name, helpful.tuned, helpful.reference, helpful.beta) == ("helpful", "mine", "small", 2.0)
    assert (brief.name, brief.beta, dict(brief.system)) == ("small", 1.0, {"tuned": "Be brief."})
    assert brief.views == {"tuned": View("chat", role="tuned")}
    assert emulator.rewards[0].bias == Bias(end=1.0, unseen=-1.0, unseen_tokens=tmp_path / "u")
    assert emulator.rewards[1].bias is None
    assert emulator.views["base"] == View("raw") and emulator.views["tuned"] == View("chat")
    assert emulator.views["reference"] == View("template", template="{{ messages[0].content }}")
    assert emulator.sampling == {"temperature": 0.7, "top_p": 1.0, "seed": 3}
    assert type(emulator.sampling["seed"]) is int and type(emulator.sampling["top_p"]) is float
    assert (emulator.system, emulator.template_args) == ("You help.", {"enable_thinking": False})
    assert (emulator.context, emulator.special_tokens_differ, emulator.stop) == (4096, True, ("###",))


def test_what_an_emulator_does_not_say_has_defaults(tmp_path: Path) -> None:
    alone = loaded(tmp_path, WHOLE).emulator("alone")
    views = {"base": View("transcript"), "tuned": View("chat"), "reference": View("transcript")}
    assert alone == models.Emulator(name="alone", base="big", views=views)


MISTAKES = {
    "top level": ("[model.x]\n", ['model: unknown key; did you mean "models"?']),
    "not a table": ("models = 3\n", ["models: must be a table, not an integer"]),
    "model not a table": ("[models]\nx = 3\n", ["[models.x]: must be a table, not an integer"]),
    "default undefined": (
        'default = "smal"\n[emulators.small]\nbase = "a"\n[models.a]\npath = "a"\n',
        ["default: ", '"small"?'],
    ),
    "default of none": ('default = "x"\n', ['default: no emulator is named "x"; none is defined']),
    "default not text": ("default = 1\n", ["default: must be a string, not an integer"]),
    "model key": ('[models.a]\npth = "x"\n', ['[models.a] pth: unknown key; did you mean "path"?']),
    "model of nothing": ("[models.a]\n", ["[models.a]: needs a path, or a repo and a file"]),
    "model of both": (
        '[models.a]\npath = "x"\nrepo = "a/b"\n',
        ["[models.a] path: ", "either a path, or a repo and a file; this has also repo"],
    ),
    "sha256 of a path": (
        '[models.a]\npath = "x"\nsha256 = "00"\n',
        ["[models.a] path: ", "either a path", "this has also sha256"],
    ),
    "repo alone": ('[models.a]\nrepo = "a/b"\n', ["[models.a] file: is missing"]),
    "file alone": ('[models.a]\nfile = "b.gguf"\n', ["[models.a] repo: is missing"]),
    "repo grammar": ('[models.a]\nrepo = "b"\nfile = "b.gguf"\n', ['[models.a] repo: must be "owner/name", not "b"']),
    "file grammar": ('[models.a]\nrepo = "a/b"\nfile = "b.bin"\n', ["[models.a] file: must be the name of a .gguf"]),
    "file outside": (
        '[models.a]\nrepo = "a/b"\nfile = "../b.gguf"\n',
        ["[models.a] file: must be the name of a .gguf"],
    ),
    "revision outside": (
        '[models.a]\nrepo = "a/b"\nfile = "b.gguf"\nrevision = "../main"\n',
        ['[models.a] revision: must be a commit, branch or tag, not "../main"'],
    ),
    "sha256 grammar": (
        '[models.a]\nrepo = "a/b"\nfile = "b.gguf"\nsha256 = "12"\n',
        ["sha256: must be 64 hexadecimal"],
    ),
    "path empty": ('[models.a]\npath = ""\n', ["[models.a] path: is empty"]),
    "path a number": ("[models.a]\npath = 1.5\n", ["[models.a] path: must be a string, not a number"]),
    "lora not a table": ('[models.a]\npath = "a"\nlora = "b"\n', ["[models.a] lora: must be a table, not a string"]),
    "lora key": (
        '[models.a]\npath = "a"\nlora = { path = "b", scal = 1 }\n',
        ['lora.scal: unknown key; did you mean "scale"?'],
    ),
    "lora without path": (
        '[models.a]\npath = "a"\nlora = { scale = 1 }\n',
        ["[models.a] lora: needs a path, or a repo and a file"],
    ),
    "gpu_layers negative": ('[models.a]\npath = "a"\ngpu_layers = -1\n', ["gpu_layers: must be 0 or more, not -1"]),
    "gpu_layers true": ('[models.a]\npath = "a"\ngpu_layers = true\n', ["must be an integer, not true or false"]),
    "no base": ("[emulators.e]\n", ["[emulators.e] base: is missing"]),
    "base undefined": (
        SMALL + '[emulators.e]\nbase = "smal"\n',
        ['[emulators.e] base: no model is named "smal"; did you mean "small"?'],
    ),
    "reward undefined": (
        SMALL + '[emulators.e]\nbase = "small"\nrewards = [ { tuned = "small", reference = "xyz" } ]\n',
        ['[emulators.e] rewards[0].reference: no model is named "xyz"; expected one of: other, small'],
    ),
    "emulator key": (
        SMALL + '[emulators.e]\nbase = "small"\nrewrads = []\n',
        ["[emulators.e] rewrads: ", '"rewards"?'],
    ),
    "rewards not an array": (
        SMALL + '[emulators.e]\nbase = "small"\nrewards = 1\n',
        ["rewards: must be an array, not an integer"],
    ),
    "reward not a table": (SMALL + '[emulators.e]\nbase = "small"\nrewards = [1]\n', ["rewards[0]: must be a table"]),
    "reward key": (
        SMALL + f"[emulators.e]\n{REWARD}, bta = 1 }} ]\n",
        ['rewards[0].bta: unknown key; did you mean "beta"?'],
    ),
    "reward twice": (
        SMALL + f'[emulators.e]\n{REWARD} }}, {{ tuned = "small", reference = "other" }} ]\n',
        ['rewards[1].name: two rewards are named "small"'],
    ),
    "reward name for --mix": (SMALL + f'[emulators.e]\n{REWARD}, name = "a=b" }} ]\n', ["rewards[0].name: ", "--mix"]),
    "beta nan": (
        SMALL + f"[emulators.e]\n{REWARD}, beta = nan }} ]\n",
        ["rewards[0].beta: must be a finite number, not nan"],
    ),
    "bias key": (
        SMALL + f"[emulators.e]\n{REWARD}, bias = {{ ende = 1 }} }} ]\n",
        ["[emulators.e] rewards[0].bias.ende: unknown key", '"end"?'],
    ),
    "bias text": (SMALL + f"[emulators.e]\n{REWARD}, bias = 1 }} ]\n", ["rewards[0].bias: must be a table"]),
    "bias infinite": (
        SMALL + f"[emulators.e]\n{REWARD}, bias = {{ end = inf }} }} ]\n",
        ["bias.end: must be a f"],
    ),
    "bias without tokens": (
        SMALL + f"[emulators.e]\n{REWARD}, bias = {{ unseen = 1 }} }} ]\n",
        ["bias.unseen_tokens: is missing: the file"],
    ),
    "bias of tokens": (
        SMALL + f'[emulators.e]\n{REWARD}, bias = {{ unseen_tokens = "x.txt" }} }} ]\n',
        ["bias.unseen: is missing"],
    ),
    "bias of nothing": (
        SMALL + f"[emulators.e]\n{REWARD}, beta = 0, bias = {{ end = 1 }} }} ]\n",
        ["rewards[0].bias: has no effect: beta is 0"],
    ),
    "beta infinite": (SMALL + f"[emulators.e]\n{REWARD}, beta = -inf }} ]\n", ["must be a finite number, not -inf"]),
    "beta too long": (
        SMALL + f"[emulators.e]\n{REWARD}, beta = 1{'0' * 400} }} ]\n",
        ["must be a finite number, not inf"],
    ),
    "beta text": (SMALL + f'[emulators.e]\n{REWARD}, beta = "1" }} ]\n', ["beta: must be a number, not a string"]),
    "reward view role": (
        SMALL + f'[emulators.e]\n{REWARD}, views = {{ base = "raw" }} }} ]\n',
        ["rewards[0].views.base: unknown key"],
    ),
    "reward system": (
        SMALL + f"[emulators.e]\n{REWARD}, system = {{ tuned = 1 }} }} ]\n",
        ["system.tuned: must be a string"],
    ),
    "view": (
        SMALL + '[emulators.e]\nbase = "small"\nviews = { base = "chta" }\n',
        ['views.base: unknown view "chta"; did you mean "chat"?'],
    ),
    "view of Jinja without its table": (
        SMALL + '[emulators.e]\nbase = "small"\nviews = { base = "{{ messages }}" }\n',
        ['views.base: unknown view; write a template as { template = "..." }'],
    ),
    "view role": (
        SMALL + '[emulators.e]\nbase = "small"\nviews = { base = "chat:tund" }\n',
        ['views.base: unknown role "tund" in the view "chat:tund"; did you mean "tuned"?'],
    ),
    "view of no role": (SMALL + '[emulators.e]\nbase = "small"\nviews = { base = "chat:" }\n', ['unknown role ""']),
    "view raw of a role": (SMALL + '[emulators.e]\nbase = "small"\nviews = { base = "raw:base" }\n', ["unknown view"]),
    "view table": (
        SMALL + '[emulators.e]\nbase = "small"\nviews = { base = { tmplate = "x" } }\n',
        ["views.base: ", "{ template"],
    ),
    "view number": (
        SMALL + '[emulators.e]\nbase = "small"\nviews = { base = 1 }\n',
        ["views.base: a view must be a string or"],
    ),
    "view of nobody": (
        SMALL + '[emulators.e]\nbase = "small"\nviews = { bas = "raw" }\n',
        ['views.bas: unknown key; did you mean "base"?'],
    ),
    "sampling key": (
        SMALL + '[emulators.e]\nbase = "small"\nsampling = { tempreture = 1 }\n',
        ['[emulators.e] sampling.tempreture: unknown key; did you mean "temperature"?'],
    ),
    "sampling type": (
        SMALL + '[emulators.e]\nbase = "small"\nsampling = { top_k = 1.5 }\n',
        ["sampling.top_k: must be an integer"],
    ),
    "sampling nan": (
        SMALL + '[emulators.e]\nbase = "small"\nsampling = { top_p = nan }\n',
        ["sampling.top_p: must be a finite"],
    ),
    "context negative": (
        SMALL + '[emulators.e]\nbase = "small"\ncontext = -1\n',
        ["context: must be 1 or more, not -1"],
    ),
    "differ text": (
        SMALL + '[emulators.e]\nbase = "small"\nspecial_tokens_differ = "no"\n',
        ["must be true or false, not a string"],
    ),
    "stop a string": (SMALL + '[emulators.e]\nbase = "small"\nstop = "x"\n', ["stop: must be an array, not a string"]),
    "stop empty": (SMALL + '[emulators.e]\nbase = "small"\nstop = ["a", ""]\n', ["stop[1]: is empty"]),
    "date": (
        SMALL + '[emulators.e]\nbase = "small"\nsystem = 2026-01-01\n',
        ["system: must be a string, not a date or time"],
    ),
    "toml": ("a = 1\nb = = 2\n", ["is not valid TOML", "line 2, column 5"]),
    "toml twice": ("[models.a]\n[models.a]\n", ["is not valid TOML", "Cannot declare [models.a] twice"]),
    "toml path": ('[models.a]\npath = "C:\\Users"\n', ["is not valid TOML", "line 2", "needs 'single quotes'"]),
    "toml drive": ('[models.a]\npath = "D:\\models"\n', ["is not valid TOML", "line 2", "needs 'single quotes'"]),
    "default last": (f'{SMALL}default = "e"\n', ["default: unknown key; it belongs above the first [table]"]),
    "toml unfinished": ("[models.a]\npath = '''x", ["is not valid TOML", "line 2, column 12"]),
    "toml nested": ("a = " + "[" * 20_000, ["is not valid TOML"]),
    "toml long number": ("a = 1" + "0" * 5000, ["is not valid TOML"]),
    "control codes": ('"\\u001b[2J\\n" = 1\n', ["\\x1b[2J\\n: unknown key"]),
    "empty": ("# nothing\n", ["defines nothing"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_with_table_key_and_the_right_name(mistake: str, tmp_path: Path) -> None:
    text, parts = MISTAKES[mistake]
    message = error(tmp_path, text)
    for part in parts:
        assert part in message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"a = '\xff'")
    cases = {
        tmp_path / "none.toml": "no such file",
        tmp_path: "is a folder",
        binary: "is not UTF-8 text: byte 5 is 0xff",
        Path("a\0b"): "cannot be read",
        tmp_path / "binary.toml" / "x": "cannot be read",
    }
    for file, problem in cases.items():
        with pytest.raises(CatalogError, match=problem):
            load(file)


def test_a_file_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, encoding: str) -> str:  # tests may run as root, which may read every file
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(CatalogError, match="cannot be read: Permission denied"):
        load(tmp_path / "secret.toml")


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    assert loaded(tmp_path, "\ufeff" + SMALL).models


def test_later_files_add_and_override_by_name(
    bare: Path, users: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare.write_text(SMALL + 'default = "e"\n[emulators.e]\nbase = "small"\nsystem = "x"\n'.replace("default", "#"))
    users.parent.mkdir(parents=True)
    users.write_text('default = "e"\n[models.small]\npath = "users.gguf"\n')
    extra = tmp_path / "extra.toml"
    extra.write_text('[emulators.e]\nbase = "new"\n[models.new]\npath = "new.gguf"\n')
    assert load().default == ("e",) and load().emulator("e").system == "x"
    assert load().model("small").file == users.parent / "users.gguf"
    assert load(extra).emulator("e") == models.Emulator(
        name="e", base="new"
    )  # the whole entry is replaced, not single keys
    monkeypatch.setenv("EFTLOCAL_MODELS", str(extra))
    assert load().emulator("e").base == "new"
    assert load(users).emulator("e").base == "small"  # --models has priority over the variable


def test_a_reference_is_blamed_on_the_file_that_holds_it(bare: Path, tmp_path: Path) -> None:
    bare.write_text('[emulators.e]\nbase = "small"\n')
    assert loaded(tmp_path, SMALL).emulator("e").base == "small"
    with pytest.raises(CatalogError, match=r"packaged.toml: \[emulators.e\] base: no model"):
        loaded(tmp_path, '[models.x]\npath = "x"\n').emulator("e")


BROKEN = """
[models.good]
path = "a.gguf"
[models.bad]
pth = "b.gguf"
[emulators.fine]
base = "good"
[emulators.wrong]
bse = "good"
[emulators.uses]
base = "good"
rewards = [{ tuned = "bad", reference = "good" }]
"""


def test_a_mistake_breaks_its_entry_alone(tmp_path: Path) -> None:
    catalog = loaded(tmp_path, BROKEN)
    assert set(catalog.models) == {"good"} and set(catalog.emulators) == {"fine"}
    with pytest.raises(CatalogError, match=r'models.toml: \[models.bad\] pth: unknown key; did you mean "path"'):
        catalog.model("bad")
    with pytest.raises(CatalogError, match=r'\[emulators.wrong\] bse: unknown key; did you mean "base"'):
        catalog.emulator("wrong")
    with pytest.raises(CatalogError, match=r"\[models.bad\] pth: unknown key") as caught:
        catalog.emulator("uses")
    assert caught.value.hint == 'The emulator "uses" uses this model.'
    with pytest.raises(CatalogError, match=r"\[models.bad\] pth: unknown key"):
        catalog.with_trio("good", "bad", "good")
    with pytest.raises(CatalogError, match='no emulator is named "wrng"; did you mean "wrong"'):
        catalog.emulator("wrng")
    assert [line.partition("models.toml: ")[2] for line in catalog.lines()] == [
        '[models.bad] pth: unknown key; did you mean "path"? (so uses cannot be used)',
        '[emulators.wrong] bse: unknown key; did you mean "base"?',
    ]
    assert catalog.lines(without="uses") == catalog.lines()[1:] and len(catalog.lines(without="fine")) == 2
    assert catalog.lines_for("fine") == catalog.lines_for(None) == []


def test_an_emulator_may_name_the_address_of_a_server_as_its_base(tmp_path: Path) -> None:
    models = '[models.s]\npath = "s"\n[emulators.far]\nrewards = [{ tuned = "s", reference = "s" }]\nbase = '
    catalog = loaded(tmp_path, models + '"http://127.0.0.1:8080/v1"\n')
    server = catalog.model(catalog.emulator("far").base).server
    assert server is not None and server.url == "http://127.0.0.1:8080"
    with pytest.raises(
        CatalogError, match=r"models.toml: \[emulators.far\] base: http://10.0.0.7:8 is another"
    ) as caught:
        loaded(tmp_path, models + '"http://10.0.0.7:8"\n').emulator("far")
    assert "insecure = true" in (caught.value.hint or "")


def test_an_emulator_with_a_broken_model_says_what_to_do_about_the_model(tmp_path: Path) -> None:
    catalog = loaded(tmp_path, '[models.big]\nurl = "http://10.0.0.7:8080"\n[emulators.lan]\nbase = "big"\n')
    with pytest.raises(CatalogError, match="http does not encrypt what is sent") as caught:
        catalog.emulator("lan")
    hint = caught.value.hint or ""
    assert "`insecure = true` in models.toml allows it. " in hint and hint.endswith('"lan" uses this model.')
    assert len(str(caught.value).splitlines()) == 2


def test_a_broken_entry_hides_the_one_that_it_replaces_and_a_good_one_replaces_it(
    bare: Path, users: Path, tmp_path: Path
) -> None:
    bare.write_text(SMALL + '[emulators.e]\nbase = "small"\n[emulators.f]\nbase = "other"\n')
    users.parent.mkdir(parents=True)
    users.write_text('[emulators.e]\nbase = 3\n[models.other]\npath = ""\n')
    catalog = load()
    for name in "ef":
        with pytest.raises(CatalogError, match=r"config/eftlocal/models\.toml: "):
            catalog.emulator(name)
    assert loaded(tmp_path, '[emulators.e]\nbase = "small"\n').emulator("e").base == "small"
    assert [m.name for m in loaded(tmp_path, '[emulators.e]\nbase = "small"\n').mistakes] == ["other"]


@pytest.mark.parametrize("content", [b"[models.x", b"\xff", b"a = \n"])
def test_a_users_file_that_cannot_be_read_leaves_the_rest(
    content: bytes, bare: Path, users: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare.write_text(SMALL + 'default = "e"\n[emulators.e]\nbase = "small"\n'.replace("default", "#"))
    users.parent.mkdir(parents=True)
    users.write_bytes(content)
    catalog = loaded(tmp_path, '[models.new]\npath = "x"\n')
    assert set(catalog.models) == {"small", "other", "new"} and catalog.emulator("e").base == "small"
    (line,) = catalog.lines_for("e")
    assert line.startswith(str(users)) and catalog.lines_for(None) == catalog.lines() == [line]
    for ask in (catalog.model, catalog.emulator):
        with pytest.raises(CatalogError, match=r'named "gone"') as caught:
            ask("gone")
        assert f"may be in a part of {users} that cannot be read" in str(caught.value.hint)
    with pytest.raises(CatalogError, match="no default") as caught:
        catalog.emulator(None)
    assert str(users) in str(caught.value.hint)
    with pytest.raises(CatalogError):  # a file that the user names must be readable
        load(users)
    monkeypatch.setenv("EFTLOCAL_MODELS", str(users))
    with pytest.raises(CatalogError, match="EFTLOCAL_MODELS: "):
        load()


def test_what_is_wrong_at_the_top_level_leaves_the_rest(users: Path, tmp_path: Path) -> None:
    users.parent.mkdir(parents=True)
    users.write_text("x = 1\nmodels = 3\n")
    catalog = loaded(tmp_path, 'x = 1\n[models.m]\npath = "m"\n')
    assert [(m.kind, m.name) for m in catalog.mistakes] == [("key", "x"), ("key", "models"), ("key", "x")]
    assert "config/eftlocal/models.toml: x: unknown key" in catalog.lines()[0]
    assert catalog.model("m").name == "m" and len(catalog.lines_for("m")) == 3


@pytest.mark.parametrize(
    ("users_default", "told"),
    [
        ('"gone"', 'default: no emulator is named "gone"; expected one of: e (the next default is used)'),
        ('["gone", "wrong"]', "default: no emulator"),
        ('"wrong"', "[emulators.wrong] base: must be a string, not an integer (the next default is used)"),
        ('"uses"', "(so uses cannot be used; the next default is used)"),
        ("3", "default: must be a string"),
    ],
)
def test_a_default_that_cannot_be_used_is_told_and_the_next_is_used(
    users_default: str, told: str, bare: Path, users: Path
) -> None:
    bare.write_text('default = "e"\n' + SMALL + '[emulators.e]\nbase = "small"\n')
    users.parent.mkdir(parents=True)
    broken = '[models.bad]\n[emulators.wrong]\nbase = 3\n[emulators.uses]\nbase = "bad"\n'
    users.write_text(f"default = {users_default}\n{broken}")
    catalog = load()
    assert catalog.default == ("e",) and catalog.emulator(None).name == "e"
    assert any(told in line for line in catalog.lines_for(None)) and catalog.lines_for("e") == []
    users.write_text(f'default = ["gone", "mine"]\n{broken}[emulators.mine]\nbase = "small"\n')
    assert load().emulator(None).name == "mine" and '"gone"' in load().lines_for(None)[0]


VALUES = ("3", '"x"', "true", "[]", "{}", "nan", "[1]", '""', '{ path = "x" }', "1979-05-27", '"hf:a"', '"chat:x"')


def damaged(text: str, draw: random.Random) -> str:
    """The text with some lines dropped, values and keys replaced, and characters changed."""
    lines = text.splitlines()
    for _ in range(draw.randrange(1, 5)):
        i = draw.randrange(len(lines))
        key, equals, _ = lines[i].partition(" = ")
        j = draw.randrange(len(lines[i]) + 1)
        choices = ["", lines[i].replace("s.", "s.z", 1), lines[i][:j] + draw.choice('"[]={}#x') + lines[i][j + 1 :]]
        choices += [f"{key} = {draw.choice(VALUES)}", f"x{lines[i]}"] * bool(equals)
        lines[i] = draw.choice(choices)
    return "\n".join(lines)


def test_whatever_is_wrong_in_a_users_file_each_entry_is_there_or_its_error_is_raised(bare: Path, users: Path) -> None:
    bare.write_text(SMALL + 'default = "e"\n[emulators.e]\nbase = "small"\n'.replace("default", "#"))
    users.parent.mkdir(parents=True)
    draw, kinds = random.Random(4), set()
    for _ in range(250):
        users.write_text(text := damaged(WHOLE + BROKEN, draw))
        catalog = load()
        kinds |= {mistake.kind for mistake in catalog.mistakes}
        assert all(catalog.model(name) for emulator in catalog.emulators.values() for name in emulator.models)
        if any(mistake.kind == "file" for mistake in catalog.mistakes):
            assert set(catalog.models) == {"small", "other"} and set(catalog.emulators) == {"e"}
            continue
        defined = tomllib.loads(text)
        for kind, ask in (("models", catalog.model), ("emulators", catalog.emulator)):
            for name in defined.get(kind, {}) if isinstance(defined.get(kind, {}), dict) else ():
                try:
                    assert ask(name).name == name
                except CatalogError as error:
                    assert any(
                        name in (m.name, *m.breaks) and m.error.message == error.message for m in catalog.mistakes
                    )
    assert kinds == {"file", "key", "default", "model", "emulator"}


def test_a_name_that_nothing_has(tmp_path: Path) -> None:
    catalog = loaded(tmp_path, WHOLE)
    with pytest.raises(CatalogError, match='no emulator is named "Smoll"; did you mean "smol"'):
        catalog.emulator("Smoll")
    with pytest.raises(CatalogError, match='no model is named "bigg"; did you mean "big"'):
        catalog.model("bigg")


def test_local_path_says_which_file_is_missing(tmp_path: Path) -> None:
    catalog = loaded(tmp_path, WHOLE)
    with pytest.raises(CatalogError, match=r"models.toml: \[models.big\]: Big-Q4_K_M.gguf of .* not downloaded yet"):
        local_path(catalog.model("big"))
    with pytest.raises(CatalogError, match=r"\[models.mine\] lora: .*adapter.gguf does not exist"):
        models.local_lora(catalog.model("mine"))
    (tmp_path / "adapter.gguf").touch()
    with pytest.raises(CatalogError, match=r"\[models.mine\] path: .*mine.gguf does not exist"):
        local_path(catalog.model("mine"))
    (tmp_path / "weights" / "mine.gguf").mkdir(parents=True)
    with pytest.raises(CatalogError, match=r"\[models.mine\] path: .*mine.gguf is a folder"):
        local_path(catalog.model("mine"))
    (tmp_path / "weights" / "mine.gguf").rmdir()
    (tmp_path / "weights" / "mine.gguf").touch()
    assert local_path(catalog.model("mine")) == tmp_path / "weights" / "mine.gguf"
    with pytest.raises(CatalogError, match=r'model "odd": .* cannot be read'):
        local_path(Model(name="odd", file=Path("a\0b")))


NAMED_IN_PLACE = """
[emulators.e]
base = "hf:owner/Big-GGUF/sub/Big-Q4_K_M.gguf@v1.0"
rewards = [{ tuned = "weights/small.gguf", reference = "/abs/small.gguf" }]
"""


def test_a_model_may_be_named_by_its_file_where_it_is_used(tmp_path: Path) -> None:
    catalog = loaded(tmp_path, NAMED_IN_PLACE)
    base, tuned, reference = (catalog.model(name).file for name in catalog.emulator("e").models)
    assert base == models.HubFile(repo="owner/Big-GGUF", file="sub/Big-Q4_K_M.gguf", revision="v1.0")
    assert str(base) == "hf:owner/Big-GGUF/sub/Big-Q4_K_M.gguf@v1.0"
    assert (tuned, reference) == (tmp_path / "weights/small.gguf", Path("/abs/small.gguf"))
    for wrong in ("hf:owner/Big-GGUF", "hf:owner/Big-GGUF/x.bin", "hf:Big.gguf", "hf:a/b/../c.gguf"):
        catalog = loaded(tmp_path, NAMED_IN_PLACE.replace("hf:owner/Big-GGUF/sub/Big-Q4_K_M.gguf@v1.0", wrong))
        with pytest.raises(CatalogError, match=r"\[emulators.e\] base: .* does not name a .gguf file in a repository"):
            catalog.emulator("e")


def test_three_models_make_an_emulator_without_a_models_toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    catalog = loaded(tmp_path, WHOLE).with_trio("big", "hf:a/b/c.gguf", "small.gguf")
    trio = catalog.emulator(None)
    assert trio.models == ("big", "hf:a/b/c.gguf", "small.gguf") and trio.rewards[0].beta == 1.0
    assert catalog.model("small.gguf").file == tmp_path / "small.gguf"
    assert catalog.with_trio("small").emulator(None).models == ("small",)
    with pytest.raises(CatalogError, match="a tuned model was named, but no reference model"):
        catalog.with_trio("big", tuned="small")
    with pytest.raises(CatalogError, match='no model is named "smal"; did you mean "small"'):
        catalog.with_trio("smal")


def test_the_default_is_the_first_whose_models_are_here_else_the_last(tmp_path: Path) -> None:
    emulators = "".join(f'[emulators.{m}]\nbase = "{m}.gguf"\n' for m in "abc")
    catalog = loaded(tmp_path, f'default = ["a", "b", "c"]\n{emulators}')
    assert catalog.emulator(None).name == "c"
    (tmp_path / "b.gguf").touch()
    assert catalog.emulator(None).name == "b"
    (tmp_path / "a.gguf").touch()
    assert catalog.emulator(None).name == "a"
    wrong = loaded(tmp_path, f'default = ["a", "d"]\n{emulators}')
    assert 'default: no emulator is named "d"; expected one of: a, b, c' in raised(wrong).message
    for value in ("[]", "[1]", "3"):
        assert "default: must be " in raised(loaded(tmp_path, f"default = {value}\n{emulators}")).message


def test_sampling_takes_what_the_sampler_and_its_loop_take() -> None:
    fields = {f.name: type(f.default) for f in dataclasses.fields(Sampling) if f.name != "logit_bias"}
    fields |= {"max_tokens": int, "seed": int, "reward_top_p": float}
    assert fields == dict.fromkeys(SAMPLING_FLOATS, float) | dict.fromkeys(SAMPLING_INTEGERS, int)


def test_views_have_one_grammar() -> None:
    assert [parse_view(v) for v in ("chat", "transcript", "raw")] == [View("chat"), View("transcript"), View("raw")]
    assert parse_view("chat:reference") == View("chat", role="reference")
    assert parse_view({"template": "x"}) == View("template", template="x")


def test_what_ships_is_found_and_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "packaged", packaged)
    assert packaged("models.toml").name == "models.toml"
    assert load().emulator("demo").models[0] in load().models and load().mistakes == ()
    with pytest.raises(CatalogError, match="ships with eftlocal is missing"):
        packaged("demo/none.gguf")
