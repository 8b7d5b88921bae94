"""What `eftlocal doctor` thinks of a machine: facts in, findings out; nothing here looks at the machine itself."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from eftlocal.apps.common import size
from eftlocal.runtime.plan.machine import Machine
from eftlocal.runtime.plan.placement import gib

__all__ = ["Facts", "Finding", "findings", "reinstall"]

State = Literal["ok", "note", "wrong"]

WHEELS: Final = "https://abetlen.github.io/llama-cpp-python/whl"
WHEEL_PYTHONS: Final = ((3, 10), (3, 11), (3, 12))  # what those wheels are built for
FORCE: Final = "pip install --force-reinstall --no-cache-dir"
LITTLE_DISK: Final = 5_000_000_000
BACKENDS: Final = {"nvidia": "CUDA", "apple": "Metal", "amd": "Vulkan", "intel": "Vulkan"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. "wrong" costs speed or keeps something from working; `todo` says what to do."""

    name: str
    state: State
    text: str
    todo: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of this machine and installation.

    gpus       makers of the graphics processors that the system shows: nvidia, apple, amd, intel
    cuda       the newest CUDA that the driver takes, as (12, 4); None where it does not say
    translated an Intel Python on Apple Silicon, under Rosetta
    features   of the llama.cpp build, as it names them, with their values
    offload    whether the build can run layers on a device at all
    network    why the Hub does not answer; None where it does
    token      where a Hub token comes from, never the token
    token_problem why no request can carry it
    unreadable why the catalogue cannot be read
    """

    system: str
    python: tuple[int, int, int]
    architecture: str
    translated: bool
    bindings: str
    features: Mapping[str, str]
    offload: bool
    gpus: Sequence[str]
    cuda: tuple[int, int] | None
    machine: Machine
    threads: str
    cache: str
    cache_free: int
    cache_problem: str | None
    unfinished: int
    endpoint: str
    network: str | None
    token: str | None
    token_problem: str | None
    emulators: int
    here: Sequence[str]
    unreadable: str | None


def findings(facts: Facts) -> Iterator[Finding]:
    """Everything that was looked at, the installation first."""
    yield _python(facts)
    yield _build(facts)
    yield from _devices(facts)
    yield _cores(facts)
    yield _memory(facts)
    yield from _cache(facts)
    yield _network(facts)
    yield _token(facts)
    yield _catalogue(facts)


def _python(facts: Facts) -> Finding:
    version = f"{'.'.join(map(str, facts.python))}, {facts.system} {facts.architecture}"
    if facts.translated:
        todo = "install an arm64 Python (python.org's, or Homebrew's in /opt/homebrew), then eftlocal into it"
        return Finding("python", "wrong", f"{version}: an Intel Python under Rosetta, many times slower", todo)
    return Finding("python", "ok", version)


def _build(facts: Facts) -> Finding:
    on = [name if value == "1" else f"{name} {value}" for name, value in facts.features.items()]
    text = f"llama-cpp-python {facts.bindings}: {', '.join(on) or 'no features known'}"
    if facts.architecture.lower() in ("x86_64", "amd64") and facts.features and "AVX2" not in facts.features:
        return Finding(
            "build", "note", f"{text}; built without AVX2", f"{FORCE} --no-binary llama-cpp-python llama-cpp-python"
        )
    return Finding("build", "ok", text)


def _devices(facts: Facts) -> Iterator[Finding]:
    for device in facts.machine.devices:
        yield Finding(
            "device", "ok", f"{device.name}: {device.description}, {gib(device.free)} of {gib(device.total)} free"
        )
    if facts.offload:
        if not facts.machine.devices:
            yield Finding(
                "device",
                "wrong",
                "this build can offload, and sees no device",
                "look at the driver: nvidia-smi, vulkaninfo",
            )
        return
    if not facts.gpus:
        yield Finding("device", "ok", "none: everything runs on the CPU")
        return
    for gpu in facts.gpus:
        backend = BACKENDS[gpu]
        serious: State = "note" if gpu == "intel" else "wrong"
        text = f"there is a GPU ({gpu}), and this llama-cpp-python is built for the CPU alone"
        yield Finding("device", serious, text, reinstall(facts, backend))


def reinstall(facts: Facts, backend: str) -> str:
    """The command that installs llama-cpp-python for `backend` (CUDA, Metal or Vulkan) on this system.

    A ready-made wheel where its publisher has one (llama-cpp-python's README, "Supported Backends"), else a build.
    """
    wheel = {"CUDA": _cuda_wheel(facts.cuda), "Metal": "metal", "Vulkan": "vulkan"}[backend]
    if wheel and facts.python[:2] in WHEEL_PYTHONS:
        return f"{FORCE} llama-cpp-python --extra-index-url {WHEELS}/{wheel}"
    flag = f"-DGGML_{backend.upper()}=on"
    build = f"{FORCE} --no-binary llama-cpp-python llama-cpp-python"
    return f'$env:CMAKE_ARGS = "{flag}"; {build}' if facts.system == "Windows" else f'CMAKE_ARGS="{flag}" {build}'


def _cuda_wheel(driver: tuple[int, int] | None) -> str | None:
    """The newest wheel that a driver of this CUDA version takes."""
    built = ((13, 2), (13, 0), (12, 5), (12, 4), (12, 3), (12, 2), (12, 1), (11, 8))
    return next(
        (f"cu{major}{minor}" for major, minor in built if driver is not None and (major, minor) <= driver), None
    )


def _cores(facts: Facts) -> Finding:
    machine = facts.machine
    text = f"{machine.cores} cores; {facts.threads}"
    if machine.cores < machine.cores_present:
        limit = f"this process may use {machine.cores} of the machine's {machine.cores_present} cores"
        return Finding(
            "cores", "note", f"{limit}; {facts.threads}", "a container's limit: docker run --cpus, or taskset"
        )
    return Finding("cores", "ok", text)


def _memory(facts: Facts) -> Finding:
    machine = facts.machine
    text = f"{gib(machine.free)} of {gib(machine.memory)} free"
    if machine.limited_by:
        limit = f"this process may use {gib(machine.memory)} of the machine's {gib(machine.memory_present)}"
        return Finding(
            "memory", "note", f"{limit} ({machine.limited_by}); {gib(machine.free)} free", "docker run --memory"
        )
    return Finding("memory", "ok", text)


def _cache(facts: Facts) -> Iterator[Finding]:
    text = f"{facts.cache}, {size(facts.cache_free)} free"
    if facts.cache_problem:
        yield Finding(
            "cache", "wrong", f"{facts.cache}: {facts.cache_problem}", "let HF_HOME name a folder you may write to"
        )
    elif facts.cache_free < LITTLE_DISK:
        yield Finding("cache", "note", text, "make room, or let HF_HOME name a folder on another disk")
    else:
        yield Finding("cache", "ok", text)
    if facts.unfinished:
        yield Finding(
            "downloads",
            "note",
            f"{size(facts.unfinished)} of interrupted downloads",
            "the same pull goes on; rm frees them",
        )


def _network(facts: Facts) -> Finding:
    if facts.network:
        return Finding("network", "note", f"{facts.endpoint}: {facts.network}", "what is downloaded runs without it")
    return Finding("network", "ok", f"{facts.endpoint} answers")


def _token(facts: Facts) -> Finding:
    if facts.token_problem:
        return Finding("token", "wrong", facts.token_problem, "copy it once more, or `hf auth login`")
    return Finding("token", "ok", f"from {facts.token}" if facts.token else "none: only gated models need one")


def _catalogue(facts: Facts) -> Finding:
    if facts.unreadable:
        return Finding("catalogue", "wrong", facts.unreadable)
    return Finding("catalogue", "ok", f"{facts.emulators} emulators; here: {', '.join(facts.here) or 'none'}")
