"""Tests of listings, of the cache, and of each failure of the Hub, which is told in one line and a hint."""

import json
import logging
import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants, hf_hub_download, scan_cache_dir

from eftlocal.catalog import hub
from eftlocal.errors import HubError
from tests.hub_server import HubServer, model

REPO = "owner/Model-GGUF"
SECRET = "hf_thisIsTheTokenThatNobodyMaySee"
FILES = {
    "Model-Q4_K_M.gguf": model(100, 1),
    "Model-Q8_0.gguf": model(200, 2),
    "Model.i1-IQ3_XXS.gguf": model(90, 3),
    "Model-UD-Q4_K_XL.gguf": model(110, 4),
    "model_f16.gguf": model(400, 5),
    "mmproj-Model-BF16.gguf": model(50, 6),
    "big/Model-Q6_K-00001-of-00003.gguf": model(300, 7),
    "big/Model-Q6_K-00002-of-00003.gguf": model(301, 8),
    "big/Model-Q6_K-00003-of-00003.gguf": model(302, 9),
    "README.md": b"# Model",
}
PARTS = tuple(f"big/Model-Q6_K-0000{i}-of-00003.gguf" for i in (1, 2, 3))


@pytest.fixture
def repository(server: HubServer) -> hub.Repository:
    server.add(REPO, FILES, in_git=("README.md",), licence="apache-2.0")
    return hub.repository(REPO)


# --- what a repository holds ------------------------------------------------------------------------------------------


def test_a_repository_is_pinned_to_a_commit_and_knows_its_files(server: HubServer, repository: hub.Repository) -> None:
    assert repository.commit == server.repositories[REPO].refs["main"]
    assert {file.name: file.size for file in repository.files} == {name: len(data) for name, data in FILES.items()}
    assert (repository.gated, repository.licence) == (False, "apache-2.0")
    assert repository.file("README.md").sha256 is None
    assert repository.quantizations == ("Q4_K_M", "Q8_0", "IQ3_XXS", "UD-Q4_K_XL", "F16", "Q6_K")


def test_a_revision_is_a_commit_a_branch_or_a_tag(server: HubServer) -> None:
    old = server.add(REPO, {"a.gguf": model(10)}, refs=("main", "v1"))
    new = server.add(REPO, {"a.gguf": model(11)}, refs=("main", "refs/pr/1"))
    assert [hub.repository(REPO, revision).commit for revision in (None, "main", "refs/pr/1", "v1", old)] == [
        *(new, new, new, old, old)
    ]


@pytest.mark.parametrize("part", PARTS)
def test_any_part_of_a_split_file_gives_all_of_them(repository: hub.Repository, part: str) -> None:
    assert tuple(file.name for file in repository.parts(part)) == PARTS


def test_a_file_that_is_not_split_is_its_own_one_part(repository: hub.Repository) -> None:
    assert repository.parts("Model-Q8_0.gguf") == (repository.file("Model-Q8_0.gguf"),)


def test_a_missing_part_is_an_error(server: HubServer) -> None:
    server.add(REPO, {name: data for name, data in FILES.items() if name != PARTS[1]})
    with pytest.raises(HubError, match=f"has only 2 of 3 shards of the model: {PARTS[1]} is missing"):
        hub.repository(REPO).parts(PARTS[0])


def test_a_wrong_file_name_is_answered_with_the_nearest_and_the_quantizations(repository: hub.Repository) -> None:
    with pytest.raises(HubError) as error:
        repository.file("model-q4_k_m.gguf")
    assert error.value.message == (
        "owner/Model-GGUF has no file 'model-q4_k_m.gguf';"
        " the nearest: Model-Q4_K_M.gguf, Model-UD-Q4_K_XL.gguf, Model-Q8_0.gguf"
    )
    assert error.value.hint == "it offers Q4_K_M, Q8_0, IQ3_XXS, UD-Q4_K_XL, F16, Q6_K"


def test_a_repository_without_models_says_so(server: HubServer) -> None:
    server.add("owner/Model", {"model.safetensors": b"weights"})
    with pytest.raises(HubError, match=r"has no file 'Model\.gguf'\n") as error:
        hub.repository("owner/Model").file("Model.gguf")
    assert "it has no GGUF file at all" in str(error.value.hint)


# --- what the cache holds ---------------------------------------------------------------------------------------------


def test_nothing_is_cached_where_there_is_no_cache(server: HubServer) -> None:
    assert hub.cached(REPO, "Model-Q8_0.gguf") is None
    assert hub.cached_files() == ()
    assert hub.remove(REPO, ["Model-Q8_0.gguf"]) == 0
    assert hub.free_bytes(hub.cache_folder()) > 0
    assert server.requests == []


