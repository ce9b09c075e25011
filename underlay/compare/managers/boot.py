"""What the network of a host is made of at its next boot: our files, and what of the host's wins over them. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath

from underlay.compare.difference import Difference, File, Nic, Place, Sysctl
from underlay.compare.files import boot_differences
from underlay.compare.managers import ifupdown
from underlay.compare.network import LiveNetwork
from underlay.compare.systemd import networkd, sysctl
from underlay.compare.systemd.networkd import OFF, ON, NetworkFile
from underlay.desired import hooks
from underlay.desired.files import network_files, nic_of, sysctl_files
from underlay.desired.hooks import INTERFACES, STANZA
from underlay.desired.routing import ALL_RP_FILTER, NETWORKD, NETWORKD_CONF, SYSCTL_CONF, HostNetwork

FORWARDING = "net.ipv4.conf.{}.forwarding"
LOOSE = "2"
"""Of `all.rp_filter`: the kernel takes the larger of that and a NIC's own."""


def files(wanted: HostNetwork, live: LiveNetwork) -> dict[str, str]:
    """Path → content of our files, as they must be beside those of the host."""
    managers = live.managers(wanted.every)
    found = sysctl_files(wanted)
    for manager, nics in managers.by_manager(wanted.every).items():
        part = hooks.of_nics(wanted, nics)
        if manager == hooks.NETWORKD:
            found |= network_files(part, live.bases(nics, wanted.links))
        elif part.addresses:
            found |= hooks.hook_files(part, manager, [nic for nic in nics if managers.nobody(nic)])
    return found


def files_of(nic: str, files: Mapping[str, str]) -> list[str]:
    """The paths of those of our files that bring a NIC up."""
    return [
        path
        for path, text in files.items()
        if nic_of(path, text) == nic or (hooks.is_ours(path) and nic in hooks.nics_in(path, text))
    ]


def differences(wanted: HostNetwork, live: LiveNetwork) -> list[Difference]:
    """What is not as it must be for the next boot: our files, then what wins over them."""
    return [*boot_differences(files(wanted, live), live.ours), *obstacles(wanted, live)]


def obstacles(wanted: HostNetwork, live: LiveNetwork) -> list[Difference]:
    """What of the host's wins over our files, even when they are as they must be: no deploy can change it.

    On a gateway also `all.rp_filter`, live: to set it would change NICs that are not in the plan.
    """
    ours = files(wanted, live)
    after = {path: text for path, text in live.files.items() if path not in live.ours} | ours
    by_networkd = live.managers(wanted.every).by_manager(wanted.every).get(hooks.NETWORKD, [])
    found = [
        *_managers(wanted, live, ours),
        *_unknown(by_networkd, live),
        *_hidden(by_networkd, wanted.legs, live, ours, after),
        *_undone(ours, after),
        *_sysctls(wanted, by_networkd, live, after),
        *(_networkd(after) if by_networkd else ()),
    ]
    if wanted.forwards and live.sysctls.get(ALL_RP_FILTER) == LOOSE:
        found.append(Difference("differs", Sysctl(ALL_RP_FILTER, "0"), LOOSE))
    return found


def _managers(wanted: HostNetwork, live: LiveNetwork, ours: dict[str, str]) -> Iterator[Difference]:
    """NICs that two bring up, and such a file of ours that nobody reads."""
    managers = live.managers(wanted.nics)
    for nic in wanted.nics:
        if several := managers.several(nic):
            yield Difference("differs", Nic(nic), f"is brought up by {several}", at_boot=True)
    if STANZA in ours and not ifupdown.sourced(live.files, STANZA):
        what = f"{INTERFACES} has no line `source /etc/network/interfaces.d/*`"
        for nic in wanted.nics:
            if f"\nauto {nic}\n" in ours[STANZA]:
                yield Difference("differs", Nic(nic), f"stays down: {what}", at_boot=True)


def _unknown(nics: Iterable[str], live: LiveNetwork) -> Iterator[Difference]:
    for nic in nics:
        for each in networkd.charge(live.network_files, networkd.device_of(nic, live.devices), live.system).unknown:
            yield Difference("differs", Nic(nic), each.place, at_boot=True)


