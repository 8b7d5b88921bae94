"""The variables with which requests reach the network: a wrong one is named, and a SOCKS proxy works."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from huggingface_hub import close_session

from eftlocal.catalog import hub
from eftlocal.catalog.hub import surroundings
from eftlocal.errors import HubError
from tests.hub_server import HubServer, model

pytestmark = pytest.mark.slow  # proxies and servers

REPO = "owner/Model-GGUF"
PROXIES = tuple(name for scheme in ("http", "https", "all") for name in (f"{scheme}_proxy", f"{scheme}_proxy".upper()))
NOT_A_PROXY = "which is not the address of a proxy"


@pytest.fixture(autouse=True)
def no_surroundings(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Unsets the variables, so that each test sets its own."""
    for name in (*PROXIES, "no_proxy", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    server.add(REPO, {"Model.gguf": model(5000)})
    close_session()
    yield
    close_session()


def told(call: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(HubError) as error:
        call()
    return error.value.message, str(error.value.hint)


@pytest.mark.parametrize("name", PROXIES)
@pytest.mark.parametrize(
    "address", ["127.0.0.1:port", "http://[::1", "ftp://host:1", "http://", "http://a b:3", "http://host:99999", "h:0"]
)
def test_a_wrong_proxy_is_told_by_its_variable(monkeypatch: pytest.MonkeyPatch, name: str, address: str) -> None:
    monkeypatch.setenv(name, address)
    message, hint = told(lambda: hub.repository(REPO))
    assert message == f"{name} is {address}, {NOT_A_PROXY}"
    assert hint == "write it as http://HOST:PORT or socks5h://HOST:PORT, or unset it"
    assert hub.reachable() == message


def test_the_password_of_a_wrong_proxy_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("http://me:secret@host:port", "me:secret@host:port", "ftp://me:sec@ret@host", "me:sec/ret@host:p"):
        monkeypatch.setenv("HTTPS_PROXY", address)
        assert "ret" not in told(lambda: hub.repository(REPO))[0]


def test_lower_case_wins_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://good:1")
    monkeypatch.setenv("https_proxy", "bad:port")
    assert told(lambda: hub.repository(REPO))[0] == f"https_proxy is bad:port, {NOT_A_PROXY}"


@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY"])
def test_without_proxies_by_no_proxy_a_wrong_one_does_no_harm(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("ALL_PROXY", "bad:port")
    monkeypatch.setenv(name, "localhost, *")
    assert hub.repository(REPO).models[0].name == "Model.gguf"
    assert hub.reachable() is None


@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY"])
def test_a_wrong_entry_of_no_proxy_is_skipped_and_the_others_hold(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setenv(name, "host:port,http://[::1,,127.0.0.1")
    assert hub.repository(REPO).models[0].name == "Model.gguf"


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_a_proxy_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")
    message, hint = told(lambda: hub.repository(REPO))
    assert message.startswith(f"cannot reach 127.0.0.1 through {name}: ") and "refused" in message
    assert hint == f"check {name} and the network; models that are already downloaded work without a network"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "which cannot be read: No such file or directory"),
        ("", "which holds no certificates"),
        ("not a certificate\n", "which holds no certificates"),
    ],
)
def test_a_wrong_file_of_certificates_is_told_by_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, problem: str
) -> None:
    file = tmp_path / "corporate.pem"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    message, hint = told(lambda: hub.repository(REPO))
    assert message == f"SSL_CERT_FILE is {file}, {problem}"
    assert hint == "correct it, or unset it: then the system's certificates are trusted"
    assert hub.reachable() == message


def test_a_folder_where_a_file_of_certificates_is_expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path))
    assert told(lambda: hub.repository(REPO))[0].startswith(f"SSL_CERT_FILE is {tmp_path}, which cannot be read: ")


def test_a_missing_folder_of_certificates_is_told_by_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "certs"))
    assert told(lambda: hub.repository(REPO))[0] == f"SSL_CERT_DIR is {tmp_path / 'certs'}, which is not a folder"
    (tmp_path / "certs").mkdir()
    assert hub.reachable() is None


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_a_download_goes_through_a_socks_proxy(server: HubServer, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        asked: list[tuple[str, int]] = []
        threading.Thread(target=serve_socks, args=(proxy, asked), daemon=True).start()
        monkeypatch.setenv("ALL_PROXY", f"{scheme}://127.0.0.1:{proxy.getsockname()[1]}")
        path = hub.download(hub.repository(REPO), "Model.gguf")
        close_session()
    assert path.read_bytes() == model(5000)
    assert {port for _, port in asked} == {server.hub.server_port, server.cdn.server_port}


def test_without_its_package_a_socks_proxy_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings, "find_spec", lambda name: None)
    monkeypatch.setenv("ALL_PROXY", "socks5h://127.0.0.1:1080")
    problem = "ALL_PROXY is a SOCKS proxy, which needs the package socksio"
    assert told(lambda: hub.repository(REPO)) == (problem, "pip install socksio")


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def serve_socks(proxy: socket.socket, asked: list[tuple[str, int]]) -> None:
    """A SOCKS5 proxy (RFC 1928) without passwords. It ends when its socket is closed."""
    with suppress(OSError):
        while True:
            client, _ = proxy.accept()
            threading.Thread(target=_connect, args=(client, asked), daemon=True).start()


def _connect(client: socket.socket, asked: list[tuple[str, int]]) -> None:
    with client, client.makefile("rb") as reader:
        reader.read(reader.read(2)[1])  # the methods that the client offers
        client.sendall(b"\x05\x00")
        kind = reader.read(4)[3]
        host = socket.inet_ntoa(reader.read(4)) if kind == 1 else reader.read(reader.read(1)[0]).decode()
        port = int.from_bytes(reader.read(2))
        asked.append((host, port))
        with socket.create_connection((host, port)) as server:
            client.sendall(b"\x05\x00\x00\x01" + bytes(6))
            back = threading.Thread(target=_copy, args=(server, client), daemon=True)
            back.start()
            _copy(client, server)
            back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
