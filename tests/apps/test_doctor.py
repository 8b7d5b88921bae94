"""What the doctor finds on machines that are described by their facts."""

import errno
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from eftlocal.apps.doctor.checks import Facts, Finding, findings
from eftlocal.apps.doctor.emulator import examine
from eftlocal.apps.doctor.facts import not_writable
from eftlocal.catalog import hub
from eftlocal.catalog.models import packaged
from eftlocal.runtime.plan.machine import Device, Machine
from tests.runtime.remote.mirror import Mirror, mirrored
from tests.runtime.remote.scripted import scripted, status

GB, GIB = 10**9, 1 << 30
GPU = Device(
    name="CUDA0", description="NVIDIA RTX 4090", kind="gpu", free=23 * GIB, total=24 * GIB, shares_memory=False
)
MACHINE = Machine(
    cores=16,
    cores_present=16,
    memory=64 * GB,
    memory_present=64 * GIB,
    free=50 * GB,
    devices=(),
    limited_by=None,
)
SOUND = Facts(
    system="Linux",
    python=(3, 12, 4),
    architecture="x86_64",
    translated=False,
    bindings="0.3.36",
    features={"AVX2": "1", "AVX512": "1"},
    rpc="BUILD",
    offload=False,
    gpus=(),
    cuda=None,
    machine=MACHINE,
    threads="16 threads",
    cache="/home/u/.cache/huggingface/hub",
    cache_free=100 * GB,
    cache_problem=None,
    unfinished=0,
    endpoint="https://huggingface.co",
    network=None,
    token=None,
    token_problem=None,
    emulators=12,
    here=("demo",),
    mistakes=(),
)


def found(facts: Facts, name: str) -> Finding:
    return next(finding for finding in findings(facts) if finding.name == name)


def test_nothing_is_wrong_with_a_sound_machine() -> None:
    assert {finding.state for finding in findings(SOUND)} == {"ok"}
    sound = replace(SOUND, offload=True, gpus=("nvidia",), machine=replace(MACHINE, devices=(GPU,)))
    assert {finding.state for finding in findings(sound)} == {"ok"}
    assert found(sound, "device").text == "CUDA0: NVIDIA RTX 4090, 23.0 GiB of 24.0 GiB free"


CPU_ONLY = {
    "a CUDA wheel": (
        replace(SOUND, gpus=("nvidia",), cuda=(12, 8)),
        "pip install --force-reinstall --no-cache-dir llama-cpp-python"
        " --extra-index-url https://abetlen.github.io/llama-cpp-python/whl/cu125",
    ),
    "a CUDA build where there is no wheel for this Python": (
        replace(SOUND, gpus=("nvidia",), cuda=(12, 8), python=(3, 13, 0)),
        'CMAKE_ARGS="-DGGML_CUDA=on" pip install --force-reinstall --no-cache-dir'
        " --no-binary llama-cpp-python llama-cpp-python",
    ),
    "a CUDA build where the driver is older than any wheel": (
        replace(SOUND, gpus=("nvidia",), cuda=(11, 4), system="Windows"),
        '$env:CMAKE_ARGS = "-DGGML_CUDA=on"; pip install --force-reinstall --no-cache-dir'
        " --no-binary llama-cpp-python llama-cpp-python",
    ),
    "Metal": (
        replace(SOUND, gpus=("apple",), system="macOS", architecture="arm64", features={"NEON": "1"}),
        "pip install --force-reinstall --no-cache-dir llama-cpp-python"
        " --extra-index-url https://abetlen.github.io/llama-cpp-python/whl/metal",
    ),
    "Vulkan": (
        replace(SOUND, gpus=("amd",)),
        "pip install --force-reinstall --no-cache-dir llama-cpp-python"
        " --extra-index-url https://abetlen.github.io/llama-cpp-python/whl/vulkan",
    ),
}


@pytest.mark.parametrize("case", CPU_ONLY)
def test_a_gpu_beside_a_cpu_build_is_wrong_and_the_command_that_mends_it_is_told(case: str) -> None:
    facts, command = CPU_ONLY[case]
    finding = found(facts, "device")
    assert finding.state == "wrong" and "built for the CPU alone" in finding.text
    assert finding.todo == command


def test_an_intel_python_on_apple_silicon_is_wrong() -> None:
    finding = found(replace(SOUND, system="macOS", translated=True), "python")
    assert finding.state == "wrong" and "under Rosetta" in finding.text and "arm64 Python" in str(finding.todo)


