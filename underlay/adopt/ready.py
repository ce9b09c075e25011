"""Whether a host is ready for a deploy, and if not what makes it so. Reads what was seen, and asks nothing more."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from underlay.access.answers import UnreadableError
from underlay.access.target import Target
from underlay.adopt.guess import default_of, own_addresses, runs, site_nics
from underlay.adopt.look import Look, Ways, on_host
from underlay.adopt.seen import PYTHON, Nic, Seen
from underlay.compare import sshd
from underlay.compare.network import unfit
from underlay.desired.routing import host_network
from underlay.plan import SSH_PORT
from underlay.text import command

ROOM = 50
"""MB that a confirmed change wants to find."""
OURS = "/var/lib/underlay/guard"
REFUSED = "Permission denied (publickey"


LOOK = {
    "ifupdown": "cat /etc/network/interfaces",
    "ifupdown2": "ifquery -a",
    "NetworkManager": "nmcli connection",
    "networkd": "networkctl",
}
"""How a person sees what a manager was told."""


@dataclass(frozen=True)
class Check:
    """What was looked at. state: a `note` keeps nothing from being deployed; what was `not read` does

    fix: the command that makes it so; where: if not here; advice: where there is no such command
    """

    what: str
    state: Literal["ready", "not ready", "note", "not read"]
    why: str = ""
    fix: str = ""
    where: str = ""
    advice: str = ""


def is_ready(checks: list[Check]) -> bool:
    """Whether a deploy can begin."""
    return not any(each.state in ("not ready", "not read") for each in checks)


def checks(target: Target, ways: Ways, look: Look) -> list[Check]:
    """All that a deploy needs of a host; the package sources are `deploy --dry`'s to look at."""
    seen = [] if look.seen is None else _Host(target, ways, look.seen).checks()
    return [*_key(target, look), *seen, *_way(target, ways, look)]


def _way(target: Target, ways: Ways, look: Look) -> Iterator[Check]:
    if look.seen is not None or look.changed:
        return
    fix = ""
    if REFUSED in look.error and not target.workstation and not ways.config:
        port = ["-p", str(ways.port)] if ways.port else []
        user = ways.user or target.plan.operator.user
        fix = command("ssh-copy-id", "-i", target.key, *port, f"{user}@{look.asked}")
    yield Check("ssh", "not ready", look.error, fix, advice="" if fix else f"look with ssh -v {look.asked}")


def _key(target: Target, look: Look) -> Iterator[Check]:
    for why in changed_key(target, look):
        yield Check("host key", "not ready", why)
    if look.keys:
        yield Check("host key", "not ready", "it is not known yet", f"./inv adopt {look.asked}")
    elif look.seen is not None:
        yield Check("host key", "ready")


def changed_key(target: Target, look: Look) -> Iterator[str]:
    """What to do about a host that showed another key than the known one."""
    if look.changed:
        forget = command("ssh-keygen", "-R", look.asked, "-f", target.known_hosts)
        yield (
            f"it shows another key than {target.known_hosts} has: another machine, or one that was installed anew. "
            "Compare it with what its own console says (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub); "
            f"if that is it, forget the old one: {forget}"
        )


