"""What is wrong with the machine that the doctor runs on."""

from collections.abc import Iterator

from underlay.doctor.cause import Cause
from underlay.doctor.investigation import SHOWN, Fix, Investigation
from underlay.text import command


def workstation(case: Investigation) -> Iterator[Cause]:
    """Its link, its route to the hosts: `nic-down`, `no-carrier`, `route-missing`, `route-wrong`, `route-unmanaged`."""
    here = case.seen.workstation
    if case.is_deployed(here.name):
        return  # it is looked at like the others
    # A machine that is not in the plan has NICs for other purposes: they matter if there is no way.
    lost = not all(hop.nic for hop in here.hops.values())
    used = [nic.nic for nic in case.plan.host(here.name).interfaces] if here.name else [*here.links] if lost else []
    for nic in used:
        up, carrier = here.links.get(nic, (True, True))
        if not up:
            yield _finding(
                case, "nic-down", f"its NIC {nic} is switched off", case.local(command("ip", "link", "set", nic, "up"))
            )
            return
        if not carrier:
            yield _finding(case, "no-carrier", f"its NIC {nic} has no signal", case.replug(case.here, nic))
            return
    for endpoint in case.seen.target.endpoints:
        hop = here.hops.get(str(endpoint.address))
        if hop is None:
            continue
        # What is for everything is no stray route: then the one to the network itself is missing.
        stray = hop.line and not hop.line.startswith("default ")
        remove = case.local(command("ip", "route", "del", *hop.line.split())) if stray else Fix("")
        if not hop.nic and stray:
            what = f"an unmanaged route ends what is for {endpoint.name}: {hop.line}"
            yield _finding(case, "route-unmanaged", what, remove)
            return
        if not hop.nic:
            cidr = next((each.cidr for each in case.plan.networks if endpoint.address in each.cidr), None)
            advice = f"give this machine an address in {cidr}, or connect the VPN that leads there"
            yield _finding(
                case, "route-missing", f"it has no route to {endpoint.address} ({endpoint.name})", Fix("", "", advice)
            )
            return
        near = case.plan.host(here.name).interfaces if here.name else ()
        if hop.via and any(endpoint.address in nic.cidr for nic in near):
            cause = f"it sends what is for {endpoint.name} ({endpoint.address}) to {hop.via}, not straight there"
            fallback = case.local(command("ip", "route", "del", endpoint.address, "via", hop.via))
            yield _finding(case, "route-wrong", cause, remove if remove.command else fallback)
            return


def _finding(case: Investigation, id: str, cause: str, fix: Fix) -> Cause:
    hops = list(case.seen.workstation.hops.items())[:SHOWN]
    in_plan = any(host.name == case.here for host in case.plan.hosts)
    return Cause(
        id=id,
        host=case.here,
        cause=f"{case.here}: {cause}",
        evidence=tuple(f"ip route get {to}: {hop.nic or 'no route'} {hop.via}".rstrip() for to, hop in hops),
        fix=fix.command,
        at=fix.at,
        advice=fix.advice,
        plan=case.plan.line("hosts", case.here) if in_plan else "",
        hosts=case.everybody,
        cuts=True,
    )
