"""Tests of downloads: interrupted, resumed and with wrong answers, and of the cache afterwards."""

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock
from huggingface_hub import hf_hub_download, scan_cache_dir
from huggingface_hub.utils._xet_progress_reporting import XetDownloadProgressReporter

from eftlocal.catalog import hub
from eftlocal.catalog.hub.transfer import _bar
from eftlocal.errors import HubError
from tests.hub_server import HubServer, model

pytestmark = pytest.mark.slow  # downloads through a local server

REPO, FILE = "owner/Model-GGUF", "Model-Q4_K_M.gguf"
SIZE = 600_000
MODEL = model(SIZE)
SHA256 = hashlib.sha256(MODEL).hexdigest()


@pytest.fixture
def repository(server: HubServer) -> hub.Repository:
    server.add(REPO, {FILE: MODEL, "README.md": b"# Model"}, in_git=("README.md",))
    return hub.repository(REPO)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a broken connection fail at once, without another attempt."""
    monkeypatch.setattr("eftlocal.catalog.hub.transfer.PAUSES", ())


@pytest.fixture
def blobs(home: Path) -> Path:
    return home / "hub" / "models--owner--Model-GGUF" / "blobs"


def no_warnings(home: Path) -> None:
    assert scan_cache_dir(home / "hub").warnings == []


# --- whole ------------------------------------------------------------------------------------------------------------


def test_a_download_is_whole_and_an_ordinary_file_of_the_clients_cache(
    server: HubServer, repository: hub.Repository, home: Path
) -> None:
    seen: list[int] = []
    path = hub.download(repository, FILE, progress=seen.append)
    assert path.read_bytes() == MODEL
    assert seen == sorted(seen)
    assert seen[-1] == SIZE
    assert hub.cached(REPO, FILE) == path
    assert path.resolve().name == SHA256
    asked = len(server.requests)
    for revision in (None, repository.commit):
        known = hf_hub_download(
            REPO, FILE, revision=revision, cache_dir=home / "hub", endpoint=server.url, local_files_only=True
        )
        assert Path(known) == path
    assert hub.download(repository, FILE) == path
    assert len(server.requests) == asked
    no_warnings(home)


def test_what_the_client_downloaded_is_found(server: HubServer, repository: hub.Repository, home: Path) -> None:
    path = hf_hub_download(REPO, FILE, cache_dir=home / "hub", endpoint=server.url)
    assert hub.cached(REPO, FILE) == Path(path)
    before = server.served
    assert hub.download(repository, FILE) == Path(path)
    assert server.served == before


def test_a_blob_that_another_commit_brought_is_linked_not_downloaded(
    server: HubServer, repository: hub.Repository
) -> None:
    first = hub.download(repository, FILE)
    server.add(REPO, {FILE: MODEL, "README.md": b"# A better card"}, in_git=("README.md",))
    later = hub.repository(REPO)
    second = hub.download(later, FILE)
    assert first != second
    assert first.resolve() == second.resolve()
    assert server.served == SIZE
    assert hub.cached(REPO, FILE) == second


def test_a_file_kept_in_git_itself_is_taken_by_its_size(server: HubServer, home: Path) -> None:
    small = model(5000)
    server.add("owner/small", {"small.gguf": small}, in_git=("small.gguf",))
    repository = hub.repository("owner/small")
    assert repository.file("small.gguf").sha256 is None
    path = hub.download(repository, "small.gguf")
    assert path.read_bytes() == small
    assert Path(hf_hub_download("owner/small", "small.gguf", cache_dir=home / "hub", endpoint=server.url)) == path
    no_warnings(home)


def test_a_file_larger_than_one_answer_comes_in_pieces(
    server: HubServer, repository: hub.Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eftlocal.catalog.hub.transfer.PIECE", 250_000)
    assert hub.download(repository, FILE).read_bytes() == MODEL
    ranges = [request.headers["range"] for request in server.asked("cdn")]
    assert ranges == ["bytes=0-249999", "bytes=250000-499999", "bytes=500000-599999"]
    assert server.served == SIZE


def test_without_links_the_snapshot_holds_the_file_itself(
    repository: hub.Repository, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_SYMLINKS", True)
    path = hub.download(repository, FILE)
    assert not path.is_symlink()
    assert path.read_bytes() == MODEL
    assert hub.cached(REPO, FILE) == path
    hub.verify(path)
    no_warnings(home)
    assert hub.remove(REPO, [FILE]) == SIZE
    assert hub.cached(REPO, FILE) is None


def test_the_client_can_be_let_do_it(
    server: HubServer, repository: hub.Repository, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: list[int] = []
    path = hub.download(repository, FILE, progress=seen.append, xet=True)
    assert path.read_bytes() == MODEL
    assert seen[-1] == SIZE
    assert hub.cached(REPO, FILE) == path
    assert "".join(capfd.readouterr()) == ""


def test_of_xets_two_bars_the_one_of_the_files_bytes_is_reported(capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[int] = []
    bars = XetDownloadProgressReporter(
        reconstruction_desc="", total=100, log_level=0, name="huggingface_hub.xet_get", tqdm_class=_bar(seen.append)
    )
    for there, came in ((0, 30), (40, 60), (100, 70)):
        report = {"total_bytes_completed": there, "total_transfer_bytes_completed": came, "total_bytes": 100}
        rates = {"total_bytes_completion_rate": 1.0, "total_transfer_bytes_completion_rate": 1.0}
        bars.update_progress(SimpleNamespace(**report, **rates))
    bars.close()
    assert seen == [40, 100]
    assert "".join(capfd.readouterr()) == ""


def test_xets_own_errors_are_told_too(repository: hub.Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("Data processing error: CAS\nand more")

    monkeypatch.setattr("eftlocal.catalog.hub.transfer.hf_hub_download", fail)
    with pytest.raises(
        HubError, match=f"the Hub's client could not download {FILE}: Data processing error: CAS\n"
    ) as error:
        hub.download(repository, FILE, xet=True)
    assert "without Xet" in str(error.value.hint)


# --- at the same time -------------------------------------------------------------------------------------------------


@pytest.fixture
def busy(home: Path) -> Iterator[FileLock]:
    """The lock of the file, held as if another process were writing it."""
    path = home / "hub" / ".locks" / "models--owner--Model-GGUF" / f"{SHA256}.lock"
    path.parent.mkdir(parents=True)
    with FileLock(path) as lock:
        yield lock


@pytest.mark.slow
def test_a_download_that_waits_for_another_says_how_far_that_is(
    repository: hub.Repository, blobs: Path, busy: FileLock
) -> None:
    seen: list[int] = []

    def progress(there: int) -> None:
        seen.append(there)
        busy.release()

    blobs.mkdir(parents=True)
    (blobs / f"{SHA256}.incomplete").write_bytes(MODEL[:1000])
    assert hub.download(repository, FILE, progress=progress).read_bytes() == MODEL
    assert seen[:2] == [1000, 1000]  # once while it waits, once when it resumes


@pytest.mark.slow
@pytest.mark.usefixtures("busy")
def test_what_is_being_written_is_not_removed(repository: hub.Repository, blobs: Path) -> None:
    blobs.mkdir(parents=True)
    (blobs / f"{SHA256}.incomplete").write_bytes(MODEL[:1000])
    with pytest.raises(HubError, match="is being downloaded just now"):
        hub.remove(REPO, [FILE])
    assert hub.part_bytes(repository, FILE) == 1000


# --- interrupted ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("impatient")
def test_thirty_interruptions_at_random_bytes_cost_not_one_byte_twice(
    server: HubServer, repository: hub.Repository, home: Path
) -> None:
    rng = random.Random(30)
    cuts = [0, 1, 2, *(rng.randrange(SIZE // 30) for _ in range(27))]
    for i, cut in enumerate(cuts):
        server.faults.cuts = [cut]
        with pytest.raises(HubError, match="the connection to localhost broke") as error:
            hub.download(repository, FILE)
        assert error.value.hint == "try again: a download resumes where it stopped"
        assert hub.part_bytes(repository, FILE) == sum(cuts[: i + 1])
        assert hub.cached(REPO, FILE) is None
        assert hub.cached_files() == ()
    no_warnings(home)
    seen: list[int] = []
    path = hub.download(repository, FILE, progress=seen.append)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == SHA256
    assert server.served == SIZE
    assert seen[0] == sum(cuts)
    assert hub.part_bytes(repository, FILE) == 0
    no_warnings(home)


def test_a_broken_connection_is_tried_again_as_long_as_bytes_come(
    server: HubServer, repository: hub.Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eftlocal.catalog.hub.transfer.PAUSES", (0.0, 0.0))
    server.faults.cuts = [0, 70_000, 0, 70_000, 0, 70_000, 0]
    assert hub.download(repository, FILE).read_bytes() == MODEL
    assert server.served == SIZE
    server.faults.cuts = [0] * 3
    with pytest.raises(HubError, match="broke"):
        hub.read_range(repository, FILE, 0, 10)


def test_ctrl_c_leaves_what_has_come(server: HubServer, repository: hub.Repository) -> None:
    def interrupt(there: int) -> None:
        if there > 200_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hub.download(repository, FILE, progress=interrupt)
    left = hub.part_bytes(repository, FILE)
    assert left > 200_000
    hub.download(repository, FILE)
    assert server.asked("cdn")[-1].headers["range"] == f"bytes={left}-{SIZE - 1}"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("start", [0, 250_000])
def test_a_server_that_ignores_ranges_is_read_from_the_start_and_no_byte_here_is_lost(
    server: HubServer, repository: hub.Repository, start: int
) -> None:
    if start:
        server.faults.cuts = [start]
        with pytest.raises(HubError):
            hub.download(repository, FILE)
    server.faults.ignore_range = True
    server.faults.cuts = [100_000]
    with pytest.raises(HubError):
        hub.download(repository, FILE)
    assert hub.part_bytes(repository, FILE) == max(start, 100_000)
    assert hub.download(repository, FILE).read_bytes() == MODEL


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("start", [0, 250_000])
def test_a_mirror_that_refuses_ranges_is_asked_for_the_whole_file(
    server: HubServer, repository: hub.Repository, start: int
) -> None:
    if start:
        server.faults.cuts = [start]
        with pytest.raises(HubError):
            hub.download(repository, FILE)
    server.faults.refuse_range = True
    assert hub.download(repository, FILE).read_bytes() == MODEL
    assert "range" not in server.asked("cdn")[-1].headers
    assert hub.read_range(repository, FILE, 3, 9) == MODEL[3:9]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("page", ["file", "untold"])
@pytest.mark.parametrize("start", [0, 2, 250_000])
def test_a_login_page_never_lands_in_a_file(
    server: HubServer, repository: hub.Repository, page: str, start: int, blobs: Path
) -> None:
    if start:
        server.faults.cuts = [start]
        with pytest.raises(HubError):
            hub.download(repository, FILE)
    server.faults.page = "file" if page == "file" else "untold"
    with pytest.raises(
        HubError, match="a web page instead of" if page == "file" else "other than a GGUF file"
    ) as error:
        hub.download(repository, FILE)
    assert "login page" in str(error.value.hint)
    assert hub.part_bytes(repository, FILE) == start
    server.faults.page = None
    assert hub.download(repository, FILE).read_bytes() == MODEL
    assert server.served == SIZE
    assert [path.name for path in blobs.iterdir()] == [SHA256]


@pytest.mark.parametrize("answer", ["bytes 0-599999/600000", "bytes 0-9/10", "bytes", ""])
@pytest.mark.usefixtures("impatient")
def test_another_range_than_was_asked_for_is_refused(
    server: HubServer, repository: hub.Repository, answer: str
) -> None:
    server.faults.cuts = [1000]
    with pytest.raises(HubError):
        hub.download(repository, FILE)
    server.faults.content_range = answer or " "
    with pytest.raises(HubError, match=r"another part of .*, not from byte 1000 on"):
        hub.download(repository, FILE)
    assert hub.part_bytes(repository, FILE) == 1000


# --- wrong ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("xet", [False, True])
def test_wrong_bytes_are_set_aside_and_the_next_download_starts_anew(
    server: HubServer, repository: hub.Repository, home: Path, blobs: Path, xet: bool
) -> None:
    server.faults.wrong_byte = 123_456
    with pytest.raises(HubError, match=r"arrived with wrong bytes: its sha256 is .*, but the Hub lists") as error:
        hub.download(repository, FILE, xet=xet)
    assert SHA256 in error.value.message
    assert hub.cached(REPO, FILE) is None
    assert hub.cached_files() == ()
    assert hub.part_bytes(repository, FILE) == 0
    assert [path.name for path in blobs.iterdir()] == [f"{SHA256}.rejected.incomplete"]
    no_warnings(home)
    server.faults.wrong_byte = None
    assert hub.download(repository, FILE, xet=xet).read_bytes() == MODEL
    assert [path.name for path in blobs.iterdir()] == [SHA256]
    no_warnings(home)


def test_a_partial_file_that_was_damaged_is_found_out_by_its_hash(
    server: HubServer, repository: hub.Repository, blobs: Path
) -> None:
    blobs.mkdir(parents=True)
    (blobs / f"{SHA256}.incomplete").write_bytes(b"\0" * 300_000)
    with pytest.raises(HubError, match="arrived with wrong bytes"):
        hub.download(repository, FILE)
    assert hub.download(repository, FILE).read_bytes() == MODEL


def test_a_partial_file_longer_than_the_file_is_dropped(repository: hub.Repository, blobs: Path) -> None:
    blobs.mkdir(parents=True)
    (blobs / f"{SHA256}.incomplete").write_bytes(b"\0" * (SIZE + 1))
    assert hub.part_bytes(repository, FILE) == 0  # nothing of it is used, so the whole file is still to come
    assert hub.download(repository, FILE).read_bytes() == MODEL


def test_a_cached_file_of_another_size_is_fetched_again(repository: hub.Repository, blobs: Path) -> None:
    path = hub.download(repository, FILE)
    (blobs / SHA256).write_bytes(MODEL[:1000])
    assert hub.download(repository, FILE) == path
    assert path.read_bytes() == MODEL


def test_verify_finds_a_file_that_went_bad_later_and_takes_it_out_of_use(
    repository: hub.Repository, home: Path, blobs: Path
) -> None:
    path = hub.download(repository, FILE)
    hub.verify(path)
    with (blobs / SHA256).open("r+b") as file:
        file.seek(1000)
        file.write(b"bad")
    with pytest.raises(HubError, match="is damaged") as error:
        hub.verify(path)
    assert error.value.hint == "it was set aside; pull it again"
    assert hub.cached(REPO, FILE) is None
    no_warnings(home)
    assert hub.download(repository, FILE).read_bytes() == MODEL


# --- ranges -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ignore", [False, True])
def test_a_range_is_exactly_those_bytes(server: HubServer, repository: hub.Repository, ignore: bool) -> None:
    server.faults.ignore_range = ignore
    for start, stop in ((0, 1), (0, 100_000), (3, 9), (99_999, 100_001), (SIZE - 5, SIZE), (SIZE - 5, SIZE + 100)):
        assert hub.read_range(repository, FILE, start, stop) == MODEL[start:stop]
    with pytest.raises(HubError, match="has no file"):
        hub.read_range(repository, "other.gguf", 0, 1)


def test_of_a_whole_file_that_was_not_asked_for_only_the_beginning_is_read(server: HubServer) -> None:
    large = b"GGUF" + bytes(30_000_000)
    server.add("owner/large", {"large.gguf": large})
    server.faults.ignore_range = True
    assert hub.read_range(hub.repository("owner/large"), "large.gguf", 0, 1000) == large[:1000]
    assert server.served < len(large) / 2
