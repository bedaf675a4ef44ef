"""Pulls images into a Docker engine, and finds out from a registry's words what its no means."""

from __future__ import annotations

import json
import logging
import re
import time
from typing import Any

import docker
import docker.auth
import requests
from docker.credentials.errors import StoreError
from docker.errors import DockerException
from docker.utils import parse_repository_tag

from longshore_workerd.runtime import ErrorKind, RuntimeRefused

log = logging.getLogger(__name__)

_CONNECT_S = 60
_PULL_S = 1800
_PULL_SILENCE_S = 120


def pull(engine: Any, image: str) -> None:
    """Fetches it, in at most _PULL_S. RuntimeRefused in the registry's words.

    `engine` is a docker.APIClient; what it raises when there is no engine comes through.
    """
    # Not APIClient.pull: it would wait for a registry that has fallen silent for ever.
    repository, tag = parse_repository_tag(image)
    credentials, trouble = _credentials(engine, repository)
    deadline = time.monotonic() + _PULL_S

    def refused(words: str) -> RuntimeRefused:
        return image_refused(image, words, trouble)

    try:
        answer = engine.post(
            f"{engine.base_url}/v{engine.api_version}/images/create",
            params={"fromImage": repository, "tag": tag or "latest"},
            headers={"X-Registry-Auth": credentials} if credentials else {},
            timeout=(_CONNECT_S, _PULL_SILENCE_S),
            stream=True,
        )
    except requests.exceptions.ReadTimeout as error:
        raise refused(f"i/o timeout: silence for {_PULL_SILENCE_S} s") from error
    with answer:
        try:
            for line in answer.iter_lines():
                message = json.loads(line or "{}")
                if not answer.ok or "error" in message:
                    raise refused(message.get("error") or message.get("message", ""))
                if time.monotonic() > deadline:
                    raise refused(f"i/o timeout: not complete after {_PULL_S} s")
        except requests.exceptions.ConnectionError as error:
            if "timed out" not in str(error).lower():
                raise
            raise refused(f"i/o timeout: silence for {_PULL_SILENCE_S} s") from error


def _credentials(engine: Any, repository: str) -> tuple[bytes | None, str]:
    """For its registry, if this machine has any; and what was wrong with the place where they are.

    Then it is tried without: most images need none.
    """
    registry, _ = docker.auth.resolve_repository_name(repository)
    try:
        return docker.auth.get_config_header(engine, registry), ""
    except (DockerException, StoreError) as error:
        log.warning("no credentials for %s, trying without: %s", registry, error)
        return None, f"; this machine's credentials for {registry} cannot be read: {error}"


_KINDS = (
    (ErrorKind.IMAGE_BAD_NAME, "invalid reference|must be lowercase|invalid repository|invalid tag"),
    (
        ErrorKind.IMAGE_NOT_FOUND,
        "not found|manifest unknown|no such image|does not exist|name unknown|no matching manifest",
    ),
    (ErrorKind.IMAGE_NO_ACCESS, "denied|unauthorized|no basic auth|authentication required|forbidden"),
    (
        ErrorKind.IMAGE_UNREACHABLE,
        "dial tcp|no such host|connection refused|timeout|timed out|unreachable|tls|x509|eof|"
        "server misbehaving|name resolution|connection reset|too ?many ?requests|received unexpected http|"
        "service unavailable|server gave http response",
    ),
)
_WORDS = {
    ErrorKind.IMAGE_BAD_NAME: "is not the name of an image",
    ErrorKind.IMAGE_NOT_FOUND: "does not exist, here or in its registry",
    ErrorKind.IMAGE_NO_ACCESS: "may not be pulled: the registry refused access",
    ErrorKind.IMAGE_UNREACHABLE: "cannot be pulled: its registry does not answer",
    ErrorKind.NONE: "cannot be pulled",
}


def image_refused(image: str, words: str, trouble: str = "") -> RuntimeRefused:
    """The engine passes on what a registry said as text alone, under any status.

    `trouble`, which may be the cause of it, is told as well.
    """
    kind = ErrorKind.NONE
    for each, pattern in _KINDS:
        # "lookup ... not found" is the name service speaking of the registry.
        if re.search(pattern, words, re.IGNORECASE) and not (
            each == ErrorKind.IMAGE_NOT_FOUND and re.search("dial tcp|lookup", words)
        ):
            kind = each
            break
    return RuntimeRefused(kind, f"image {image!r} {_WORDS[kind]} ({words.strip()}{trouble})")