def test_a_container_below_its_machine_is_told() -> None:
    limited = replace(MACHINE, cores=2, memory=4 * GIB, free=3 * GIB, limited_by="cgroup")
    cores, memory = (found(replace(SOUND, machine=limited), name) for name in ("cores", "memory"))
    assert (cores.state, memory.state) == ("note", "note")
    assert "2 of the machine's 16 cores" in cores.text
    assert "4.0 GiB of the machine's 64.0 GiB (cgroup)" in memory.text


def test_a_token_that_no_request_can_carry_is_wrong_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN", False)
    monkeypatch.setenv("HF_TOKEN", "hf_sec ret")
    problem = hub.token_problem()
    assert problem is not None and "HF_TOKEN" in problem and "sec" not in problem
    finding = found(replace(SOUND, token="the variable HF_TOKEN", token_problem=problem), "token")
    assert finding.state == "wrong" and "hf auth login" in str(finding.todo)


def test_a_folder_is_writable_when_something_can_be_written_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not_writable(tmp_path / "not" / "there" / "yet") is None
    (tmp_path / "file").touch()
    assert "is not a folder" in str(not_writable(tmp_path / "file" / "hub"))
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr("eftlocal.apps.doctor.facts.TemporaryFile", Mock(side_effect=full))
    assert "No space left" in str(not_writable(tmp_path))


def test_what_stops_a_download_is_told() -> None:
    facts = replace(
        SOUND,
        cache_problem="/data is not writable",
        unfinished=3 * GB,
        network="no route to host",
        token="the variable HF_TOKEN",
        mistakes=(("models.toml: [models.far] url: is another machine", "Use https."),),
    )
    assert found(facts, "cache").state == "wrong" and "HF_HOME" in str(found(facts, "cache").todo)
    assert "3.00 GB of interrupted downloads" in found(facts, "downloads").text
    assert found(facts, "network").state == "note" and "no route to host" in found(facts, "network").text
    assert found(facts, "token").text == "from the variable HF_TOKEN"
    assert found(facts, "catalogue").state == "wrong" and found(facts, "catalogue").todo == "Use https."
    assert found(replace(SOUND, cache_free=GB), "cache").state == "note"


def test_a_build_without_avx2_and_a_device_that_is_not_seen_are_told() -> None:
    assert found(replace(SOUND, features={"SSE3": "1"}), "build").state == "note"
    assert found(replace(SOUND, offload=True), "device").state == "wrong"


@pytest.mark.parametrize(
    ("answer", "options", "told"),
    [
        (None, "", "closed the connection"),
        (status(404, "a page"), "", "does not answer as one of llama-server"),
        (status(401, {"error": "wrong"}), "", "401"),
        (status(404, {}), 'engine = "vllm"', "does not answer as vllm does"),
        (status(503, {"error": {"message": "Loading model"}}), "", "Loading model"),
    ],
    ids=["closes at once", "plain web server", "wrong key", "wrong engine", "loading"],
)
def test_a_servers_fault_is_told_under_the_heading_of_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: object, options: str, told: str
) -> None:
    monkeypatch.setattr("eftlocal.runtime.remote.connection.PAUSES", (0.0,))
    with scripted(lambda *_: answer) as server:
        found = _far(tmp_path, server.url, options)
        assert told in found.text and (told != "Loading model" or "in a moment" in (found.todo or ""))


def test_a_servers_other_control_tokens_stand_under_vocabulary(tmp_path: Path) -> None:
    def swap(mirror: Mirror) -> None:
        (one, i), (other, j), *_ = mirror.controls.items()
        mirror.controls |= {one: j, other: i}

    with mirrored(packaged("demo/large-base.gguf"), change=swap) as (server, _):
        assert "control tokens" in _far(tmp_path, server.url, "", name="vocabulary").text


def test_a_server_that_is_away_is_told_under_the_heading_of_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eftlocal.runtime.remote.connection.PAUSES", (0.0,))
    with scripted(lambda *_: None) as server:
        pass
    assert server.url in _far(tmp_path, server.url, "").text


def _far(folder: Path, url: str, options: str, name: str = "server") -> Finding:
    """The last finding about an emulator whose base is on this server."""
    chat, small = (packaged(f"demo/small-{name}.gguf") for name in ("tuned", "base"))
    models = folder / "models.toml"
    models.write_text(
        f'[models.far]\nurl = "{url}"\n{options}\n[models.chat]\npath = "{chat}"\n[models.small]\npath = "{small}"\n'
        '[emulators.f]\nbase = "far"\nrewards = [{ tuned = "chat", reference = "small" }]\n'
    )
    *_, last = examine(models, "f")
    assert (last.name, last.state) == (name, "wrong")
    return last
