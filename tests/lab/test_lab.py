"""The lab itself: its hosts are what an installer leaves, on a machine that notices nothing of them.

                 internet (upstream router, and an address of the internet)
                     |
    enterprise  -----+-----------+---------+-------------+
                    dev       images    gateway          :   published: jumphost, lb
                                           |
    mgmt        ---------------------------+----+--------+--------+
                                           |  jumphost   lb    master-1
    traffic     ---------------------------+----------------------+
    storage     ---------------------------+----------------------+

Before a deploy only the first address of each host is configured, so nothing passes the gateway yet.
"""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from netaddr import IPAddress

from lab import control, host, image, network
from lab.process import CommandError, LabError, run, wait_until
from lab.state import STATE, SUITES, LabState
from underlay.plan import Plan

pytestmark = pytest.mark.usefixtures("lab")
Snapshot = dict[str, str]


def inside(name: str, command: str) -> str:
    """The output of a command inside a host; it must succeed."""
    done = control.run(name, command, timeout=60)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def ssh(lab: LabState, login: str, command: str) -> subprocess.CompletedProcess[str]:
    """A login over ssh as from the workstation, with the operator's key, to a host whose key is known already."""
    options = [
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        f"UserKnownHostsFile={lab.known_hosts}",
        "ConnectTimeout=5",
    ]
    argv = ["nsenter", f"--net={lab.hosts['dev'].netns}", "ssh", "-F", "none", "-i", str(lab.key)]
    argv += [word for option in options for word in ("-o", option)]
    return subprocess.run([*argv, login, command], capture_output=True, text=True, timeout=30, check=False)


# --- what a host is before any deploy -------------------------------------------------------------------------------


def test_every_host_of_the_plan_runs(lab: LabState, plan: Plan) -> None:
    assert list(lab.hosts) == [*(each.name for each in plan.hosts), "internet"]
    assert {each.name: each.state for each in control.status().hosts} == dict.fromkeys(lab.hosts, "running")
    for name in lab.hosts:
        assert inside(name, "hostname; systemctl --failed --no-legend") == name


def test_only_the_first_address_is_configured(plan: Plan) -> None:
    for each in plan.hosts:
        found = json.loads(inside(each.name, "ip -json -4 address show scope global"))
        addresses = [(link["ifname"], a["local"], a["prefixlen"]) for link in found for a in link["addr_info"]]
        primary = each.primary
        assert addresses == [(primary.nic, str(primary.address), primary.cidr.prefixlen)]
        links = {link["ifname"]: link["operstate"] for link in json.loads(inside(each.name, "ip -json link"))}
        assert links == {"lo": "UNKNOWN"} | {nic.nic: "DOWN" for nic in each.interfaces} | {primary.nic: "UP"}
        assert inside(each.name, "ip -json -6 address show scope link") == "[]"


def test_the_default_route_is_the_router_of_the_first_network(plan: Plan) -> None:
    for each in plan.hosts:
        [route] = json.loads(inside(each.name, "ip -json route show default"))
        assert (route["gateway"], route["dev"]) == (str(plan.gateway_address(each.primary.network)), each.primary.nic)


def test_the_kernel_starts_as_on_a_fresh_machine(lab: LabState) -> None:
    for name in lab.hosts:
        assert inside(name, "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/all/rp_filter") == "0\n0"


def test_packages_of_the_roles_are_not_there_yet(lab: LabState) -> None:
    for name in lab.hosts:
        installed = set(inside(name, "dpkg-query --show --showformat '${Package}\\n'").split())
        assert not installed & set(image.FOR_ROLES)
        assert installed >= set(image.BASE)


def test_internet_is_the_upstream_router_and_the_outside(lab: LabState, plan: Plan) -> None:
    addresses = inside("internet", "ip -brief -4 address")
    assert f"{plan.enterprise.upstream}/" in addresses
    assert lab.outside in addresses
    inside("gateway", f"ping -c 1 -W 2 {lab.outside}")


def test_hosts_of_a_network_reach_each_other_and_none_passes_the_gateway(plan: Plan) -> None:
    inside("jumphost", f"ping -c 1 -W 2 {plan.host('master-1').primary.address}")
    done = control.run("jumphost", f"ping -c 1 -W 1 {plan.host('dev').primary.address}")
    assert done.returncode == 1, done.stdout


# --- logins ---------------------------------------------------------------------------------------------------------


def test_the_operator_logs_in_with_the_key_and_becomes_root(lab: LabState, plan: Plan) -> None:
    for name in ("gateway", "images"):
        done = ssh(lab, f"{plan.operator.user}@{plan.host(name).primary.address}", "hostname; sudo -n id -un")
        assert done.stdout.split() == [name, "root"], done.stderr


def test_root_does_not_log_in(lab: LabState, plan: Plan) -> None:
    done = ssh(lab, f"root@{plan.gateway.primary.address}", "true")
    assert done.returncode == 255
    assert "Permission denied" in done.stderr