def test_a_split_file_is_cached_when_all_its_parts_are(repository: hub.Repository) -> None:
    for part in PARTS:
        assert hub.cached(REPO, part) is None
        hub.download(repository, part)
    first = hub.cached(REPO, PARTS[2])
    assert first is not None
    assert first.name == "Model-Q6_K-00001-of-00003.gguf"
    assert [(file.file, file.size) for file in hub.cached_files()] == [(part, len(FILES[part])) for part in PARTS]


def test_cached_honours_the_revision_and_takes_the_newest_for_none(server: HubServer, home: Path) -> None:
    old = server.add(REPO, {"a.gguf": model(10), "b.gguf": model(12)}, refs=("main", "v1"))
    first = hub.download(hub.repository(REPO, "v1"), "a.gguf")
    assert hub.cached(REPO, "a.gguf") == first  # main was not asked for yet
    assert hub.cached(REPO, "a.gguf", "main") is None
    new = server.add(REPO, {"a.gguf": model(11)})
    second = hub.download(hub.repository(REPO), "a.gguf")
    assert second != first
    assert hub.cached(REPO, "a.gguf", "v1") == hub.cached(REPO, "a.gguf", old) == first
    assert hub.cached(REPO, "a.gguf") == hub.cached(REPO, "a.gguf", new) == second
    assert hub.cached(REPO, "a.gguf", "v2") is hub.cached(REPO, "a.gguf", "0" * 40) is None
    os.utime(first, (1, 1), follow_symlinks=False)
    (home / "hub" / "models--owner--Model-GGUF" / "refs" / "main").unlink()
    assert hub.cached(REPO, "a.gguf") == second


def test_removing_frees_only_what_no_other_snapshot_uses(server: HubServer, home: Path) -> None:
    kept, changed = model(1000, 1), model(2000, 2)
    server.add(REPO, {"kept.gguf": kept, "changed.gguf": changed}, refs=("main", "v1"))
    old = hub.repository(REPO, "v1")
    for file in ("kept.gguf", "changed.gguf"):
        hub.download(old, file)
    server.add(REPO, {"kept.gguf": kept, "changed.gguf": model(3000, 3), "copy.gguf": kept})
    new = hub.repository(REPO)
    for file in ("kept.gguf", "changed.gguf", "copy.gguf"):
        hub.download(new, file)
    assert [file.size for file in hub.cached_files() if file.file == "kept.gguf"] == [1000]
    assert hub.remove(REPO, ["kept.gguf"]) == 0  # copy.gguf has the same bytes
    assert hub.cached(REPO, "kept.gguf") is None
    assert hub.cached(REPO, "copy.gguf") is not None
    assert hub.remove(REPO, ["changed.gguf"], "v1") == 2000
    assert hub.cached(REPO, "changed.gguf", "v1") is None
    assert hub.cached(REPO, "changed.gguf") is not None
    assert scan_cache_dir(home / "hub").warnings == []
    assert hub.remove(REPO, ["changed.gguf", "copy.gguf"]) == 4000
    assert not (home / "hub" / "models--owner--Model-GGUF").exists()
    assert scan_cache_dir(home / "hub").warnings == []


