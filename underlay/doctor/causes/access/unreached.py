"""Why ssh does not get into a host, where nothing else was found on it or on the way to it."""

from collections.abc import Iterator

from underlay.access import hostkeys
from underlay.doctor.cause import Cause
from underlay.doctor.causes.access.accounts import fingerprint
from underlay.doctor.causes.access.refused import refused
from underlay.doctor.causes.between.neighbours import is_silent, silent
from underlay.doctor.causes.ends import LISTEN_ADVICE, listen
from underlay.doctor.investigation import Investigation, some
from underlay.plan import Host
from underlay.text import command

FREEZABLE = ("init.scope", "system.slice", "system.slice/ssh.service")
START = "systemctl unmask ssh.service ssh.socket; systemctl restart ssh"
"""Starts sshd, whatever keeps it from that: who stopped it may have masked it, too."""


def unreached(case: Investigation, host: Host) -> Iterator[Cause]:
    """`host-key`, `sshd-down`, `sshd-elsewhere`, `sshd-hangs`, `silent`, `wrong-network`; and what `refused` tells."""
    yield from refused(case, host)
    failure = case.seen.failures.get(host.name)
    if failure is None or case.is_cut(host.name):
        return
    if host.name in case.seen.other_ways and failure.why != "host key":
        return  # it is well itself: something drops what comes the plan's way
    said = f"ssh {host.name}: {failure.said}"
    match failure.why:
        case "host key" if _answers_for(case, host, failure.shown):
            return  # its own key is as it was: what leads there is followed
        case "host key":
            yield _host_key(case, host, said)
        case "refused" if host.name in case.seen.elsewhere:
            yield _sshd_elsewhere(case, host, said)
        case "mute":
            yield _sshd_hangs(case, host, said)
        case "refused":
            port = host.login.port
            fix = case.console(host.name, f"if systemctl -q is-active ssh; then {listen(host)}; fi; {START}")
            yield Cause(
                id="sshd-down",
                host=host.name,
                cause=f"{host.name}: its sshd does not run, or listens elsewhere: nothing listens on port {port}",
                evidence=(said,),
                fix=fix.command,
                at=fix.at,
                advice="if it does not start: sshd -t; journalctl -u ssh -n 20",
                plan=case.line(host),
                hosts=case.behind(host),
                cuts=True,
            )
        case "own key":
            return  # told
        case _ if host == case.gateway:
            yield from _gateway(case, said)
        case _:
            yield from silent(case, host, said)


def _answers_for(case: Investigation, host: Host, shown: str) -> str:
    """The other host of the plan that has this key, and so answered in a host's place; empty for none."""
    return next(
        (name for name, keys in case.seen.host_keys.items() if name != host.name and shown in map(fingerprint, keys)),
        "",
    )


def _sshd_elsewhere(case: Investigation, host: Host, said: str) -> Cause:
    there = case.seen.elsewhere[host.name]
    fix = case.console(host.name, f"{listen(host)} && sshd -t && systemctl restart ssh")
    return Cause(
        id="sshd-elsewhere",
        host=host.name,
        cause=f"{host.name}: its sshd does not listen where it must, but on {some(there)}",
        evidence=(said, f"SSH answers on {some(there)}"),
        fix=fix.command,
        at=fix.at,
        advice=LISTEN_ADVICE,
        plan=case.line(host),
        hosts=case.behind(host),
        cuts=True,
    )


def _sshd_hangs(case: Investigation, host: Host, said: str) -> Cause:
    groups = " ".join(f"/sys/fs/cgroup/{each}/cgroup.freeze" for each in FREEZABLE)
    wake = f"echo 0 | tee {groups}; systemctl thaw ssh; systemctl kill --signal=CONT ssh; systemctl restart ssh"
    fix = case.console(host.name, wake)
    return Cause(
        id="sshd-hangs",
        host=host.name,
        cause=f"{host.name}: its sshd takes connections, and does not answer: it is stopped, frozen or hangs",
        evidence=(said,),
        fix=fix.command,
        at=fix.at,
        advice="what it waited for: ps -o pid,stat,wchan:20,args -C sshd; journalctl -u ssh -n 20",
        plan=case.line(host),
        hosts=case.behind(host),
        cuts=True,
    )


def _host_key(case: Investigation, host: Host, said: str) -> Cause:
    address = case.seen.target.endpoint(host.name).address
    name, known = hostkeys.name(address, host.login.port), case.seen.target.known_hosts
    # Not the addresses that the gateway has for others: they lead to those.
    names = ",".join([host.name, *hostkeys.names(host)])
    read = command("cat", "/etc/ssh/ssh_host_ed25519_key.pub")
    forget = command("ssh-keygen", "-q", "-f", known, "-R", name)
    there = case.console(host.name, read).command
    fix = f'key=$({there}) && {forget} && echo "{names} $key" >> {command(known)}' if case.is_lab else ""
    first = "another machine may answer in its place: compare the key with what its own console says"
    then = "" if case.is_lab else f" ({read}). If that is another one: {forget}; then add it to {known}"
    return Cause(
        id="host-key",
        host=host.name,
        cause=f"{host.name}: its host key is not the one that is known",
        evidence=(said, f"known for {name} in {known}"),
        fix=fix,
        advice=first + then,
        plan=case.line(host, address),
        hosts=case.behind(host),
        cuts=True,
    )


def _gateway(case: Investigation, said: str) -> Iterator[Cause]:
    """Nobody answers for its address."""
    address, mac, others = _heard(case)
    if not mac:
        evidence = (said, f"nobody answers ARP for {address}", *others)
        yield is_silent(case, case.gateway, evidence, case.everybody)


def no_connection(case: Investigation) -> Iterator[Cause]:
    """`no-connection`: the gateway is there, and nothing tells more."""
    failure = case.seen.failures.get(case.gateway.name)
    address, mac, others = _heard(case)
    if failure is None or not mac or case.is_cut(case.gateway.name) or case.gateway.name in case.seen.other_ways:
        return
    fix = case.console(case.gateway.name, "conntrack -C; conntrack -S; iptables -nvL INPUT")
    yield Cause(
        id="no-connection",
        host=case.gateway.name,
        cause=f"{case.gateway.name}: it is there, and takes no connection: its firewall, or a full connection table",
        evidence=(f"ssh {case.gateway.name}: {failure.said}", f"{address} answers ARP: {mac}", *others),
        fix=fix.command,
        at=fix.at,
        plan=case.line(case.gateway, address),
        hosts=case.everybody,
        cuts=True,
    )


def _heard(case: Investigation) -> tuple[str, str | None, tuple[str, ...]]:
    """The gateway's address from here, the MAC that answers for it, and who else can be reached."""
    address = str(case.seen.target.endpoint(case.gateway.name).address)
    alive = [name for name in case.seen.states if not case.is_deployed(name)]
    others = (f"{some(alive)} can be reached: this machine's own link works",) if alive else ()
    return address, case.seen.workstation.neighbours.get(address), others