def test_an_unknown_host_key_is_refused(lab: LabState, plan: Plan, tmp_path: Path) -> None:
    """The control case: the logins above succeed because the keys are known, not because nobody looks."""
    other = tmp_path / "known_hosts"
    other.write_text(lab.known_hosts.read_text().replace(f",{plan.gateway.primary.address}", ""))
    stranger = lab.model_copy(update={"known_hosts": other})
    done = ssh(stranger, f"{plan.operator.user}@{plan.gateway.primary.address}", "true")
    assert "Host key verification failed" in done.stderr


def test_every_name_of_a_host_is_known(lab: LabState, plan: Plan) -> None:
    known = {line.split()[0] for line in lab.known_hosts.read_text().splitlines()}
    for each in plan.hosts:
        addresses = [str(nic.address) for nic in each.interfaces] + [str(each.published)] * bool(each.published)
        assert ",".join([each.name, *addresses]) in known


# --- packages -------------------------------------------------------------------------------------------------------


def test_the_images_host_serves_debian_packages() -> None:
    inside("dev", "apt-get update && apt-get install --yes --download-only " + " ".join(image.FOR_ROLES))
    inside("dev", "apt-get install --yes conntrack && conntrack --version")


def test_the_images_host_serves_the_python_packages() -> None:
    """Every requirement has a wheel that the hosts' own Python takes, dependencies included."""
    inside("dev", "apt-get update && apt-get install --yes python3-venv && python3 -m venv /tmp/venv")
    done = control.run("dev", "cat > /tmp/requirements.txt", stdin=image.REQUIREMENTS.read_text())
    assert done.returncode == 0
    inside("dev", "/tmp/venv/bin/pip install --dry-run --quiet --requirement /tmp/requirements.txt")


# --- running something ----------------------------------------------------------------------------------------------


def test_run_gives_the_exit_code_output_and_input_of_the_command() -> None:
    done = control.run("gateway", "cat; echo wrong >&2; exit 3", stdin="typed")
    assert (done.returncode, done.stdout, done.stderr) == (3, "typed", "wrong\n")
    assert control.run("gateway", ["printf", "%s", "a b"]).stdout == "a b"


def test_run_has_a_clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEAKED", "1")
    assert "LEAKED" not in inside("gateway", "env")
    assert inside("gateway", "pwd; id -un; ps -o comm= 1") == "/\nroot\nsystemd"


def test_run_does_not_wait_for_ever() -> None:
    with pytest.raises(CommandError, match="took too long: sleep 60"):
        control.run("gateway", ["sleep", "60"], timeout=0.5)


def test_a_service_is_one_hosts_own() -> None:
    """Stopping a unit ends its processes by control group; those of the other hosts must not be in it."""
    inside("lb", "systemctl stop ssh")
    inside("master-1", "systemctl is-active ssh && pgrep -x sshd")
    inside("lb", "systemctl start ssh")


# --- power ----------------------------------------------------------------------------------------------------------


def test_a_reboot_is_cold(plan: Plan) -> None:
    """1. set things in the kernel and on disk; 2. reboot; 3. only what is on disk is there."""
    inside("gateway", "ip address add 198.51.100.7/32 dev eth0 && ip rule add to 198.51.100.0/24 lookup 77")
    inside("gateway", "ip link set eth1 up && sysctl -w net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=1")
    inside("gateway", "echo kept > /root/kept")
    mac = inside("gateway", "cat /sys/class/net/eth0/address")
    control.reboot("gateway")
    assert "198.51.100" not in inside("gateway", "ip address; ip rule")
    assert inside("gateway", "cat /sys/class/net/eth1/operstate /proc/sys/net/ipv4/ip_forward") == "down\n0"
    assert inside("gateway", "cat /proc/sys/net/ipv4/conf/all/rp_filter /root/kept") == "0\nkept"
    assert inside("gateway", "cat /sys/class/net/eth0/address") == mac
    inside("dev", f"ping -c 1 -W 2 {plan.gateway.primary.address}")


def test_a_reboot_from_inside_is_cold_too(plan: Plan) -> None:
    """Asked for by a command that is still running when the host goes down."""
    inside("gateway", "ip address add 198.51.100.7/32 dev eth0; touch /run/before")
    ended = control.run("gateway", "systemctl reboot; sleep 600", timeout=60)
    assert ended.returncode > 128, "killed with the host"

    def rebooted() -> bool:
        try:
            return control.run("gateway", "test ! -e /run/before && systemctl is-system-running").returncode == 0
        except LabError:
            return False  # it is off in between

    assert wait_until(rebooted, seconds=60, every=0.2), host.console("gateway").read_text()
    assert "198.51.100" not in inside("gateway", "ip address")
    inside("dev", f"ping -c 1 -W 2 {plan.gateway.primary.address}")