def _hidden(
    nics: Iterable[str], legs: Mapping[str, str], live: LiveNetwork, ours: dict[str, str], after: dict[str, str]
) -> Iterator[Difference]:
    """NICs for which networkd takes another file than ours, or that another file of theirs keeps down."""
    files = networkd.in_force(after)
    for nic in nics:
        file = networkd.charge(files, networkd.device_of(nic, live.devices), live.system).file
        paths = [path for path in ours if file and (path == file.path or path.startswith(f"{_drop_ins(file)}/"))]
        mine = next((path for path in ours if nic_of(path, ours[path]) == nic and not path.endswith(".netdev")), "")
        if file is None or not mine:
            continue
        bad = networkd.keeps_down(file)
        if bad and bad.key == "Bond" and bad.value == legs.get(nic):
            continue
        if bad is None and not paths:
            bad = next((each for each in file.settings if each.section == "Match"), None)
        if bad:
            yield Difference("differs", File(mine, ours[mine], boot=True), bad.place)


def _drop_ins(file: NetworkFile) -> str:
    return f"{NETWORKD}/{PurePosixPath(file.path).name}.d"


def matches_nics(place: Place) -> bool:
    """Whether a line says which NICs a file is for: without it the file is for none."""
    return place.path.endswith(".network") and place.text.partition("=")[0].strip() in networkd.MATCHES


def _undone(ours: dict[str, str], after: dict[str, str]) -> Iterator[Difference]:
    for path, content in ours.items():
        if found := networkd.undone(path, after):
            yield Difference("differs", File(path, content, boot=True), found.place)


def _sysctls(
    wanted: HostNetwork, by_networkd: Iterable[str], live: LiveNetwork, after: dict[str, str]
) -> Iterator[Difference]:
    values = dict(wanted.sysctls)
    if wanted.forwards:
        values |= {FORWARDING.format(nic.replace(".", "/")): "1" for nic in wanted.nics}
    paths = {sysctl.path_of(key): key for key in (*values, ALL_RP_FILTER)}
    found = {paths[path]: each for path, each in sysctl.at_boot(after, paths).items()}
    told = set()  # one line with a pattern sets many
    for key in values:
        each = found.get(key)
        if each and each.place.path != SYSCTL_CONF and each.value != values[key] and each.place not in told:
            told.add(each.place)
            yield Difference("differs", Sysctl(key, values[key]), each.place, at_boot=True)
    everywhere = found.get(ALL_RP_FILTER)
    if wanted.forwards and everywhere and everywhere.value == LOOSE and everywhere.place not in told:
        yield Difference("differs", Sysctl(ALL_RP_FILTER, "0"), everywhere.place, at_boot=True)
    # networkd sets these when it configures a NIC: after systemd-sysctl.
    for nic in by_networkd:
        file = networkd.charge(live.network_files, networkd.device_of(nic, live.devices), live.system).file
        filtered = f"net.ipv4.conf.{nic.replace('.', '/')}.rp_filter"
        if file and filtered in values:
            yield from _set_by(file, "IPv4ReversePathFilter", ("strict",), Sysctl(filtered, values[filtered]))
        if file and wanted.forwards:
            name = FORWARDING.format(nic.replace(".", "/"))
            yield from _set_by(file, "IPv4Forwarding", ON, Sysctl(name, "1"))
    if wanted.forwards and by_networkd:
        conf = networkd.networkd_conf(after)
        yield from _set_by(conf, "IPv4Forwarding", ON, Sysctl("net.ipv4.ip_forward", "1"))


def _set_by(file: NetworkFile, key: str, good: tuple[str, ...], wanted: Sysctl) -> Iterator[Difference]:
    found = file.last("Network", key)
    if found and found.value.lower() not in good:
        yield Difference("differs", wanted, found.place, at_boot=True)


def _networkd(after: dict[str, str]) -> Iterator[Difference]:
    """networkd deletes what it did not make, if a later file tells it to."""
    conf = networkd.networkd_conf(after)
    for key in ("ManageForeignRoutes", "ManageForeignRoutingPolicyRules"):
        found = conf.last("Network", key)
        if found and found.value.lower() not in OFF:
            yield Difference("differs", File(NETWORKD_CONF, after[NETWORKD_CONF], boot=True), found.place)


def advice(difference: Difference) -> str:
    """What to do about an obstacle, for people."""
    if isinstance(difference.thing, Sysctl) and isinstance(difference.found, str):
        key, value = difference.thing.key, difference.thing.value
        return f"{difference.what}: `sysctl -w {key}={value}`; look first at what NICs that are not in the plan need"
    if isinstance(difference.found, str):
        return f"{difference.what}: change that, and deploy again"
    assert isinstance(difference.found, Place)
    if matches_nics(difference.found) and isinstance(difference.thing, File):
        return (
            f"{difference.what}: give {difference.found.path} a name that sorts behind that of ours, and deploy again"
        )
    return f"{difference.what}: take line {difference.found.number} out of {difference.found.path}, and deploy again"
