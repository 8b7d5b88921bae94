"""The ASGI application: finds the endpoint of a request, guards it, tells errors, and logs a line."""

import asyncio
import re
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from eftlocal.apps.serve import endpoints
from eftlocal.apps.serve.answering import LeftError, Usage
from eftlocal.apps.serve.errors import Refused
from eftlocal.apps.serve.guard import Access
from eftlocal.apps.serve.service import Service
from eftlocal.text import printable

__all__ = ["App"]

QUIET: Final = ("/health", "/metrics")  # asked every few seconds; logged only with --verbose
LEFT: Final = 499  # the status that logs have for a client that left (nginx)

Endpoint = Callable[[Service, Request], Awaitable[Response]]

ENDPOINTS: Final[Mapping[str, Mapping[str, Endpoint]]] = {
    "/health": {"GET": endpoints.health},
    "/metrics": {"GET": endpoints.metrics},
    "/v1/models": {"GET": endpoints.models},
    "/v1/chat/completions": {"POST": endpoints.chat_completions},
    "/v1/completions": {"POST": endpoints.completions},
    "/tokenize": {"POST": endpoints.tokenize},
    "/detokenize": {"POST": endpoints.detokenize},
    "/tokenizer_info": {"GET": endpoints.tokenizer_info},
}
MODEL: Final = "/v1/models/"  # and a model's id


class App:
    """The application. verbose: also log what is asked often; debug: log tracebacks."""

    def __init__(self, service: Service, access: Access, *, verbose: bool, debug: bool) -> None:
        self._service = service
        self._access = access
        self._verbose = verbose
        self._debug = debug

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        began = time.perf_counter()
        path = re.sub("/{2,}", "/", scope["path"])
        scope["path"] = path if path == "/" else path.rstrip("/")
        headers, status = Headers(scope=scope), 0
        cors: dict[str, str] = {}

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                more = [(name.lower().encode(), value.encode("latin-1")) for name, value in cors.items()]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        try:
            self._access.check(headers)
            cors = self._access.cors(headers.get("origin"))
            if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                response: Response = Response(status_code=204, headers=self._access.preflight(headers))
                cors = {}
            else:
                self._access.check_key(headers)
                request = Request(scope, receive)
                response = await self._endpoint(scope)(self._service, request)
            await response(scope, receive, sent)
        except Refused as refused:
            if not status:
                await _refusal(refused)(scope, receive, sent)
        except (LeftError, ClientDisconnect):
            status = LEFT
        except asyncio.CancelledError:
            raise
        except Exception as error:  # a fault of ours: the client learns that there is one, the log what it is
            shown = traceback.format_exc() if self._debug else f"{type(error).__name__} (--debug shows where)"
            self._service.tell(f"failed: {shown}")
            if not status:
                failed = Refused(500, "The server failed; its log says why.", kind="server_error")
                await _refusal(failed)(scope, receive, sent)
        finally:
            self._log(scope, status, time.perf_counter() - began)

    def _endpoint(self, scope: Scope) -> Endpoint:
        path, method = scope["path"], "GET" if scope["method"] == "HEAD" else scope["method"]
        methods = {"GET": endpoints.model} if path.startswith(MODEL) else ENDPOINTS.get(path)
        if methods is None:
            raise Refused(404, "There is nothing at this path; the API is under /v1.", code="not_found")
        if method not in methods:
            allowed = ", ".join(methods)
            raise Refused(
                405, f"This path takes only {allowed}.", headers={"Allow": allowed}, code="method_not_allowed"
            )
        return methods[method]

    def _log(self, scope: Scope, status: int, seconds: float) -> None:
        path = scope["path"]
        known = path in ENDPOINTS
        self._service.metrics.requests[path if known else "other", status or LEFT] += 1
        if path in QUIET and not self._verbose:
            return
        parts = [scope["method"], path if known else path[:80], str(status or LEFT)]
        if (model := scope.get("eftlocal.model")) is not None:
            parts.append(model[:80])
        usage = scope.get("eftlocal.usage")
        if isinstance(usage, Usage):
            parts.append(f"{sum(usage.prompts.values())}+{sum(usage.answers.values())} tokens")
        self._service.tell(printable(" ".join([*parts, f"{seconds:.3f} s"])))


def _refusal(refused: Refused) -> Response:
    return Response(refused.text, refused.status, refused.headers, "application/json")
