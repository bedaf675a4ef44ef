"""Reads the configuration, builds every object, starts and stops: the only place that wires.

    longshore-controller --config FILE.toml        serve until SIGTERM or SIGINT
    longshore-controller --check-config            print the resolved configuration

It exits with 0 when it was asked to end, 2 for a configuration that cannot be used, else 1 with a reason.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import grpc
import structlog
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from longshore_api.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    auth_service_pb2,
    auth_service_pb2_grpc,
    batch_service_pb2,
    batch_service_pb2_grpc,
    billing_service_pb2,
    billing_service_pb2_grpc,
    worker_service_pb2,
    worker_service_pb2_grpc,
)

from longshore_controller.admin import AdminService
from longshore_controller.api import BatchService
from longshore_controller.auth import About, AuthService
from longshore_controller.billing import BillingService
from longshore_controller.callbacks import Callbacks
from longshore_controller.config import Config, ConfigError, Server, load, show
from longshore_controller.core.model import Refusal
from longshore_controller.core.reactor import Limits
from longshore_controller.engine import Engine, SteadyClock, new_attempt_id
from longshore_controller.feed import Feed
from longshore_controller.interceptors import Doorkeeper, Refusals, Tokens, check_policy, hash_of
from longshore_controller.login import Provider
from longshore_controller.logs import Logs
from longshore_controller.sessions import Terms, WorkerService
from longshore_controller.store import Store, StoreInUse, StoreUnavailable
from longshore_controller.wire import records
from longshore_controller.wire.submission import Bounds

THREADS = 16
"""For the database, which has eight connections for them, and for files of logs."""
FORGET_EVERY_S = 600.0
READY_EVERY_S = 0.05

MESSAGE_BYTES = 16 << 20
OPTIONS = [
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    # A peer that vanished is noticed, hung or not; a client may ask as often as ours do.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 0),
]

SERVICES = (
    auth_service_pb2.DESCRIPTOR.services_by_name["AuthService"],
    batch_service_pb2.DESCRIPTOR.services_by_name["BatchService"],
    billing_service_pb2.DESCRIPTOR.services_by_name["BillingService"],
    worker_service_pb2.DESCRIPTOR.services_by_name["WorkerService"],
    admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"],
    health_pb2.DESCRIPTOR.services_by_name["Health"],
)

log = logging.getLogger("longshore_controller")


class CannotStart(Exception):
    """Why, in words for whoever starts it."""


class Controller:
    """Everything, wired; `serving` opens it to callers."""

    def __init__(self, config: Config) -> None:
        """CannotStart when the database's URL names none."""
        self._config = config
        try:
            self.store = Store(
                config.database.url,
                encode_events=records.encode_events,
                decode_events=records.decode_events,
                encode_containers=records.encode_containers,
                decode_containers=records.decode_containers,
            )
        except ValueError as error:
            raise CannotStart(f"database.url: {error}") from error
        workers = config.workers
        limits = Limits(lease_ms=workers.lease_ms, grace_ms=workers.grace_ms)
        self.feed = Feed()
        self._clock = clock = SteadyClock()
        self.engine = Engine(self.store, self.feed, limits, clock=clock, new_id=new_attempt_id)
        self.logs = Logs(Path(config.store.logs))
        private = config.service.private_callbacks
        bounds = Bounds(config.store.folder, workers.largest_mcpu, private)
        about = About(
            _version(), config.service.embedded, config.remote_tmpdir, tuple(config.service.notices)
        )
        self._tokens = Tokens(self.store, clock.now_ms)
        self._refusals = Refusals(self.store, clock.now_ms)
        try:
            provider = Provider(config.login) if config.login.issuer else None
        except OSError as error:
            raise CannotStart(f"login: {error.filename}: {error.strerror}") from error
        self._auth = AuthService(
            about,
            bounds,
            self.engine,
            self.feed,
            self.store,
            self._tokens,
            provider,
            frozenset(config.login.domains),
        )
        self._admin = AdminService(self.engine, self.store, self._tokens)
        self._billing = BillingService(self.store, self.engine)
        self._batches = BatchService(
            self.store,
            self.engine,
            self.feed,
            self.logs,
            bounds,
            makes_projects=config.service.embedded,
        )
        self._workers = WorkerService(
            self.store,
            self.engine,
            self.feed,
            self.logs,
            Terms(workers.lease_ms, workers.heartbeat_ms),
            on_activated=self._renew_activation_token,
        )
        self._callbacks = Callbacks(self.store, self.engine, self.feed, private=private)
        self._health = health.aio.HealthServicer()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[tuple[str, asyncio.Task[None]]]:
        """Where it listens, and its loop, which ends before it is stopped only if it fails.

        StoreInUse, StoreUnavailable, CannotStart.
        """
        check_policy(SERVICES)
        await asyncio.to_thread(self.store.open)
        try:
            await asyncio.to_thread(self._let_owner_in)
            await self._renew_activation_token()
            loop = asyncio.create_task(self.engine.run())
            door = Doorkeeper(self._tokens, self._refusals)
            server = aio.server(interceptors=[door], options=OPTIONS)
            work = self._clean_up(), self._report_ready(), self._callbacks.run(), self._refusals.run()
            chores = [asyncio.create_task(each) for each in work]
            try:
                yield await self._listen(server), loop
            finally:
                for chore in chores:
                    chore.cancel()
                await self._health.enter_graceful_shutdown()
                await server.stop(self._config.server.grace_ms / 1000)
                await self._workers.stop()
                self.engine.stop()
                await asyncio.gather(loop, *chores, return_exceptions=True)
        finally:
            await asyncio.to_thread(self.store.close)

    async def _listen(self, server: aio.Server) -> str:
        auth_service_pb2_grpc.add_AuthServiceServicer_to_server(self._auth, server)
        batch_service_pb2_grpc.add_BatchServiceServicer_to_server(self._batches, server)
        billing_service_pb2_grpc.add_BillingServiceServicer_to_server(self._billing, server)
        admin_service_pb2_grpc.add_AdminServiceServicer_to_server(self._admin, server)
        worker_service_pb2_grpc.add_WorkerServiceServicer_to_server(self._workers, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        await self._health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        listen = self._config.server.listen
        credentials = _credentials(self._config.server)
        try:
            if credentials is None:
                port = server.add_insecure_port(listen)
            else:
                port = server.add_secure_port(listen, credentials)
        except RuntimeError as error:
            raise CannotStart(
                f"server.listen: cannot listen on {listen}: it is taken or not this machine's; "
                "choose another, or port 0 for a free one"
            ) from error
        await server.start()
        return listen if listen.startswith("unix:") else f"{listen.rpartition(':')[0]}:{port}"

    async def _report_ready(self) -> None:
        """Healthy once the engine has loaded; later absences of the database are told call by call."""
        while True:
            with suppress(Refusal):
                await self.engine.submit(lambda r, now: None)
                break
            await asyncio.sleep(READY_EVERY_S)
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)

    async def _clean_up(self) -> None:
        keep_ms = self._config.database.keep_events_ms
        while True:
            try:
                while await asyncio.to_thread(self.store.forget_events, self._clock.now_ms() - keep_ms):
                    pass
                while await asyncio.to_thread(self.store.drop_staged):
                    pass
            except StoreUnavailable as away:
                log.warning("old events and dropped jobs stay for now: %s", away)
            await asyncio.sleep(FORGET_EVERY_S)

    def _let_owner_in(self) -> None:
        service = self._config.service
        if not service.owner:
            return
        file = Path(service.owner_token_file)
        try:
            if not file.exists():
                _write_secret(file, f"lsu_{secrets.token_urlsafe(32)}")
            elif file.stat().st_mode & 0o077:
                raise CannotStart(f"{file}: others can read the token; chmod 600 it, or remove it")
            token = file.read_text().strip()
        except OSError as error:
            raise CannotStart(f"service.owner_token_file {file}: {error.strerror}") from error
        if not token:
            raise CannotStart(f"{file} is empty: remove it, and a new token is made")
        self.store.ensure_user(service.owner, self._clock.now_ms(), admin=True)
        self.store.add_token(service.owner, hash_of(token))

    async def _renew_activation_token(self) -> None:
        """A fresh one for the next worker; the previous one was used, or nobody knows."""
        if not self._config.service.activation_token_file:
            return
        file = Path(self._config.service.activation_token_file)
        token = f"lsa_{secrets.token_urlsafe(32)}"
        await asyncio.to_thread(self.store.add_activation_token, hash_of(token))
        try:
            await asyncio.to_thread(_write_secret, file, token)
        except OSError as error:
            raise CannotStart(f"service.activation_token_file {file}: {error.strerror}") from error


