"""A gRPC front that is bad: it stands between a client and a real service and knows no messages."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any, Self

import grpc

_OPTIONS = [("grpc.max_receive_message_length", 16 << 20), ("grpc.enable_http_proxy", 0)]


class BadFront(grpc.GenericRpcHandler):
    """Passes calls on to `endpoint`; use it with ``with``.

    Every third request fails before the service hears of it; of every fifth the service does what was
    asked, and the answer is lost (of a stream of answers, all but the first).
    """

    def __init__(self, endpoint: str) -> None:
        self._numbers = count(1)
        self._channel = grpc.insecure_channel(endpoint, options=_OPTIONS)
        self._server = grpc.server(ThreadPoolExecutor(16), handlers=[self], options=_OPTIONS)
        self.endpoint = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self.refused: list[str] = []
        self.lost: list[str] = []

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.stop(None).wait()
        self._channel.close()

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        method = details.method

        def behaviour(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            n, name = next(self._numbers), method.rpartition("/")[2]
            if n % 3 == 0:
                self.refused.append(name)
                context.abort(grpc.StatusCode.UNAVAILABLE, "refused on purpose")
            pass_on: Any = self._channel.stream_stream(method)
            call = pass_on(requests, timeout=context.time_remaining(), metadata=context.invocation_metadata())
            context.add_callback(call.cancel)
            try:
                if n % 5 == 0:
                    for answer in call:
                        if name.startswith(("Watch", "Read")):
                            yield answer
                            break
                    self.lost.append(name)
                    context.abort(grpc.StatusCode.UNAVAILABLE, "answer lost on purpose")
                yield from call
            except grpc.RpcError as error:
                context.set_trailing_metadata(call.trailing_metadata() or ())
                context.abort(error.code(), error.details() or "")

        return grpc.stream_stream_rpc_method_handler(behaviour)
