"""The endpoints: each takes the service and a request, and returns a response. They raise Refused."""

from starlette.requests import Request
from starlette.responses import Response

from eftlocal.apps.serve import bodies, chat, tokens
from eftlocal.apps.serve import completions as completing
from eftlocal.apps.serve.answering import Answering, encoded
from eftlocal.apps.serve.service import Service

__all__ = [
    "chat_completions",
    "completions",
    "detokenize",
    "health",
    "metrics",
    "model",
    "models",
    "tokenize",
    "tokenizer_info",
]


def _json(value: object, status: int = 200) -> Response:
    return Response(encoded(value), status, media_type="application/json")


async def health(service: Service, request: Request) -> Response:
    """Whether the server can answer."""
    if service.stopping:
        return _json({"status": "stopping"}, 503)
    return _json({"status": "ok"}) if service.ready else _json({"status": "loading"}, 503)


async def metrics(service: Service, request: Request) -> Response:
    """What was counted so far, for Prometheus."""
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _model(service: Service, name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": service.started, "owned_by": "eftlocal"}


async def models(service: Service, request: Request) -> Response:
    """The models that requests may name."""
    service.must_be_ready()
    return _json({"object": "list", "data": [_model(service, name) for name in service.known.ids]})


async def model(service: Service, request: Request) -> Response:
    """One model, also with dials in its id."""
    service.must_be_ready()
    name = request.scope["path"].removeprefix("/v1/models/")
    service.dialled(name)
    return _json(_model(service, name))


async def chat_completions(service: Service, request: Request) -> Response:
    """The next message of a conversation."""
    service.must_be_ready()
    return _logged(request, chat.answer(service, await bodies.read(request)))


async def completions(service: Service, request: Request) -> Response:
    """What follows a text."""
    service.must_be_ready()
    return _logged(request, completing.answer(service, await bodies.read(request)))


async def tokenize(service: Service, request: Request) -> Response:
    """The token ids of a text or a conversation."""
    service.must_be_ready()
    return _json(await tokens.tokenize(service, await bodies.read(request)))


async def detokenize(service: Service, request: Request) -> Response:
    """The text of token ids."""
    service.must_be_ready()
    return _json(await tokens.detokenize(service, await bodies.read(request)))


async def tokenizer_info(service: Service, request: Request) -> Response:
    """What a client needs to use the tokenizer from afar."""
    service.must_be_ready()
    return _json(await tokens.info(service, request.query_params.get("model")))


def _logged(request: Request, answering: Answering) -> Answering:
    request.scope["eftlocal.model"] = answering.shown
    return answering
