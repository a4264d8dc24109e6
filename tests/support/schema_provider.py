"""A Terraform provider that knows a schema and nothing else, so that `init`, `validate` and `test` run offline.

    schema_provider.py SCHEMA.json

Terraform starts it and speaks plugin protocol 6 over a Unix socket (TF_DISABLE_PLUGIN_TLS=1). It can neither read nor
create anything: tests use `mock_provider`. Runs in an environment of its own, with the package `tf`.
"""

import json
import sys
import tempfile
import threading
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped,import-not-found,unused-ignore]
from tf.gen import (  # type: ignore[import-not-found]
    grpc_controller_pb2,
    grpc_controller_pb2_grpc,
    tfplugin_pb2,
    tfplugin_pb2_grpc,
)

NESTING = {"list": 2, "set": 3, "single": 1}
LONGEST_SECONDS = 300


def attribute(name: str, told: dict[str, Any]) -> Any:
    """One attribute's schema."""
    flags = {flag: told.get(flag, False) for flag in ("required", "optional", "computed")}
    return tfplugin_pb2.Schema.Attribute(name=name, type=json.dumps(told["type"]).encode(), **flags)


def block(told: dict[str, Any]) -> Any:
    """A block's schema, the blocks in it included."""
    return tfplugin_pb2.Schema.Block(
        attributes=[attribute(name, each) for name, each in told["attributes"].items()],
        block_types=[nested(name, each) for name, each in told["blocks"].items()],
    )


def nested(name: str, told: dict[str, Any]) -> Any:
    """A block that stands in another."""
    single = told["nesting"] == "single"
    bounds = {} if single else {"min_items": told["min"], "max_items": told["max"]}
    nesting = NESTING[told["nesting"]]
    return tfplugin_pb2.Schema.NestedBlock(type_name=name, block=block(told), nesting=nesting, **bounds)


def schema(told: dict[str, Any]) -> Any:
    """A type's schema."""
    return tfplugin_pb2.Schema(version=0, block=block(told))


class Provider(tfplugin_pb2_grpc.ProviderServicer):  # type: ignore[misc]
    """Answers about the schema; everything is valid to it, as Terraform itself checks against the schema."""

    def __init__(self, told: dict[str, Any]) -> None:
        self._told = told

    def GetMetadata(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        """Which types there are."""
        response = tfplugin_pb2.GetMetadata.Response
        return response(
            resources=[tfplugin_pb2.GetMetadata.ResourceMetadata(type_name=name) for name in self._told["resources"]],
            data_sources=[tfplugin_pb2.GetMetadata.DataSourceMetadata(type_name=name) for name in self._told["data"]],
        )

    def GetProviderSchema(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        """All of it."""
        return tfplugin_pb2.GetProviderSchema.Response(
            provider=schema(self._told["provider"]),
            resource_schemas={name: schema(each) for name, each in self._told["resources"].items()},
            data_source_schemas={name: schema(each) for name, each in self._told["data"].items()},
        )

    def ValidateProviderConfig(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        """Good."""
        return tfplugin_pb2.ValidateProviderConfig.Response()

    def ValidateResourceConfig(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        """Good."""
        return tfplugin_pb2.ValidateResourceConfig.Response()

    def ValidateDataResourceConfig(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        """Good."""
        return tfplugin_pb2.ValidateDataResourceConfig.Response()

    def GetFunctions(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        """None."""
        return tfplugin_pb2.GetFunctions.Response()

    def StopProvider(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        """Nothing to stop."""
        return tfplugin_pb2.StopProvider.Response()


class Controller(grpc_controller_pb2_grpc.GRPCControllerServicer):  # type: ignore[misc]
    """Lets Terraform end the process."""

    def __init__(self, ended: threading.Event) -> None:
        self._ended = ended

    def Shutdown(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        """End."""
        self._ended.set()
        return grpc_controller_pb2.Empty()


def main() -> None:
    """Serve until Terraform has had enough."""
    told, ended = json.loads(Path(sys.argv[1]).read_text()), threading.Event()
    server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.max_send_message_length", 1 << 26)])
    tfplugin_pb2_grpc.add_ProviderServicer_to_server(Provider(told), server)
    grpc_controller_pb2_grpc.add_GRPCControllerServicer_to_server(Controller(ended), server)
    with tempfile.TemporaryDirectory() as folder:
        server.add_insecure_port(f"unix://{folder}/provider")
        server.start()
        print(f"1|6|unix|{folder}/provider|grpc", flush=True)
        ended.wait(LONGEST_SECONDS)
        server.stop(0)


if __name__ == "__main__":
    main()
