"""What the value of a setting may be, as types of click's: `KINDS` by the word of the setting."""

import math
import re
from pathlib import Path
from typing import Any

import click

from vlm2vec_service.addresses import host_and_port
from vlm2vec_service.networks import Networks

HEADER = re.compile(r"[a-z0-9][a-z0-9_-]*")
DEVICE = re.compile(r"cpu|cuda(:\d+)?")


class Text(click.ParamType):  # type: ignore[type-arg]  # which older versions do not know
    """A text that is refused unless `problem` has nothing to say; it may be empty."""

    name = "text"

    def __init__(self, unit: str) -> None:
        self.unit = unit

    def problem(self, value: str) -> str:
        """Says what is wrong with ``value``; nothing if it is good."""
        raise NotImplementedError

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Returns ``value`` as it is."""
        if value and (problem := self.problem(value)):
            self.fail(f"{value!r} {problem}", param, ctx)
        return value


class Address(Text):
    """An address to listen on or to connect to: HOST:PORT, or where ``sockets`` are allowed
    unix:PATH as well."""

    def __init__(self, sockets: bool) -> None:
        super().__init__("HOST:PORT|unix:PATH" if sockets else "HOST:PORT")
        self.sockets = sockets

    def problem(self, value: str) -> str:
        """Says why ``value`` is no address."""
        if self.sockets and value.startswith(("unix:", "unix-abstract:")):
            return "" if value.partition(":")[2] else "has no path behind unix:"
        try:
            host_and_port(value)
        except ValueError as error:
            return str(error)
        return ""


class File(Text):
    """A file that can be read."""

    def problem(self, value: str) -> str:
        """Says why ``value`` cannot be read."""
        path = Path(value)
        try:
            with path.open("rb"):
                return ""
        except OSError as error:
            return f"cannot be read: {error.strerror}"


class Devices(Text):
    """A device, or several with commas between them, none of them twice."""

    def problem(self, value: str) -> str:
        """Says which device is none."""
        devices = value.split(",")
        for device in devices:
            if not DEVICE.fullmatch(device):
                return "is not cpu, cuda or cuda:N, nor several of them with commas between"
        numbered = ["cuda:0" if device == "cuda" else device for device in devices]
        return "names a device twice" if len({*numbered}) < len(numbered) else ""


class Trusted(Text):
    """Networks, addresses and the word unix, with commas between."""

    def problem(self, value: str) -> str:
        """Says which word is no network."""
        try:
            Networks.parse(value)
        except ValueError as error:
            return f"names what is no network such as 10.0.0.0/8, no address, nor unix: {error}"
        return ""


class Header(Text):
    """The name of a header."""

    def problem(self, value: str) -> str:
        """Says what a name is made of."""
        good = HEADER.fullmatch(value.lower()) and not value.lower().endswith("-bin")
        return "" if good else "is no name of a header: letters, digits, - and _"


class Number(click.FloatRange):
    """A number within a range, and neither infinite nor NaN, which lies within any."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Returns the number."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


KINDS = {
    "address": Address(sockets=True),
    "port": Address(sockets=False),
    "file": File("FILE"),
    "networks": Trusted("NETWORK[,NETWORK]"),
    "header": Header("HEADER"),
    "devices": Devices("DEVICE[,DEVICE]"),
}
