"""Who manages a NIC: each manager's own word, and two of them where there are two."""

import pytest

from underlay.compare.systemd.managers import Answers, Manager, managers

DROPPED = "/run/systemd/network/10-netplan-eth0.network"
INTERFACES = "/etc/network/interfaces"
STATIC = "auto lo\niface lo inet loopback\nauto eth0\niface eth0 inet static\n  address 192.0.2.7/24\n"


def of_eth0(answers: Answers) -> list[str]:
    return [str(each) for each in managers(["eth0"], answers)["eth0"]]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (Answers(), []),
        (Answers(networkd=True, links={"eth0": ("configured", "/etc/systemd/network/50.network")}), ["networkd"]),
        (Answers(networkd=True, links={"eth0": ("configuring", "/etc/systemd/network/x.network")}), ["networkd"]),
        (Answers(networkd=True, links={"eth0": ("unmanaged", "")}), []),
        (Answers(networkd=True, links={"eth0": ("initialized", "")}), []),
        # What it left in /run when it was switched off.
        (Answers(networkd=False, links={"eth0": ("configured", "/etc/systemd/network/50.network")}), []),
        (Answers(networkd=True, links={"eth0": ("configured", DROPPED)}), ["networkd (netplan)"]),
        (
            Answers(
                networkd=True, links={"eth0": ("configured", DROPPED)}, netplan=("/etc/netplan/50-cloud-init.yaml",)
            ),
            ["networkd (netplan of cloud-init)"],
        ),
        (
            Answers(networkd=True, links={"eth0": ("configured", "/etc/systemd/network/10-cloud-init-eth0.network")}),
            ["networkd (cloud-init)"],
        ),
        (Answers(ifstate=frozenset({"lo", "eth0"}), interfaces={INTERFACES: STATIC}), ["ifupdown"]),
        (Answers(ifstate=frozenset({"eth0"})), ["ifupdown"]),
        # It is not up yet, and will be at the next boot.
        (Answers(networking=True, interfaces={INTERFACES: STATIC}), ["ifupdown"]),
        (Answers(networking=False, interfaces={INTERFACES: STATIC}), []),
        (Answers(networking=True, interfaces={INTERFACES: "iface eth0 inet dhcp\n"}), []),
        (Answers(networking=True, interfaces={INTERFACES: "allow-hotplug eth0\niface eth0 inet dhcp\n"}), ["ifupdown"]),
        (Answers(networking=True, ifupdown2=True, interfaces={INTERFACES: STATIC}), ["ifupdown2"]),
        # As Proxmox writes it: no method, and the address below it.
        (
            Answers(
                networking=True,
                ifupdown2=True,
                interfaces={INTERFACES: "auto eth0\niface eth0\n\taddress 192.0.2.7/24\n"},
            ),
            ["ifupdown2"],
        ),
        (
            Answers(
                networking=True,
                interfaces={
                    INTERFACES: "source interfaces.d/*\n",
                    f"{INTERFACES}.d/50-cloud-init": "auto eth0\niface eth0 inet dhcp\n",
                },
            ),
            ["ifupdown (cloud-init)"],
        ),
        # A file that nobody names is none.
        (Answers(networking=True, interfaces={INTERFACES: "", f"{INTERFACES}.d/x": STATIC}), []),
        (Answers(devices={"eth0": ("connected", "Wired connection 1")}), ["NetworkManager"]),
        (Answers(devices={"eth0": ("connecting (getting IP configuration)", "x")}), ["NetworkManager"]),
        (Answers(devices={"eth0": ("connected", "netplan-eth0")}), ["NetworkManager (netplan)"]),
        (Answers(devices={"eth0": ("connected (externally)", "eth0")}), []),
        (Answers(devices={"eth0": ("unmanaged", "")}), []),
        (Answers(devices={"eth0": ("disconnected", "")}), ["NetworkManager"]),
    ],
)
def test_one_or_nobody(answers: Answers, expected: list[str]) -> None:
    assert of_eth0(answers) == expected


NETWORKD = {"eth0": ("configured", "/etc/systemd/network/50-installer.network")}


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (
            Answers(networkd=True, links=NETWORKD, ifstate=frozenset({"eth0"}), interfaces={INTERFACES: STATIC}),
            ["networkd", "ifupdown"],
        ),
        (
            Answers(networkd=True, links=NETWORKD, devices={"eth0": ("connected", "eth0")}),
            ["networkd", "NetworkManager"],
        ),
        # These do nothing with it.
        (Answers(networkd=True, links=NETWORKD, devices={"eth0": ("unmanaged", "")}), ["networkd"]),
        (Answers(networkd=True, links=NETWORKD, devices={"eth0": ("unavailable", "")}), ["networkd"]),
        (
            Answers(
                networkd=True,
                links=NETWORKD,
                ifstate=frozenset({"eth0"}),
                interfaces={INTERFACES: "auto eth0\niface eth0 inet manual\n"},
            ),
            ["networkd"],
        ),
    ],
)
def test_two(answers: Answers, expected: list[str]) -> None:
    assert of_eth0(answers) == expected


def test_each_nic_by_itself() -> None:
    """A host may have a manager for each."""
    answers = Answers(
        networkd=True,
        links=NETWORKD | {"eth1": ("unmanaged", "")},
        ifstate=frozenset({"eth1"}),
        interfaces={INTERFACES: "auto eth1\niface eth1 inet dhcp\n"},
    )
    assert managers(["eth0", "eth1", "eth2"], answers) == {
        "eth0": (Manager("networkd", file="/etc/systemd/network/50-installer.network"),),
        "eth1": (Manager("ifupdown", file=INTERFACES),),
        "eth2": (),
    }


def test_sources_that_name_each_other() -> None:
    files = {INTERFACES: "source /etc/network/a\n", "/etc/network/a": f"source {INTERFACES}\n{STATIC}"}
    assert of_eth0(Answers(networking=True, interfaces=files)) == ["ifupdown"]