def _credentials(server: Server) -> grpc.ServerCredentials | None:
    """Of TLS, from its files as they are at each handshake; None without. CannotStart."""
    if not server.tls_cert:
        return None
    cert, key = Path(server.tls_cert), Path(server.tls_key)

    def read() -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(key.read_bytes(), cert.read_bytes())])

    def version() -> tuple[int, ...]:
        return *_version_of(cert), *_version_of(key)

    try:
        first, known = read(), version()
    except OSError as error:
        raise CannotStart(f"server.tls_cert, server.tls_key: {error.filename}: {error.strerror}") from error

    def again() -> Any:
        """None: they are the same."""
        nonlocal known
        try:
            if (now := version()) == known:
                return None
            made = read()
        except OSError as error:
            log.warning("the certificate stays as it was: %s", error)
            return None
        known = now
        log.info("a new certificate: %s", cert)
        return made

    return grpc.dynamic_ssl_server_credentials(first, again)


def _version_of(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_mtime_ns, found.st_ino


def _write_secret(file: Path, secret: str) -> None:
    """Whole or not at all, for us alone to read."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w") as opened:
        opened.write(secret + "\n")
    new.rename(file)


async def serve(config: Config) -> int:
    """Until it is asked to end, or cannot go on. The exit code."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="io"))
    asked = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    endpoint_file = Path(config.server.endpoint_file) if config.server.endpoint_file else None
    async with Controller(config).serving() as (endpoint, engine):
        log.info("listening on %s", endpoint)
        if endpoint_file:
            await asyncio.to_thread(_write_secret, endpoint_file, endpoint)
        asking = asyncio.create_task(asked.wait())
        await asyncio.wait([asking, engine], return_when=asyncio.FIRST_COMPLETED)
        asking.cancel()
        if endpoint_file:
            endpoint_file.unlink(missing_ok=True)
        if engine.done():
            failure = engine.exception()
            log.error("the engine has ended: %s", failure, exc_info=failure)
            return 1
        log.info("asked to end")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="longshore-controller", description="The controller of Longshore.")
    parser.add_argument("--config", type=Path, metavar="FILE.toml", help="see ARCHITECTURE.md for its keys")
    parser.add_argument(
        "--check-config", action="store_true", help="print the resolved configuration, and exit"
    )
    options = parser.parse_args(arguments)
    try:
        config = load(options.config, os.environ)
    except ConfigError as error:
        for problem in error.problems:
            print(f"longshore-controller: {problem}", file=sys.stderr)
        return 2
    if options.check_config:
        print(show(config))
        return 0
    _log_to_stderr(config.server)
    try:
        return asyncio.run(serve(config))
    except (StoreInUse, StoreUnavailable, CannotStart) as error:
        log.error("cannot start: %s", error)
        return 1


def _log_to_stderr(server: Server) -> None:
    """One line for each fact; a traceback never shows the values of variables, which may be secrets."""
    plain = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    json = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ExtraAdder(),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *(json if server.log_format == "json" else [plain]),
        ],
    )
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _version() -> str:
    try:
        return version("longshore")
    except PackageNotFoundError:
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
