"""Which URLs may be called, and which addresses are public."""

from __future__ import annotations

import pytest
from longshore_controller.wire.urls import Target, is_public, target_of


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://example.org", Target(False, "example.org", 80, "/")),
        ("https://example.org/done?x=1&y=%20", Target(True, "example.org", 443, "/done?x=1&y=%20")),
        ("https://example.org:8443/a", Target(True, "example.org", 8443, "/a")),
        ("http://[2606:4700::1111]/", Target(False, "2606:4700::1111", 80, "/")),
        ("http://8.8.8.8#part", Target(False, "8.8.8.8", 80, "/")),
    ],
)
def test_a_url_leads_somewhere(url: str, target: Target) -> None:
    assert target_of(url, private=False) == target


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ftp://example.org/", "http://HOST"),
        ("example.org/done", "http://HOST"),
        ("http://", "http://HOST"),
        ("http://user:secret@example.org/", "password"),
        ("http://example.org:0/", "a port"),
        ("http://example.org:70000/", "not a URL"),
        ("http://[::1/", "not a URL"),
        ("http://example.org/a b", "printable ASCII"),
        ("http://example.org/\r\nHost: x", "printable ASCII"),
        ("http://bücher.example/", "printable ASCII"),
        ("http://example.org/" + "a" * 2_000, "at most 2,000 bytes"),
        ("http://127.0.0.1/", "private network"),
        ("http://[::1]:8080/", "private network"),
        ("http://169.254.169.254/latest", "private network"),
        ("http://10.1.2.3/", "private network"),
    ],
)
def test_a_url_that_cannot_be_called_says_why(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        target_of(url, private=False)


def test_an_operator_may_allow_private_addresses() -> None:
    assert target_of("http://127.0.0.1:81/x", private=True) == Target(False, "127.0.0.1", 81, "/x")


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
        *("100.64.0.1", "224.0.0.1", "224.0.1.1", "240.0.0.1", "255.255.255.255", "192.0.2.1"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "ff0e::1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::a00:1", "2002:7f00:1::"),
    ],
)
def test_addresses_of_ones_own_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "::ffff:8.8.8.8", "2606:4700::1111"])
def test_addresses_of_the_world_are_public(address: str) -> None:
    assert is_public(address)
