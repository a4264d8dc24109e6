"""The process that `azure_worker` starts: requests as lines of JSON on stdin, answers on stdout.

Runs on the bundle's packages alone, so it imports nothing of the tests. What the host and the worker say to each other
are protocol buffers; here plain objects stand in for them, with the same fields.
"""

import asyncio
import json
import logging
import os
import sys
import time
import types
import uuid
from typing import Any

_ANSWERS = sys.stdout
sys.stdout = sys.stderr  # whatever the app prints is no answer
sys.path[:0] = sys.argv[1].split(os.pathsep)

import azure_functions_runtime as worker  # type: ignore[import-not-found]  # noqa: E402

SCHEDULE = {"Last": "2026-01-01T00:00:00+00:00", "LastUpdated": "", "Next": "2026-01-01T01:00:00+00:00"}


class Message:
    """A protocol buffer message: fields that were set, None for the others."""

    one_of: tuple[str, ...] = ()

    def __init__(self, **fields: Any) -> None:
        vars(self).update(fields)

    def WhichOneof(self, _: str) -> str | None:  # noqa: N802  # its name there
        """Which field of a choice is set."""
        return next((name for name in self.one_of if name in vars(self)), None)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name[0].isupper():
            raise AttributeError(name)
        return None


def message(name: str, *one_of: str, **constants: Any) -> Any:
    """A kind of message."""
    return type(name, (Message,), {"one_of": one_of, **constants})


_PLAIN = (
    "RpcFunctionMetadata", "FunctionMetadataResponse", "FunctionLoadResponse", "WorkerInitResponse", "WorkerMetadata",
    "RpcException", "InvocationResponse", "RpcHttp", "RpcRetryOptions", "NullableBool", "NullableString",
    "NullableDouble", "NullableTimestamp", "FunctionEnvironmentReloadResponse",
)  # fmt: skip
PROTOS = types.SimpleNamespace(
    TypedData=message("TypedData", "string", "json", "bytes", "http", "int", "double"),
    BindingInfo=message("BindingInfo", undefined=0, **{"in": 0, "out": 1, "inout": 2}),
    StatusResult=message("StatusResult", Failure=0, Success=1, Cancelled=2),
    ParameterBinding=message("ParameterBinding", "data"),
    RpcHttpCookie=message("RpcHttpCookie", SameSite=message("SameSite", Lax=1, Strict=2, ExplicitNone=3)),
    **{name: message(name) for name in _PLAIN},
)


def request(**content: Any) -> Any:
    """A request of the host's."""
    properties = {"host": "127.0.0.1", "protos": PROTOS}
    return types.SimpleNamespace(request=types.SimpleNamespace(**content), properties=properties)


class Collected(logging.Handler):
    """What the worker hands on of each record: its message."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self.lines.append(record.getMessage())


class Host:
    """The host's side of one worker."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._functions: dict[str, Any] = {}
        self._log = Collected()
        self._pauses: list[float] = []
        root = logging.getLogger()
        root.setLevel(logging.INFO)
        root.addHandler(self._log)
        time.sleep = lambda seconds: self._pauses.append(float(seconds))  # a test does not wait

    async def answer(self, asked: dict[str, Any]) -> Any:
        """One line's answer."""
        if asked["do"] == "index":
            return await self._index()
        self._log.lines.clear()
        self._pauses.clear()
        given = {"timer": _tick, "http": _posted}[asked["do"]](asked)
        found = self._functions[asked["name"]]
        bindings = [PROTOS.ParameterBinding(name=name, data=data) for name, data in given.items()]
        trace = types.SimpleNamespace(trace_parent="", trace_state="", attributes={})
        tries = types.SimpleNamespace(retry_count=0, max_retry_count=0, exception=None)
        done = await worker.invocation_request(
            request(
                invocation_request=types.SimpleNamespace(
                    invocation_id=asked.get("invocation") or str(uuid.uuid4()),
                    function_id=found.function_id,
                    input_data=bindings,
                    trigger_metadata={},
                    trace_context=trace,
                    retry_context=tries,
                )
            )
        )
        return self._told(done)

    async def _index(self) -> Any:
        worker.start_threadpool_executor()
        wanted = types.SimpleNamespace(capabilities={}, function_app_directory=self._folder)
        begun = await worker.worker_init_request(request(worker_init_request=wanted))
        if begun.result.status != PROTOS.StatusResult.Success:
            raise RuntimeError(begun.result.exception.message + begun.result.exception.stack_trace)
        indexed = await worker.functions_metadata_request(request())
        self._functions = {found.name: found for found in indexed.function_metadata_results or []}
        for found in self._functions.values():
            loading = types.SimpleNamespace(function_id=found.function_id, metadata=found)
            await worker.function_load_request(request(function_load_request=loading))
        return {name: {"bindings": [json.loads(b) for b in f.raw_bindings]} for name, f in self._functions.items()}

    def _told(self, done: Any) -> dict[str, Any]:
        reply = done.return_value.http if done.return_value is not None else None
        return {
            "ok": done.result.status == PROTOS.StatusResult.Success,
            "exception": done.result.exception.message if done.result.exception else "",
            "status": int(reply.status_code) if reply else 0,
            "body": reply.body.bytes.decode() if reply else "",
            "lines": self._log.lines,
            "pauses": self._pauses,
        }


def _tick(asked: dict[str, Any]) -> dict[str, Any]:
    told = {"Schedule": {"AdjustForDST": True}, "ScheduleStatus": SCHEDULE, "IsPastDue": asked["past_due"]}
    return {"timer": PROTOS.TypedData(json=json.dumps(told))}


def _posted(asked: dict[str, Any]) -> dict[str, Any]:
    body = PROTOS.TypedData(bytes=asked["body"].encode("latin-1"))
    url = "https://app.azurewebsites.net/api/run"
    return {
        "req": PROTOS.TypedData(http=PROTOS.RpcHttp(method="POST", url=url, headers={}, params={}, query={}, body=body))
    }


async def main() -> None:
    """Answer until stdin ends."""
    host = Host(sys.argv[2])
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await host.answer(json.loads(line))), file=_ANSWERS, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
