"""Whom a call is from, where proxies stand between, and which key routes it."""

from collections.abc import Sequence

import pytest

from vlm2vec_service.frontend.forwarding import Forwarding
from vlm2vec_service.networks import Networks
from vlm2vec_service.settings import AuthSettings

TRUSTED = "10.0.0.0/8, fd00::/8, unix"


def client(trusted: str, peer: str, *values: str) -> str:
    """The address that a call from ``peer`` goes by, with these values of X-Forwarded-For."""
    return forwarding(trusted).client(
        peer, lambda name: values if name == "x-forwarded-for" else ("ipv4:1.1.1.1",)
    )


def forwarding(trusted: str = "", header: str = "x-routing-key") -> Forwarding:
    return Forwarding.of(AuthSettings(trusted_proxies=trusted, routing_key_header=header))


@pytest.mark.parametrize(
    ("peer", "values", "found"),
    [
        ("ipv4:10.0.0.1:5", ["1.2.3.4"], "ipv4:1.2.3.4"),
        ("ipv4:10.0.0.1:5", ["1.2.3.4:80"], "ipv4:1.2.3.4"),
        ("ipv4:10.0.0.1:5", [" 2001:db8::1 "], "ipv6:[2001:db8::1]"),
        ("ipv4:10.0.0.1:5", ["[2001:db8::1]:80"], "ipv6:[2001:db8::1]"),
        ("ipv4:10.0.0.1:5", ["::ffff:1.2.3.4"], "ipv4:1.2.3.4"),
        # What stands before the proxies' own words may be anybody's.
        ("ipv4:10.0.0.1:5", ["9.9.9.9, 1.2.3.4"], "ipv4:1.2.3.4"),
        ("ipv4:10.0.0.1:5", ["9.9.9.9", "1.2.3.4"], "ipv4:1.2.3.4"),
        ("ipv4:10.0.0.1:5", ["10.6.6.6, 1.2.3.4, 10.0.0.2"], "ipv4:1.2.3.4"),
        ("ipv4:10.0.0.1:5", ["1.2.3.4, 10.0.0.3", "10.0.0.2:8080"], "ipv4:1.2.3.4"),
        ("ipv4:10.0.0.1:5", ["10.0.0.4, 10.0.0.3"], "ipv4:10.0.0.4"),
        ("ipv4:10.0.0.1:5", ["1.2.3.4, unknown, 10.0.0.2"], "ipv4:10.0.0.2"),
        ("ipv6:[fd00::1]:5", ["1.2.3.4"], "ipv4:1.2.3.4"),
        ("ipv6:%5Bfd00::1%5D:5", ["1.2.3.4"], "ipv4:1.2.3.4"),
        ("ipv6:[::ffff:10.0.0.1]:5", ["1.2.3.4"], "ipv4:1.2.3.4"),
        ("unix:", ["1.2.3.4"], "ipv4:1.2.3.4"),
        # Nothing is said, or by nobody who is trusted.
        ("ipv4:10.0.0.1:5", [], ""),
        ("ipv4:10.0.0.1:5", [""], ""),
        ("ipv4:10.0.0.1:5", ["unknown"], ""),
        ("ipv4:10.0.0.1:5", ["1.2.3.4,"], ""),
        ("ipv4:11.0.0.1:5", ["1.2.3.4"], ""),
        ("ipv6:[fe80::1%25eth0]:5", ["1.2.3.4"], ""),
        ("", ["1.2.3.4"], ""),
    ],
)
def test_the_address_is_what_the_outermost_trusted_proxy_saw(
    peer: str, values: Sequence[str], found: str
) -> None:
    assert client(TRUSTED, peer, *values) == found
    assert client("", peer, *values) == ""


def test_a_socket_file_is_trusted_by_name_only() -> None:
    assert client("10.0.0.0/8", "unix:", "1.2.3.4") == ""
    assert client("unix", "ipv4:10.0.0.1:5", "1.2.3.4") == ""
    assert not Networks.parse(" , ")


def test_the_routing_key_is_the_header_that_the_setting_names() -> None:
    headers = {"x-routing-key": ["user 1"], "x-user": ["a", "b"]}

    def key(header: str) -> str:
        return forwarding(header=header).routing_key(lambda name: headers.get(name, []))

    assert key("X-Routing-Key") == "user 1"
    assert key("x-user") == "a,b"
    assert key("x-other") == ""
    assert key("") == ""
