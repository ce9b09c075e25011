"""Why ssh does not get into a host, where nothing else was found on it or on the way to it."""

from collections.abc import Iterator

from underlay.desired.files import authorized_keys
from underlay.doctor.cause import Cause
from underlay.doctor.causes.neighbours import is_silent, silent
from underlay.doctor.investigation import Investigation, some
from underlay.plan import Host
from underlay.text import command


def unreached(case: Investigation, host: Host) -> Iterator[Cause]:
    """`host-key`, `key-refused`, `sshd-down`, `no-connection`, `silent`, `wrong-network`."""
    failure = case.seen.failures.get(host.name)
    if failure is None or case.is_cut(host.name):
        return
    if host.name in case.seen.other_ways and failure.why not in ("host key", "key refused"):
        return  # it is well itself: something drops what comes the plan's way
    said = f"ssh {host.name}: {failure.said}"
    match failure.why:
        case "host key":
            yield _host_key(case, host, said)
        case "key refused":
            yield _key_refused(case, host, said)
        case "refused":
            fix = case.console(host.name, command("systemctl", "start", "ssh"))
            yield Cause(
                id="sshd-down",
                host=host.name,
                cause=f"{host.name}: its sshd does not run: nothing listens there",
                evidence=(said,),
                fix=fix.command,
                at=fix.at,
                plan=case.line(host),
                hosts=case.behind(host),
                cuts=True,
            )
        case _ if host == case.gateway:
            yield _gateway(case, said)
        case _:
            yield from silent(case, host, said)


def _host_key(case: Investigation, host: Host, said: str) -> Cause:
    address = case.seen.target.endpoint(host.name).address
    known = case.seen.target.known_hosts
    # Not the addresses that the gateway has for others: they lead to those.
    own = [*(nic.address for nic in host.interfaces), *([host.published] if host.published else [])]
    names = ",".join([host.name, *map(str, own)])
    read = command("cat", "/etc/ssh/ssh_host_ed25519_key.pub")
    forget = command("ssh-keygen", "-q", "-f", known, "-R", address)
    there = case.console(host.name, read).command
    fix = f'key=$({there}) && {forget} && echo "{names} $key" >> {command(known)}' if case.is_lab else ""
    first = "another machine may answer in its place: compare the key with what its own console says"
    then = "" if case.is_lab else f" ({read}). If that is another one: {forget}; then add it to {known}"
    return Cause(
        id="host-key",
        host=host.name,
        cause=f"{host.name}: its host key is not the one that is known",
        evidence=(said, f"known for {address} in {known}"),
        fix=fix,
        advice=first + then,
        plan=case.line(host, address),
        hosts=case.behind(host),
        cuts=True,
    )


def _key_refused(case: Investigation, host: Host, said: str) -> Cause:
    user, path = case.plan.operator.user, authorized_keys(case.plan)
    folder = path.rpartition("/")[0]
    key = case.seen.workstation.public_key or "YOUR PUBLIC KEY"
    fix = case.console(
        host.name,
        f"{command('install', '-d', '-m', 700, '-o', user, '-g', user, folder)} && "
        f"{command('echo', key)} >> {command(path)} && "
        f"{command('chown', f'{user}:{user}', path)} && {command('chmod', 600, path)}",
    )
    return Cause(
        id="key-refused",
        host=host.name,
        cause=f"{host.name}: it refuses the operator's key",
        evidence=(said,),
        fix=fix.command if fix.at else f"{fix.command} && {case.deploy(host)}",
        at=fix.at,
        advice=f"then here: {case.deploy(host)}" if fix.at else "",
        plan=case.line(host),
        hosts=case.behind(host),
        cuts=True,
    )


def _gateway(case: Investigation, said: str) -> Cause:
    address = str(case.seen.target.endpoint(case.gateway.name).address)
    mac = case.seen.workstation.neighbours.get(address)
    alive = [name for name in case.seen.states if not case.is_deployed(name)]
    others = (f"{some(alive)} can be reached: this machine's own link works",) if alive else ()
    if not mac:
        evidence = (said, f"nobody answers ARP for {address}", *others)
        return is_silent(case, case.gateway, evidence, case.everybody)
    fix = case.console(case.gateway.name, "conntrack -C; conntrack -S; iptables -nvL INPUT")
    return Cause(
        id="no-connection",
        host=case.gateway.name,
        cause=f"{case.gateway.name}: it is there, and takes no connection: its firewall, or a full connection table",
        evidence=(said, f"{address} answers ARP: {mac}", *others),
        fix=fix.command,
        at=fix.at,
        plan=case.line(case.gateway, address),
        hosts=case.everybody,
        cuts=True,
    )
