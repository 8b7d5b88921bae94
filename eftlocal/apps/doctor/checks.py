"""Turns facts about a machine into the findings of `eftlocal doctor`. It does not look at the machine itself."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from eftlocal.apps.common import size
from eftlocal.runtime.plan.machine import Machine
from eftlocal.runtime.plan.placement import gib

__all__ = ["Facts", "Finding", "findings", "reinstall"]

State = Literal["ok", "note", "wrong"]

WHEELS: Final = "https://abetlen.github.io/llama-cpp-python/whl"
WHEEL_PYTHONS: Final = ((3, 10), (3, 11), (3, 12))  # the Python versions that these wheels are built for
FORCE: Final = "pip install --force-reinstall --no-cache-dir"
LITTLE_DISK: Final = 5_000_000_000  # bytes; with less free disk there is a note
BACKENDS: Final = {"nvidia": "CUDA", "apple": "Metal", "amd": "Vulkan", "intel": "Vulkan"}


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. "wrong" means that something is slow or does not work; `todo` says what to do."""

    name: str
    state: State
    text: str
    todo: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of this machine and installation.

    translated     whether this is an Intel Python that runs on Apple Silicon under Rosetta
    features       the features of the llama.cpp build, by its own names, with their values
    rpc            the command that builds llama.cpp with RPC
    offload        whether the build can run layers on a device
    gpus           the makers of the system's GPUs: nvidia, apple, amd, intel
    cuda           the newest CUDA version that the driver supports, such as (12, 4); None if it is unknown
    cache_problem  why nothing can be written to the cache folder; None if it is writable
    unfinished     bytes of interrupted downloads
    network        why the Hub cannot be reached; None if it can
    token          where the Hub token comes from (never the token itself); None without a token
    token_problem  why no request can carry the token
    here           the names of the emulators whose files are all on this machine
    mistakes       what is wrong in the models.toml files: for each mistake a text, and what to do if that is known
    """

    system: str
    python: tuple[int, int, int]
    architecture: str
    translated: bool
    bindings: str
    features: Mapping[str, str]
    rpc: str
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
    mistakes: Sequence[tuple[str, str | None]]


def findings(facts: Facts) -> Iterator[Finding]:
    """All findings about these facts, the installation first."""
    yield _python(facts)
    yield _build(facts)
    yield _rpc(facts)
    yield from _devices(facts)
    yield _cores(facts)
    yield _memory(facts)
    yield from _cache(facts)
    yield _network(facts)
    yield _token(facts)
    yield from _catalogue(facts)


def _python(facts: Facts) -> Finding:
    version = f"{'.'.join(map(str, facts.python))}, {facts.system} {facts.architecture}"
    if facts.translated:
        todo = "install an arm64 Python (from python.org or Homebrew in /opt/homebrew), then install eftlocal with it"
        return Finding("python", "wrong", f"{version}: an Intel Python under Rosetta is many times slower", todo)
    return Finding("python", "ok", version)


def _build(facts: Facts) -> Finding:
    on = [name if value == "1" else f"{name} {value}" for name, value in facts.features.items()]
    text = f"llama-cpp-python {facts.bindings}: {', '.join(on) or 'features unknown'}"
    if facts.architecture.lower() in ("x86_64", "amd64") and facts.features and "AVX2" not in facts.features:
        return Finding(
            "build", "note", f"{text}; built without AVX2", f"{FORCE} --no-binary llama-cpp-python llama-cpp-python"
        )
    return Finding("build", "ok", text)


def _rpc(facts: Facts) -> Finding:
    """Whether this build can serve layers to, or have layers on, other machines."""
    if "RPC" in facts.features:
        return Finding("rpc", "ok", "in this build: eftlocal worker, and --rpc")
    return Finding("rpc", "ok", f"not in this build, which only `eftlocal worker` and --rpc need; {facts.rpc}")


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
                "this build can offload layers, but it finds no device",
                "check the driver with nvidia-smi or vulkaninfo",
            )
        return
    if not facts.gpus:
        yield Finding("device", "ok", "none: everything runs on the CPU")
        return
    for gpu in facts.gpus:
        backend = BACKENDS[gpu]
        serious: State = "note" if gpu == "intel" else "wrong"
        text = f"there is a GPU ({gpu}), but this llama-cpp-python is built for the CPU alone"
        yield Finding("device", serious, text, reinstall(facts, backend))


def reinstall(facts: Facts, backend: str) -> str:
    """The command that installs llama-cpp-python for `backend` (CUDA, Metal or Vulkan) on this system.

    It takes a ready-made wheel if there is one (llama-cpp-python's README, "Supported Backends"), and else a build.
    """
    wheel = {"CUDA": _cuda_wheel(facts.cuda), "Metal": "metal", "Vulkan": "vulkan"}[backend]
    if wheel and facts.python[:2] in WHEEL_PYTHONS:
        return f"{FORCE} llama-cpp-python --extra-index-url {WHEELS}/{wheel}"
    flag = f"-DGGML_{backend.upper()}=on"
    build = f"{FORCE} --no-binary llama-cpp-python llama-cpp-python"
    return f'$env:CMAKE_ARGS = "{flag}"; {build}' if facts.system == "Windows" else f'CMAKE_ARGS="{flag}" {build}'


def _cuda_wheel(driver: tuple[int, int] | None) -> str | None:
    """The newest CUDA wheel that works with a driver of this CUDA version; None if there is none."""
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
            "cores", "note", f"{limit}; {facts.threads}", "to use more, raise the limit: docker run --cpus, or taskset"
        )
    return Finding("cores", "ok", text)


def _memory(facts: Facts) -> Finding:
    machine = facts.machine
    text = f"{gib(machine.free)} of {gib(machine.memory)} free"
    if machine.limited_by:
        limit = f"this process may use {gib(machine.memory)} of the machine's {gib(machine.memory_present)}"
        return Finding(
            "memory",
            "note",
            f"{limit} ({machine.limited_by}); {gib(machine.free)} free",
            "to use more, raise the limit: docker run --memory",
        )
    return Finding("memory", "ok", text)


def _cache(facts: Facts) -> Iterator[Finding]:
    text = f"{facts.cache}, {size(facts.cache_free)} free"
    if facts.cache_problem:
        yield Finding(
            "cache", "wrong", f"{facts.cache}: {facts.cache_problem}", "set HF_HOME to a folder that you can write to"
        )
    elif facts.cache_free < LITTLE_DISK:
        yield Finding("cache", "note", text, "free some space, or set HF_HOME to a folder on another disk")
    else:
        yield Finding("cache", "ok", text)
    if facts.unfinished:
        yield Finding(
            "downloads",
            "note",
            f"{size(facts.unfinished)} of interrupted downloads",
            "`eftlocal pull NAME` continues them; `eftlocal rm NAME` deletes them",
        )


def _network(facts: Facts) -> Finding:
    if facts.network:
        return Finding("network", "note", f"{facts.endpoint}: {facts.network}", "downloaded models run without it")
    return Finding("network", "ok", f"{facts.endpoint} answers")


def _token(facts: Facts) -> Finding:
    if facts.token_problem:
        return Finding("token", "wrong", facts.token_problem, "copy the token again, or run `hf auth login`")
    return Finding("token", "ok", f"from {facts.token}" if facts.token else "none: only gated models need one")


def _catalogue(facts: Facts) -> Iterator[Finding]:
    for mistake, todo in facts.mistakes:
        yield Finding("catalogue", "wrong", mistake, todo)
    if facts.emulators:
        yield Finding("catalogue", "ok", f"{facts.emulators} emulators; here: {', '.join(facts.here) or 'none'}")
