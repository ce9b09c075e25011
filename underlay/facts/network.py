"""The live network of a host."""

import json
from collections.abc import Iterable

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

from underlay.compare.network import LiveNetwork
from underlay.desired.routing import LINK_FILE, NETWORKD, NETWORKD_CONF, SYSCTL_CONF, Address, PolicyRule, Route
from underlay.facts import files, good, script

OUR_FILES = (str(NETWORKD / LINK_FILE.format(nic="*")), NETWORKD_CONF, SYSCTL_CONF)
LOCAL_TABLE = 255


def command(sysctls: Iterable[str]) -> str:
    """The shell command whose output `parse` reads; needs no root."""
    keys = " ".join(sysctls)
    return script(
        {
            "address": "ip -j -N address show",
            "route": "ip -j -N -4 route show table all",
            "rule": "ip -j -N -4 rule show",
            "sysctl": f"sysctl -e {keys}" if keys else ":",
            "files": files.command(OUR_FILES),
        }
    )


def parse(lines: Iterable[str]) -> LiveNetwork:
    """Read the output of `command`. Raises ValueError or KeyError for anything else."""
    found = good(lines)
    links = json.loads("".join(found["address"]))
    routes = json.loads("".join(found["route"]) or "[]")
    rules = json.loads("".join(found["rule"]))
    return LiveNetwork(
        links={link["ifname"]: "UP" in link["flags"] for link in links},
        addresses=tuple(
            Address(link["ifname"], f"{info['local']}/{info['prefixlen']}")
            for link in links
            for info in link["addr_info"]
            if info["family"] == "inet"
        ),
        routes=tuple(
            Route(
                table=int(route.get("table", 254)),
                destination=_cidr(route["dst"]),
                via=route.get("gateway", ""),
                nic=route.get("dev", ""),
                source=route.get("prefsrc", ""),
                metric=route.get("metric", 0),
            )
            for route in routes
            if int(route.get("table", 254)) != LOCAL_TABLE
        ),
        rules=tuple(
            PolicyRule(
                priority=rule["priority"],
                source=_selector(rule, "src"),
                destination=_selector(rule, "dst"),
                table=int(rule.get("table", 0)),
                main_without_default=rule.get("suppress_prefixlen") == 0,
            )
            for rule in rules
        ),
        sysctls=dict(_key_value(line) for line in found["sysctl"]),
        files=files.parse(found["files"]),
    )


def _cidr(destination: str) -> str:
    return destination if destination == "default" or "/" in destination else f"{destination}/32"


def _selector(rule: dict[str, object], end: str) -> str:
    address = str(rule.get(end, "all"))
    length = rule.get(f"{end}len")
    return "" if address == "all" else f"{address}/{length}" if length is not None else address


def _key_value(line: str) -> tuple[str, str]:
    key, _, value = line.partition("=")
    return key.strip(), value.strip()


class Network(FactBase[LiveNetwork]):
    """Addresses, routes, policy rules, the sysctls asked for, and our own files, as a `LiveNetwork`."""

    def command(self, sysctls: list[str]) -> str:
        """+ sysctls: keys to read"""
        return command(sysctls)

    def process(self, output: list[str]) -> LiveNetwork:
        try:
            return parse(output)
        except (ValueError, KeyError) as error:
            raise FactProcessError(f"can't read the network of this host: {error!r}") from error
