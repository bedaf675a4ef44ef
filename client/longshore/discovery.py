"""Where the service is found: arguments, settings (`profiles`), or the file that `longshore up` writes.

Everything of `longshore up` lies in one folder (`home_folder`); its `service.json` says where the
service listens. A token is only ever sent to the endpoint that it came with.
"""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .errors import AuthError, Unavailable, UsageError, WrongType
from .profiles import LOCAL, Setting, profiles, setting, stored_token

_START = "`longshore up` starts a service on this machine; or set LONGSHORE_ENDPOINT and LONGSHORE_TOKEN"


@dataclass(frozen=True, slots=True)
class ServiceAddress:
    """How to reach a service and what to show it."""

    endpoint: str
    """``host:port``, or ``unix:///path``."""
    token: str = field(repr=False)
    ca_file: str = ""
    """Certificates that vouch for the service; empty: those of the system, and none within this machine."""
    file: Path | None = field(default=None, compare=False)
    """The `service.json` that says so; `longshore up` may come back elsewhere, and it says where."""

    @property
    def is_local(self) -> bool:
        """It never leaves this machine, so that it needs no encryption."""
        if self.endpoint.startswith("unix:"):
            return True
        host = self.endpoint.rpartition(":")[0].strip("[]")
        if host == "localhost":
            return True
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False


def home_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of `longshore up`: LONGSHORE_HOME, or ``~/.local/state/longshore/up``."""
    if home := environ.get("LONGSHORE_HOME"):
        return Path(home)
    state = environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "longshore" / "up"


def find_service(
    endpoint: str | None = None, token: str | None = None, environ: Mapping[str, str] = os.environ
) -> ServiceAddress:
    """The service to talk to; see ARCHITECTURE.md, "Where a service is found".

    Raises Unavailable when no service is known, AuthError when there is no token for it, both with
    what to do; UsageError for an endpoint that is none. Nothing is sent anywhere.
    """
    chosen = Setting(endpoint, "") if endpoint else setting("endpoint", environ)
    if chosen is None or chosen.value == LOCAL:
        file = home_folder(environ) / "service.json"
        running = read_service_file(file)
        if running is None:
            raise Unavailable(f"no service is known: there is no {file}", hint=_START)
        return ServiceAddress(running.endpoint, running.token, file=file)
    _check_endpoint(chosen.value)
    found = Setting(token, "") if token else find_token(chosen, environ)
    return ServiceAddress(chosen.value, found.value, _ca_file(chosen.value, environ))


def _ca_file(endpoint: str, environ: Mapping[str, str]) -> str:
    """The environment's, or that of a profile for this endpoint."""
    if file := environ.get("LONGSHORE_CA_FILE"):
        return file
    of_endpoint = (each for each in profiles(environ).values() if each.get("endpoint") == endpoint)
    return next((each["ca_file"] for each in of_endpoint if "ca_file" in each), "")


def find_token(endpoint: Setting, environ: Mapping[str, str] = os.environ) -> Setting:
    """The token for an endpoint that is not `local`: of the environment, of a login, of `longshore up`.

    Raises AuthError when there is none that may be sent there.
    """
    if (token := environ.get("LONGSHORE_TOKEN")) and not endpoint.of_project:
        return Setting(token, "LONGSHORE_TOKEN")
    if (file := environ.get("LONGSHORE_TOKEN_FILE")) and not endpoint.of_project:
        return Setting(_token_of_file(file), "LONGSHORE_TOKEN_FILE")
    if stored := stored_token(endpoint.value, environ):
        return stored
    running_file = home_folder(environ) / "service.json"
    if (running := read_service_file(running_file)) and running.endpoint == endpoint.value:
        return Setting(running.token, str(running_file))
    if token or file:
        raise AuthError(
            f"the token of the environment is not sent to {endpoint.value}, which {endpoint.origin} names",
            hint=f"if you trust it: longshore --endpoint {endpoint.value} login",
        )
    raise AuthError(
        f"there is no token for the service at {endpoint.value}",
        hint="longshore login, or set LONGSHORE_TOKEN",
    )


def read_service_file(file: Path) -> ServiceAddress | None:
    """What `longshore up` wrote; None when there is no file.

    Raises Unavailable when the process that wrote it has ended, or the file is not one of ours.
    """
    try:
        content = json.loads(file.read_text())
        address = ServiceAddress(str(content["endpoint"]), str(content["token"]), file=file)
        pid = int(content["pid"])
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unavailable(f"{file} cannot be read: {error.strerror}", hint=_START) from error
    except (ValueError, KeyError, TypeError) as error:
        raise Unavailable(f"{file} does not say where the service is: {error!r}", hint=_START) from error
    if not is_alive(pid):
        raise Unavailable(f"the service of {file} has ended (process {pid} is gone)", hint=_START)
    return address


def write_service_file(folder: Path, address: ServiceAddress, pid: int) -> Path:
    """Say where the service of `folder` is, readable by its owner alone; replaces what was there at once."""
    file = folder / "service.json"
    temporary = folder / f".service.json.{pid}"
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w") as out:
        json.dump({"endpoint": address.endpoint, "token": address.token, "pid": pid}, out)
    temporary.replace(file)
    return file


def _check_endpoint(endpoint: str) -> None:
    if not isinstance(endpoint, str):
        raise WrongType(f"endpoint must be a str, not {endpoint!r}")
    host, _, port = endpoint.rpartition(":")
    if not endpoint.startswith("unix:") and not (host and "/" not in host and port.isdecimal()):
        raise UsageError(f"endpoint {endpoint!r} must be host:port or unix:///path, e.g. 127.0.0.1:5300")


def _token_of_file(file: str) -> str:
    try:
        return Path(file).read_text().strip()
    except OSError as error:
        raise AuthError(f"LONGSHORE_TOKEN_FILE={file} cannot be read: {error.strerror}") from error


def is_alive(pid: int) -> bool:
    """Whether a process has this id, whosever it is."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