def test_removing_takes_unfinished_downloads_along_and_leaves_those_of_others(
    server: HubServer, repository: hub.Repository, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eftlocal.catalog.hub.transfer.PAUSES", ())
    hub.download(repository, "Model-Q8_0.gguf")
    server.faults.cuts = [40]
    with pytest.raises(HubError):
        hub.download(repository, "Model-Q4_K_M.gguf")
    assert hub.remove(REPO, ["Model-Q8_0.gguf"]) == 200  # it is complete, so the unfinished download is another file's
    assert hub.part_bytes(repository, "Model-Q4_K_M.gguf") == hub.unfinished_bytes(REPO) == hub.unfinished_bytes() == 40
    assert scan_cache_dir(home / "hub").warnings == []
    assert hub.remove(REPO, ["Model-Q4_K_M.gguf"]) == 40
    assert not (home / "hub" / "models--owner--Model-GGUF").exists()


def test_a_dangling_link_is_no_model_and_is_cleared_away(repository: hub.Repository, home: Path) -> None:
    path = hub.download(repository, "Model-Q8_0.gguf")
    hub.download(repository, "Model-Q4_K_M.gguf")
    path.resolve().unlink()
    assert hub.cached(REPO, "Model-Q8_0.gguf") is None
    assert hub.remove(REPO, ["Model-Q4_K_M.gguf"]) == 100
    assert not (home / "hub" / "models--owner--Model-GGUF").exists()


# --- what the Hub refuses ---------------------------------------------------------------------------------------------


def told(call: Callable[[], object]) -> tuple[str, str | None]:
    with pytest.raises(HubError) as error:
        call()
    assert "\n" not in error.value.message + str(error.value.hint)
    return error.value.message, error.value.hint


def test_no_such_repository(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(lambda: hub.repository("owner/none")) == (
        f"there is no repository owner/none at {server.url}, or it is private",
        "check its name; if it is private, run `hf auth login` or set HF_TOKEN",
    )
    assert told(lambda: hub.repository("no name")) == (
        "'no name' is not the name of a repository",
        "write it as owner/name",
    )
    monkeypatch.setenv("HF_TOKEN", SECRET)  # with a valid token the Hub would answer 404, so this token is not valid
    assert told(lambda: hub.repository("owner/none"))[0] == "127.0.0.1 refuses the token of the variable HF_TOKEN"


def test_no_such_revision(server: HubServer) -> None:
    server.add(REPO, FILES)
    message, hint = told(lambda: hub.repository(REPO, "v9"))
    assert message == "owner/Model-GGUF has no revision 'v9'"
    assert (
        hint == f"{server.url}/owner/Model-GGUF/tree/main shows its branches and tags; without a revision, main is used"
    )


def test_a_file_that_went_away_between_listing_and_download(server: HubServer, repository: hub.Repository) -> None:
    server.repositories[REPO].commits[repository.commit].pop("Model-Q8_0.gguf")
    assert told(lambda: hub.download(repository, "Model-Q8_0.gguf"))[0] == "owner/Model-GGUF no longer has that file"


def test_a_gated_repository_says_where_to_accept_and_how_to_log_in(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("owner/gated", FILES, gated=True)
    repository = hub.repository("owner/gated")
    assert repository.gated
    message = "owner/gated is gated: its licence must be accepted first"
    hint = f"accept it at {server.url}/owner/gated, "
    call = lambda: hub.download(repository, "Model-Q8_0.gguf")  # noqa: E731
    assert told(call) == (message, hint + "then run `hf auth login` or set HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert told(call) == (message, hint + "with the account of the token of the variable HF_TOKEN")
    server.tokens.add(SECRET)
    assert hub.download(repository, "Model-Q8_0.gguf").read_bytes() == FILES["Model-Q8_0.gguf"]


@pytest.mark.parametrize(
    ("status", "message", "hint"),
    [
        (403, "127.0.0.1 refuses access to owner/Model-GGUF without a token", "shows what a token may do"),
        (404, "127.0.0.1 answers 404 Not Found for owner/Model-GGUF", "None"),
        (429, "127.0.0.1 got too many requests", "try again in a few minutes; a login allows more requests"),
        (500, "127.0.0.1 has a problem: it answers 500", "try again later"),
        (503, "127.0.0.1 has a problem: it answers 503", "try again later"),
    ],
)
def test_a_status_in_words(
    server: HubServer, repository: hub.Repository, monkeypatch: pytest.MonkeyPatch, status: int, message: str, hint: str
) -> None:
    monkeypatch.setattr("eftlocal.catalog.hub.transfer.PAUSES", (0.0,))
    server.faults.status = server.faults.status_of_api = status
    for call in (lambda: hub.download(repository, "Model-Q8_0.gguf"), lambda: hub.repository(REPO)):
        said, what_to_do = told(call)
        assert said == message
        assert hint in str(what_to_do)
    assert len(server.asked("hub")) == 3 + (status >= 500)  # only a 5xx answer is tried again


def test_a_web_page_in_place_of_the_api(server: HubServer) -> None:
    server.faults.page = "api"
    message, hint = told(lambda: hub.repository(REPO))
    assert message == f"{server.url} answers with something that is not from the Hub"
    assert hint == "a proxy or a login page may stand in between: open the address in a browser, then try again"
    assert hub.reachable() == message


def test_a_web_page_in_place_of_what_the_client_asks_for(server: HubServer, repository: hub.Repository) -> None:
    server.faults.page = "file"
    message, hint = told(lambda: hub.download(repository, "Model-Q8_0.gguf", xet=True))
    assert message == f"{server.url} answers with something that is not from the Hub"
    assert "login page" in str(hint)
    assert hub.cached_files() == ()


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ("hub.example", "cannot reach hub.example: Request URL is missing an 'http://' or 'https://' protocol."),
        ("http://hub:here", "http://hub:here is not a valid address: Invalid port: 'here'"),
    ],
)
def test_an_endpoint_that_is_no_address(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, endpoint: str, message: str
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    assert told(lambda: hub.repository(REPO))[0] == message


@pytest.mark.parametrize(
    "answer", [[], {}, {"sha": "../../x"}, {"sha": "0" * 40, "siblings": [{"rfilename": "a.gguf"}]}]
)
def test_json_that_describes_no_repository(server: HubServer, monkeypatch: pytest.MonkeyPatch, answer: object) -> None:
    monkeypatch.setattr("tests.hub_server.json.dumps", lambda content: json.JSONEncoder().encode(answer))
    server.add(REPO, FILES)
    assert told(lambda: hub.repository(REPO))[0].startswith(f"{server.url} answers with ")


def test_no_network_gives_the_cause_and_the_cache_still_works(
    server: HubServer, repository: hub.Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eftlocal.catalog.hub.transfer.PAUSES", ())
    path = hub.download(repository, "Model-Q8_0.gguf")
    assert hub.reachable() is None
    server.close()
    message, hint = told(lambda: hub.repository(REPO))
    assert message.startswith("cannot reach 127.0.0.1: ")
    assert "refused" in message
    assert hint == "check the network; models that are already downloaded work without a network"
    assert told(lambda: hub.download(repository, "Model-Q4_K_M.gguf"))[0] == message
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        assert told(lambda: hub.download(repository, "Model-Q4_K_M.gguf", xet=True))[0] == message
    assert hub.reachable() == message
    assert hub.cached(REPO, "Model-Q8_0.gguf") == path
    assert hub.download(repository, "Model-Q8_0.gguf") == path


def test_a_server_that_goes_silent(
    server: HubServer, repository: hub.Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eftlocal.catalog.hub.transfer.PAUSES", ())
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    server.faults.hang = True
    assert told(lambda: hub.download(repository, "Model-Q8_0.gguf")) == (
        "localhost does not answer: nothing was received for 0.2 seconds",
        "try again: a download resumes where it stopped; with HF_HUB_DOWNLOAD_TIMEOUT=60 it waits a minute",
    )


def test_offline_by_a_variable_is_said_by_its_name(
    server: HubServer, repository: hub.Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = hub.download(repository, "Model-Q8_0.gguf")
    asked = len(server.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    message, hint = told(lambda: hub.repository(REPO))
    assert message == hub.reachable() == "HF_HUB_OFFLINE is set, so no request is sent to the Hub"
    assert hint == "unset it; models that are already downloaded work without a network"
    assert told(lambda: hub.download(repository, "Model-Q4_K_M.gguf"))[0] == message
    assert told(lambda: hub.read_range(repository, "Model-Q4_K_M.gguf", 0, 4))[0] == message
    assert hub.cached(REPO, "Model-Q8_0.gguf") == path
    assert len(server.requests) == asked


def test_a_folder_that_cannot_be_written_is_named(repository: hub.Repository, home: Path) -> None:
    (home / "hub").parent.mkdir(parents=True)
    (home / "hub").write_bytes(b"")  # root may write to any folder, but this is a file
    message, hint = told(lambda: hub.download(repository, "Model-Q8_0.gguf"))
    assert str(home / "hub") in message
    assert hint == "set HF_HOME to put the cache elsewhere"


# --- the token --------------------------------------------------------------------------------------------------------


def test_where_the_token_comes_from_is_said_and_not_what_it_is(
    server: HubServer, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hub.token_source() is None
    home.mkdir()
    (home / "token").write_text(SECRET)
    assert hub.token_source() == f"the file {home / 'token'}"
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert hub.token_source() == "the variable HF_TOKEN"
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    assert hub.token_source() is None
    server.add(REPO, FILES)
    hub.download(hub.repository(REPO), "Model-Q8_0.gguf")
    assert not any("authorization" in request.headers for request in server.requests)


@pytest.mark.parametrize("ignore", [False, True])
def test_the_token_goes_to_the_hub_and_not_to_its_cdn(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, ignore: bool
) -> None:
    server.add(REPO, FILES)
    server.faults.ignore_range = ignore
    monkeypatch.setenv("HF_TOKEN", SECRET)
    repository = hub.repository(REPO)
    hub.read_range(repository, "Model-Q4_K_M.gguf", 4, 10)
    hub.download(repository, "Model-Q8_0.gguf")
    hub.download(repository, "Model-Q4_K_M.gguf", xet=True)
    assert all(request.headers["authorization"] == f"Bearer {SECRET}" for request in server.asked("hub"))
    assert len(server.asked("cdn")) == 3
    assert not any(SECRET in str(request) for request in server.asked("cdn"))


@pytest.mark.parametrize("echo", [False, True])
def test_the_token_is_in_no_error_no_log_and_no_output(
    echo: bool,
    server: HubServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("eftlocal.catalog.hub.transfer.PAUSES", ())
    monkeypatch.setenv("HF_TOKEN", SECRET)
    caplog.set_level(logging.DEBUG)
    for name in ("huggingface_hub", "httpx2", "httpcore2"):
        caplog.set_level(logging.DEBUG, name)
    server.faults.echo = echo
    server.add(REPO, FILES)
    server.add("owner/gated", FILES, gated=True)
    repository = hub.repository(REPO)
    hub.download(repository, "Model-Q8_0.gguf")
    hub.download(repository, "Model-Q4_K_M.gguf", xet=True)
    texts = []

    def failing(call: Callable[[], object]) -> None:
        with pytest.raises(HubError) as error:
            call()
        texts.append("".join(traceback.format_exception(error.value, chain=not echo)))

    failing(lambda: hub.repository("owner/none"))
    failing(lambda: hub.download(hub.repository("owner/gated"), "Model-Q8_0.gguf"))
    for status in (400, 401, 403, 404, 429, 500):
        server.faults.status = status
        failing(lambda: hub.download(repository, "model_f16.gguf"))
    for wrong in (SECRET + "\x01", SECRET + "é"):
        monkeypatch.setenv("HF_TOKEN", wrong)
        failing(lambda: hub.repository(REPO))
        failing(lambda: hub.read_range(repository, "model_f16.gguf", 0, 4))
    logged = "" if echo else caplog.text  # the connection's log shows the server's answers
    assert SECRET not in "".join((*texts, logged, *capfd.readouterr()))


def test_a_token_with_characters_that_no_header_holds_is_refused_in_our_words(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET + "\x01")
    message, hint = told(lambda: hub.repository(REPO))
    assert message == "the token of the variable HF_TOKEN contains characters that a token cannot have"
    assert hint == "copy it again, or run `hf auth login`"
    assert server.requests == []


def test_the_clients_warnings_are_not_ours_and_its_logger_is_left_as_it_was(
    server: HubServer, repository: hub.Repository, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    server.faults.status = 503
    monkeypatch.setattr("eftlocal.catalog.hub.transfer.PAUSES", ())
    for xet in (False, True):
        with monkeypatch.context() as patch:
            patch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
            told(lambda xet=xet: hub.download(repository, "Model-Q8_0.gguf", xet=xet))  # type: ignore[misc]
    assert "".join(capfd.readouterr()) == ""
    assert logger.level == before


def test_a_file_of_the_clients_that_is_linked_twice_is_found_by_its_own_name(server: HubServer, home: Path) -> None:
    """Xet leaves files this way: the snapshot links to a blob, and the blob links into a store for all repositories."""
    server.add(REPO, FILES)
    path = Path(hf_hub_download(REPO, "Model-Q8_0.gguf", cache_dir=home / "hub", endpoint=server.url))
    blob, store = path.resolve(), home / "hub" / "blobs" / "ab" / ("ab" * 32)
    store.parent.mkdir(parents=True)
    blob.replace(store)
    blob.symlink_to(os.path.relpath(store, blob.parent))
    (found,) = hub.cached_files()
    assert (found.path, found.blob, found.size) == (path, blob, 200)
    hub.verify(path)


def test_another_repository_that_cannot_be_read_is_left_out(
    server: HubServer, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add(REPO, FILES)
    hub.download(hub.repository(REPO), "Model-Q8_0.gguf")
    other = home / "hub" / "models--a--locked"
    (other / "snapshots").mkdir(parents=True)
    (other / "blobs").mkdir()
    real = Path.iterdir

    def refuse(path: Path) -> Iterator[Path]:  # tests may run as root, which may read every folder
        if other in (path, *path.parents):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert [file.repo for file in hub.cached_files()] == [REPO] and hub.unfinished_bytes() == 0
    with pytest.raises(HubError, match="Permission denied"):
        hub.unfinished_bytes("a/locked")
    assert hub.remove(REPO, ["Model-Q8_0.gguf"]) == len(FILES["Model-Q8_0.gguf"])
    assert not (home / "hub" / "models--owner--Model-GGUF").exists() and other.exists()
