"""By TLS, with a certificate of a CA of the test's; in the clear only within this machine."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import random
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from integration.controller.service import config_of
from longshore import Client
from longshore.errors import Unavailable, UsageError
from longshore_controller.__main__ import CannotStart, Controller
from longshore_controller.config import Config, ConfigError, Server, load
from longshore_workerd.identity import Memory
from longshore_workerd.session import Introduction, activate

PEM, DAY = serialization.Encoding.PEM, datetime.timedelta(days=1)


class Authority:
    """A CA. `issue` writes a certificate for 127.0.0.1 and its key."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._made = self._certificate(self._key, self._name, ca=True)
        self.pem = self._made.public_bytes(PEM)

    def _certificate(
        self, key: ec.EllipticCurvePrivateKey, subject: x509.Name, *, ca: bool
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(here, critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def issue(self, folder: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "longshore")])
        pem = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (folder / "key.pem").write_bytes(pem)
        (folder / "cert.pem").write_bytes(self._certificate(key, name, ca=False).public_bytes(PEM))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    Authority("first").issue(tmp_path)
    config = config_of(tmp_path)
    server = replace(config.server, tls_cert=str(tmp_path / "cert.pem"), tls_key=str(tmp_path / "key.pem"))
    return replace(config, server=server)


def who_am_i(endpoint: str, token: str) -> str:
    with Client(endpoint=endpoint, token=token, retry_s=0) as client:
        return client.session().user


async def test_who_trusts_the_ca_is_served_also_after_the_certificate_was_replaced(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Authority("first"), Authority("second")
    first.issue(tmp_path)
    for authority, name in ((first, "first.pem"), (second, "second.pem")):
        (tmp_path / name).write_bytes(authority.pem)

    def trusting(name: str) -> str:
        monkeypatch.setenv("LONGSHORE_CA_FILE", str(tmp_path / name))
        return who_am_i(endpoint, token)

    async with Controller(config).serving() as (endpoint, _):
        token = Path(config.service.owner_token_file).read_text().strip()
        assert await asyncio.to_thread(trusting, "first.pem") == "ada"
        with pytest.raises(Unavailable):
            await asyncio.to_thread(trusting, "second.pem")
        monkeypatch.delenv("LONGSHORE_CA_FILE")
        with pytest.raises(Unavailable):  # In the clear.
            await asyncio.to_thread(who_am_i, endpoint, token)
        second.issue(tmp_path)
        assert await asyncio.to_thread(trusting, "second.pem") == "ada"
        (tmp_path / "cert.pem").unlink()  # What cannot be read changes nothing.
        assert await asyncio.to_thread(trusting, "second.pem") == "ada"


async def test_a_worker_that_trusts_the_ca_is_activated(config: Config, tmp_path: Path) -> None:
    authority = Authority("first")
    authority.issue(tmp_path)
    async with Controller(config).serving() as (endpoint, _):
        token = Path(config.service.activation_token_file).read_text().strip()
        introduction = Introduction("w", "boot", "incarnation", "1", 1000, "fake")
        (tmp_path / "workerd").mkdir()
        memory = Memory(tmp_path / "workerd")
        identity = await activate(
            endpoint, introduction, memory, lambda: token, random.Random(1), ca=authority.pem
        )
        assert identity.worker_token.startswith("lsw_")


def test_a_ca_file_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGSHORE_CA_FILE", "/nowhere.pem")
    with pytest.raises(UsageError, match="ca_file /nowhere.pem cannot be read"):
        who_am_i("127.0.0.1:1", "token")


@pytest.mark.parametrize(
    ("server", "problem"),
    [
        (Server(listen="0.0.0.0:7070"), "server.listen: only this machine"),
        (Server(listen="0.0.0.0:7070", tls_cert="/c"), "server.tls_key: required with server.tls_cert"),
        (Server(tls_key="/k"), "server.tls_key: required with server.tls_cert"),
    ],
)
def test_nothing_is_said_to_the_network_in_the_clear(server: Server, problem: str) -> None:
    environment = {
        f"LONGSHORE_CONTROLLER_SERVER_{key.upper()}": getattr(server, key)
        for key in ("listen", "tls_cert", "tls_key")
        if getattr(server, key)
    }
    with pytest.raises(ConfigError) as refused:
        load(None, environment)
    assert any(line.startswith(problem) for line in refused.value.problems)


async def test_a_certificate_that_cannot_be_read_stops_the_start(config: Config) -> None:
    Path(config.server.tls_key).unlink()
    with pytest.raises(CannotStart, match=r"key\.pem: No such file"):
        async with Controller(config).serving():
            pass