def test_a_host_that_is_off_is_off_until_it_is_switched_on(plan: Plan) -> None:
    control.power_off("lb")
    assert {each.name: each.state for each in control.status().hosts}["lb"] == "off"
    with pytest.raises(LabError, match="host 'lb' is off"):
        control.run("lb", "true")
    assert control.run("jumphost", f"ping -c 1 -W 1 {plan.host('lb').primary.address}").returncode == 1
    control.power_on("lb")
    inside("jumphost", f"ping -c 5 -i 0.5 -W 2 {plan.host('lb').primary.address}")


def test_up_switches_on_what_is_off_and_leaves_the_rest(plan: Plan) -> None:
    inside("jumphost", "touch /run/still-running")
    control.power_off("lb")
    control.up(plan)
    assert inside("lb", "systemctl is-system-running") == "running"
    inside("jumphost", "test -e /run/still-running")


# --- the machine ----------------------------------------------------------------------------------------------------


def test_the_machine_notices_nothing(machine_before: Snapshot, snapshot: Callable[[], Snapshot]) -> None:
    assert snapshot() == machine_before


def test_no_link_leads_out_of_the_lab() -> None:
    """Every link that has another end has it in a namespace of the lab."""
    for path in network.namespaces():
        for link in run(["ip", "-n", path.name, "-oneline", "link"]).splitlines():
            assert re.search(rf": (lo|br\d):| link-netns {re.escape(network.PREFIX)}", link), link


# --- errors ---------------------------------------------------------------------------------------------------------


def test_an_unknown_host_is_named_with_those_that_exist() -> None:
    with pytest.raises(LabError, match=r"no host 'gatway' in the lab: did you mean 'gateway'\? The hosts are: dev, im"):
        control.run("gatway", "true")
    with pytest.raises(LabError, match="no host 'xyz' in the lab: The hosts are: dev,"):
        control.reboot("xyz")


def test_another_suite_or_plan_is_refused_and_nothing_changes(lab: LabState, plan: Plan) -> None:
    before = STATE.read_text()
    other = next(suite for suite in SUITES if suite != lab.suite)
    with pytest.raises(LabError, match=rf"is up with Debian {lab.suite}, not {other}: `./inv lab.reset --suite"):
        control.up(plan, other)
    with pytest.raises(LabError, match="no suite 'potato': the lab knows trixie, bookworm"):
        control.reset(plan, "potato")
    fewer = plan.model_copy(update={"hosts": plan.hosts[:-1]})
    with pytest.raises(LabError, match=r"hosts or networks that differ from .*all.py: `./inv lab.reset` builds"):
        control.up(fewer)
    assert STATE.read_text() == before


def test_one_process_at_a_time_changes_the_lab() -> None:
    with control._locked(), pytest.raises(LabError, match=r"process \d+ is changing the lab: wait for it to end"):
        control.reboot("dev")


# --- single hosts ---------------------------------------------------------------------------------------------------


def test_hosts_are_added_replaced_and_removed(lab: LabState, plan: Plan) -> None:
    """1. one more host boots beside the others; 2. another machine takes its place; 3. it is gone, and nothing else."""
    before = {each.name: host.leader(each.name) for each in plan.hosts}
    template = plan.host("lb")
    nic = template.primary.model_copy(update={"address": IPAddress("100.64.0.54")})
    web = template.model_copy(update={"name": "web", "interfaces": (nic,), "published": None})
    more = plan.model_copy(update={"hosts": (*plan.hosts[:2], web, *plan.hosts[2:])})

    def facts() -> tuple[str, str]:
        key = inside("web", "cat /etc/ssh/ssh_host_ed25519_key.pub").split()[1]
        assert f"web,100.64.0.54 ssh-ed25519 {key}\n" in lab.known_hosts.read_text()
        return key, inside("web", "cat /sys/class/net/eth0/address")

    try:
        control.add(more)
        control.add(more)
        assert control.up(more).hosts.keys() == {*lab.hosts, "web"}
        inside("web", "ping -c 1 -W 2 100.64.0.53; touch /root/mark")
        first = facts()
        control.replace("web")
        assert all(one != other for one, other in zip(first, facts(), strict=True))
        inside("web", "ping -c 1 -W 2 100.64.0.53; test ! -e /root/mark")
        differs = more.host("dev").model_copy(update={"interfaces": (nic,)})
        with pytest.raises(LabError, match=r"differ from the plan: `./inv lab.reset` builds it anew"):
            control.add(more.model_copy(update={"hosts": (differs, *more.hosts[1:])}))
    finally:
        control.remove("web")
    assert control.up(plan).hosts.keys() == lab.hosts.keys()
    assert {name: host.leader(name) for name in before} == before
    assert not (host.HOSTS / "web").exists()
    assert "web" not in lab.known_hosts.read_text()
