"""Workers' devices in the process that holds a model. Only that process registers them.

llama.cpp would put layers of every model there, and it ends a process whose worker goes away.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from eftlocal.catalog.endpoints import Endpoint
from eftlocal.runtime.plan.loads import Offload

__all__ = ["register", "renamed"]


def register(endpoints: Sequence[Endpoint]) -> Mapping[str, str]:
    """Makes the workers' devices known here. Returns the plan's names ("127.0.0.1:50052") -> llama.cpp's ("RPC0").

    Probe each worker first: if one is not there, llama.cpp ends the process. Raises WorkerError and ModelLoadError.
    """
    if not endpoints:
        return {}
    from eftlocal.runtime.llama import rpc
    from eftlocal.runtime.rpc.build import must_support

    must_support()
    found = {}
    for endpoint in endpoints:
        for i, name in enumerate(rpc.add_worker(str(endpoint))):
            found[endpoint.device(i)] = name
    return found


def renamed(offload: Offload, names: Mapping[str, str]) -> Offload:
    """The offload with llama.cpp's names of the devices."""
    return replace(offload, devices=tuple(names.get(name, name) for name in offload.devices))