@dataclass(frozen=True)
class _Host:
    """What is looked at on a host that was reached."""

    target: Target
    ways: Ways
    seen: Seen

    def checks(self) -> Iterator[Check]:
        first, unread = False, list[Check]()
        for part in (self.root, self.system, self.python, self.managers, self.sshd, self.filters, self.room, self.rest):
            try:
                for check in part():
                    first |= check.state == "not ready" and check.what in ("root", "python3")
                    yield check
            except UnreadableError as error:
                unread.append(Check(part.__name__, "not read", str(error)))
        # Without root, or without Python, much can't be read: that is told, and mended first.
        yield from () if first else unread

    @property
    def is_root(self) -> bool:
        login = self.seen.part(lambda each: each.login)
        return login is not None and login.root

    def fix(self, line: str) -> tuple[str, str]:
        """The command that runs this one on the host, as root, and where, if not here."""
        return on_host(self.target, self.ways, self.seen.asked, line, root=self.is_root)

    def root(self) -> Iterator[Check]:
        login = self.seen.login
        if login.root:
            yield Check("root", "ready", "as root" if login.account == "root" else f"{login.account}, by sudo")
            return
        # Behind what others wrote there: of sudo's lines the last one counts.
        path, right = f"/etc/sudoers.d/zz-underlay-{login.account}", f"{login.account} ALL=(ALL:ALL) NOPASSWD: ALL"
        line = f"{command('echo', right)} > {path} && chmod 440 {path} && visudo -cq"
        line = f"apt-get install -y sudo && {line}" if "not found" in login.sudo else line
        fix = self.fix(line) if re.fullmatch(r"[a-z_][a-z0-9_-]*", login.account) else ("", "")
        yield Check("root", "not ready", f"{login.account}: {login.sudo}", *fix)

    def system(self) -> Iterator[Check]:
        system = self.seen.system
        if system.supported:
            yield Check("system", "ready", system.os)
        else:
            yield Check(
                "system", "not ready", f"{system.os}: these deploys know Debian and Ubuntu", advice="docs/hosts.md"
            )

    def python(self) -> Iterator[Check]:
        version, wanted = self.seen.system.python, ".".join(map(str, PYTHON))
        if version is None:
            yield Check("python3", "not ready", "is not there", *self.fix("apt-get install -y python3"))
        elif version < PYTHON:
            why = f"is {version[0]}.{version[1]}: {wanted} or later is needed"
            yield Check("python3", "not ready", why, advice="a later release of the system has it")
        else:
            yield Check("python3", "ready", f"{version[0]}.{version[1]}")

    def managers(self) -> Iterator[Check]:
        bad = False
        assert self.seen.network  # it says who does
        nics = [nic for nic in site_nics(self.seen) if nic.addresses]
        for nic in nics:
            kinds = [each.kind for each in nic.managers]
            if len(kinds) > 1:
                bad = True
                said = " and ".join(map(str, nic.managers))
                advice = "let one of them go: what one makes, the other takes away. " + self.where(nic)
                yield Check("network", "not ready", f"{nic.name} is managed by {said}", advice=advice)
        known = any(self.seen.is_on(name) for name in ("systemd-networkd", "networking", "NetworkManager"))
        if not bad and not known and OURS not in self.seen.names:
            fix = self.fix("systemctl enable --now systemd-networkd")
            yield Check("network", "not ready", "nothing manages its NICs, and systemd-networkd is off", *fix)
        elif not bad and (why := self.unfit()):
            yield Check("network", "not ready", why, advice="docs/hosts.md")
        elif not bad:
            free = [nic.name for nic in nics if not nic.managers]
            why = ", ".join(f"{nic.name} {nic.managers[0]}" for nic in nics if nic.managers)
            yield Check("network", "ready", why or "systemd-networkd is on")
            if free:
                why = f"nobody manages {', '.join(free)}: what a deploy does not plan of it is gone after a boot"
                yield Check("network", "note", why)

    def unfit(self) -> str:
        """Why a deploy would refuse to make the plan's NICs here, if this is a host of the plan; else empty."""
        plan, own = self.target.plan, own_addresses(self.seen)
        hosts = (each for each in plan.hosts if any(str(nic.address) in own for nic in each.interfaces))
        return next((unfit(host_network(plan, host), self.seen.network) for host in hosts), "")

    def where(self, nic: Nic) -> str:
        looks = dict.fromkeys(LOOK[each.kind] for each in nic.managers)
        lines = [" ".join(self.fix(line)[:1]) for line in looks]
        return f"look with {' and '.join(lines)} (docs/hosts.md)"

    def sshd(self) -> Iterator[Check]:
        login = self.seen.login
        if login.port != SSH_PORT:
            yield Check("sshd", "note", f'is at port {login.port}: the plan needs "port": {login.port} at the host')
        locked = sshd.locked_out(self.seen.sshd)
        for why in locked:
            yield Check("sshd", "not ready", f"{why}: keys alone let nobody in", advice=f"sshd -T on {self.seen.asked}")
        if not locked and login.port == SSH_PORT:
            yield Check("sshd", "ready")
        if self.seen.sshd.passwords and (ends := sshd.passwords_end(self.seen.sshd)):
            yield Check("sshd", "note", f"after a deploy {ends}")

    def filters(self) -> Iterator[Check]:
        there = [each for each in ("ufw", "firewalld", "nftables", "docker") if runs(self.seen, each)]
        if self.seen.filters.firewalld:
            why = "firewalld rejects what its zones do not allow: a gateway is not deployed beside it"
            yield Check("filters", "note", why, advice="docs/safety.md, Other packet filters")
        yield Check("filters", "ready", f"left alone: {', '.join(there)}" if there else "")

    def room(self) -> Iterator[Check]:
        if self.seen.free < ROOM:
            yield Check(
                "disk",
                "not ready",
                f"{self.seen.free} MB are free below /var/lib",
                advice=f"df -h on {self.seen.asked}",
            )
        else:
            yield Check("disk", "ready", f"{self.seen.free} MB free")

    def rest(self) -> Iterator[Check]:
        if self.seen.network.routes and default_of(self.seen) is None:
            yield Check("routes", "note", "it has no default route: packages may be out of its reach")
        if not self.seen.synchronized:
            yield Check("clock", "note", "it follows no other one")
        if self.seen.swap and runs(self.seen, "kubelet"):
            yield Check("swap", "note", f"is on ({', '.join(self.seen.swap)}), and a kubelet runs")
