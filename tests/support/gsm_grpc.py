"""The service behind a gRPC server over TLS. RPCs that it does not have are UNIMPLEMENTED, as gRPC itself answers."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from grpc_status import rpc_status

from .gsm_errors import GoogleError
from .gsm_service import METHODS, Service

NAME = "google.cloud.secretmanager.v1.SecretManagerService"
_THREADS = 32


def served(service: Service, certificate: Path) -> tuple[Any, int]:
    """A server that has been started, and its port. `certificate` has a key and what it is for."""
    content = certificate.read_bytes()
    server = grpc.server(
        ThreadPoolExecutor(_THREADS, thread_name_prefix="strict-secrets"),
        handlers=[grpc.method_handlers_generic_handler(NAME, {rpc: _handler(service, rpc) for rpc in METHODS})],
        options=[("grpc.so_reuseport", 0)],
    )
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(content, content)]))
    server.start()
    return server, port


def _handler(service: Service, rpc: str) -> Any:
    return grpc.unary_unary_rpc_method_handler(
        _answering(service, rpc), METHODS[rpc].request.FromString, lambda reply: reply.SerializeToString()
    )


def _answering(service: Service, rpc: str) -> Callable[[Any, Any], Any]:
    def answer(request: Any, context: Any) -> Any:
        authorization = next((value for name, value in context.invocation_metadata() if name == "authorization"), "")
        try:
            return service.answer(rpc, request, authorization)
        except GoogleError as refusal:
            context.abort_with_status(rpc_status.to_status(refusal.status))

    return answer
