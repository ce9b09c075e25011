"""Images: what a host has at its first boot, what is where on its disk, and how qemu boots it in the lab."""

import base64
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from lab import blueprint, vm
from lab.process import CommandError, LabError, wait_until
from tests.unit.conftest import Planned
from underlay import programs
from underlay.errors import OperatorError
from underlay.image import build, disk, make, seed
from underlay.image.make import Wanted
from underlay.plan import REPO, Plan, load

LOGIN = f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{'A' * 43} ops"
PRIVATE = "-----BEGIN OPENSSH PRIVATE KEY-----\nb64\n-----END OPENSSH PRIVATE KEY-----\n"
SITE = load(REPO / "group_data/all.py")


def first(host: str = "master-1", **changed: Any) -> seed.First:
    found = seed.of_host(SITE, SITE.host(host), LOGIN, (PRIVATE, LOGIN), ["192.0.2.53"])
    return seed.First(**{**found.__dict__, **changed})


def read(files: dict[str, str]) -> tuple[Any, Any, Any]:
    """What cloud-init reads in a seed."""
    header, settings = files["user-data"].split("\n", 1)
    assert header == "#cloud-config"
    return json.loads(settings), json.loads(files["network-config"]), json.loads(files["meta-data"])


def test_a_first_boot() -> None:
    settings, network, meta = read(seed.files(first()))
    assert [user["name"] for user in settings["users"]] == ["ops"], "and not the image's own"
    user = settings["users"][0]
    assert user["ssh_authorized_keys"] == [LOGIN]
    assert user["lock_passwd"] is True
    assert user["sudo"].endswith("NOPASSWD: ALL")
    assert settings["ssh_keys"] == {"ed25519_private": PRIVATE, "ed25519_public": LOGIN}
    assert settings["ssh_pwauth"] is False
    assert settings["write_files"] == [{"path": "/etc/resolv.conf", "content": "nameserver 192.0.2.53\n"}]
    assert network["ethernets"] == {
        "eth0": {"addresses": ["100.64.0.2/21"], "routes": [{"to": "0.0.0.0/0", "via": "100.64.0.1"}]}
    }
    assert meta["local-hostname"] == "master-1"


def test_root_as_the_account() -> None:
    settings, _, _ = read(seed.files(first(user="root")))
    assert (settings["users"], settings["disable_root"], settings["ssh_authorized_keys"]) == ([], False, [LOGIN])


def test_another_port_of_sshd(planned: Planned) -> None:
    """It listens there at its first boot; the account is the host's."""
    plan = planned(('"jumphost", "addresses"', '"jumphost", "port": 2222, "user": "admin", "addresses"'))
    found = seed.of_host(plan, plan.jumphost, LOGIN, (PRIVATE, LOGIN), [])
    settings, _, _ = read(seed.files(found))
    assert settings["write_files"] == [{"path": seed.SSHD_PORT, "content": "Port 2222\n"}]
    assert settings["users"][0]["name"] == "admin"


def test_an_image_has_no_password(planned: Planned, tmp_path: Path) -> None:
    plan = planned(('"jumphost", "addresses"', '"jumphost", "sudo": "password", "addresses"'))
    with pytest.raises(OperatorError, match="by a password, and an image has none"):
        make.check(plan, Wanted(plan.jumphost, "seed", tmp_path / "x"))


def test_the_gateway_leaves_by_the_upstream_router() -> None:
    _, network, _ = read(seed.files(first("gateway")))
    assert network["ethernets"]["eth0"]["routes"] == [{"to": "0.0.0.0/0", "via": "192.168.0.1"}]


def test_a_seed_is_the_same_unless_something_of_it_differs() -> None:
    """With another one cloud-init sets the host up anew; with the same one it leaves it alone."""
    assert seed.files(first()) == seed.files(first())
    others = [first(host_key="another"), first(login="another"), first(address="100.64.0.3/21"), first(router=None)]
    found = {read(seed.files(each))[2]["instance-id"] for each in [first(), *others]}
    assert len(found) == 1 + len(others)


def test_nothing_on_a_disk_is_in_the_place_of_another() -> None:
    end = 1  # the table is before it
    for each in disk.PARTITIONS:
        assert each.start == end, each
        end = each.start + each.size
    assert disk.PARTITIONS[-1] is disk.ROOT, "it grows"
    assert end < disk.TOTAL_MIB, "the copy of the table is behind it"


def test_names_of_a_disk() -> None:
    one, other = build.names("site", "a"), build.names("site", "b")
    assert build.names("site", "a") == one
    known = [each for names in (one, other) for each in (names.disk, names.root, names.efi)]
    known += [names.partition(each) for names in (one, other) for each in disk.PARTITIONS]
    assert len(set(known)) == len(known)


def test_the_first_sectors() -> None:
    """Each knows where the next one is: GRUB's boot.img that of core.img, and that one's first sector its others."""
    code = disk.boot_sector(bytes(range(256)) * 2)
    assert len(code) == 440, "behind it is the table"
    assert int.from_bytes(code[0x5C:0x64], "little") == disk.BIOS.start * disk.MIB // disk.SECTOR == 2048
    core = disk.core(b"\xff" * 2048)
    assert int.from_bytes(core[500:508], "little") == 2049
    assert (core[:500], core[508:]) == (b"\xff" * 500, b"\xff" * (2048 - 508))
    with pytest.raises(ValueError, match="does not fit"):
        disk.core(bytes(disk.BIOS.size * disk.MIB + 1))


@pytest.mark.parametrize(("nics", "own"), [(["eth0", "eth1"], True), (["eno1"], False), (["enp1s0", "bond0"], False)])
def test_nics_have_the_names_of_the_plan(nics: list[str], own: bool) -> None:
    assert ("net.ifnames=0" in build.kernel_options(nics)) is own


@pytest.mark.parametrize(
    ("nics", "good"),
    [
        ({}, True),
        ({"mgmt": "eno1"}, True),
        ({"mgmt": {"bond": ["eno1", "eno2"], "vlan": 10}}, True),
        ({"mgmt": {"nic": "eth0", "vlan": 10}}, True),
        ({"mgmt": {"nic": "lan0", "vlan": 10}}, False),
        ({"mgmt": "bond0.10"}, False),
        ({"mgmt": "lan0"}, False),
    ],
)
def test_names_that_an_image_gives(planned: Planned, nics: dict[str, object], good: bool) -> None:
    """A NIC that is not there at the first boot would leave the host without a way in."""
    plan = planned(('"jumphost", "addresses"', f'"jumphost", "nics": {nics}, "addresses"'))
    if good:
        make._check_nics(plan, plan.host("jumphost"))
    else:
        with pytest.raises(OperatorError, match=r"plan\.py:\d+ hosts\.jumphost: an image can't have NICs called"):
            make._check_nics(plan, plan.host("jumphost"))


# --- what is made ---------------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path, planned: Planned) -> Plan:
    """A plan with an operator's key and known hosts of its own."""
    (tmp_path / "id.pub").write_text(f"{LOGIN}\n")
    known = f'"key": "{tmp_path / "id"}", "known_hosts": "{tmp_path / "known"}"'
    return planned(('"key": "~/.ssh/id_ed25519", "known_hosts": "~/.ssh/known_hosts"', known))


@pytest.fixture
def wanted(site: Plan, tmp_path: Path) -> Wanted:
    if lacking := programs.missing(programs.SEED):
        assert "CI" not in os.environ, lacking
        pytest.skip(f"{lacking} are not here")
    return Wanted(site.host("lb"), "seed", tmp_path / "lb-seed.img")


def quiet(_: str) -> None:
    """Says nothing."""


def content(path: Path, name: str) -> str:
    return subprocess.run(["mtype", "-i", str(path), f"::{name}"], check=True, capture_output=True, text=True).stdout


def test_a_seed_as_cloud_init_finds_it(site: Plan, wanted: Wanted) -> None:
    """A file system with the label that it looks for, and the files with their whole names."""
    assert make.make(site, wanted, quiet)
    assert stat.S_IMODE(wanted.output.stat().st_mode) == 0o600, "the private host key is in it"
    assert b"CIDATA" in wanted.output.read_bytes()[:512]
    settings = json.loads(content(wanted.output, "user-data").split("\n", 1)[1])
    assert settings["ssh_keys"]["ed25519_private"] == wanted.host_key.read_text()
    assert json.loads(content(wanted.output, "network-config"))["ethernets"]["eth0"]["addresses"] == ["100.64.0.53/21"]
    assert json.loads(content(wanted.output, "meta-data"))["local-hostname"] == "lb"
    assert not [path for path in wanted.output.parent.iterdir() if path.name.startswith(".lb")], "nothing else is left"


def test_another_build_gives_the_same_bytes(site: Plan, wanted: Wanted) -> None:
    make.make(site, wanted, quiet)
    before = wanted.output.read_bytes()
    wanted.output.unlink()
    assert not make.make(site, wanted, quiet), "it was known already"
    assert wanted.output.read_bytes() == before


def test_the_host_is_known_by_all_its_addresses(site: Plan, wanted: Wanted) -> None:
    known = make.known_hosts(site)
    known.write_text("# without the end of a line")
    make.make(site, wanted, quiet)
    key = wanted.host_key.with_name("lb.hostkey.pub").read_text().split()
    assert known.read_text() == f"# without the end of a line\n100.64.0.53,192.168.0.53 {key[0]} {key[1]}\n"


def test_a_host_that_is_known_by_another_key(site: Plan, wanted: Wanted) -> None:
    known = make.known_hosts(site)
    known.write_text(f"100.64.0.53 {' '.join(LOGIN.split()[:2])}\n")
    with pytest.raises(OperatorError, match=r"lb is known by .* ssh-keygen -f \S+ -R 100\.64\.0\.53 && ") as error:
        make.make(site, wanted, quiet)
    assert not wanted.output.exists()
    assert not wanted.host_key.exists()
    subprocess.run(str(error.value).rpartition("forget the old host: ")[2], shell=True, check=True, capture_output=True)
    assert make.make(site, wanted, quiet), "what is printed is the fix"


def test_a_file_that_is_there_is_left_alone(site: Plan, wanted: Wanted) -> None:
    wanted.output.write_text("mine")
    with pytest.raises(OperatorError, match="is there already: name another file with --output"):
        make.make(site, wanted, quiet)
    assert wanted.output.read_text() == "mine"
    wanted.output.unlink()
    wanted.output.symlink_to("nothing")
    with pytest.raises(OperatorError, match="is there already"):
        make.make(site, wanted, quiet)
    assert wanted.output.is_symlink()


@pytest.mark.parametrize("kind", ["raw", "qcow2", "seed"])
def test_programs_that_are_missing(site: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(programs, "search_path", lambda: str(tmp_path))
    with pytest.raises(OperatorError, match=r"apt-get install .*mtools") as error:
        make.check(site, Wanted(site.host("lb"), kind, tmp_path / "x"))
    assert ("mmdebstrap" in str(error.value)) is (kind != "seed")
    assert ("qemu-utils" in str(error.value)) is (kind == "qcow2")


def test_an_operator_without_a_public_key(site: Plan, wanted: Wanted, tmp_path: Path) -> None:
    (tmp_path / "id.pub").unlink()
    with pytest.raises(OperatorError, match=r"id\.pub can't be read .*ssh-keygen -y -f"):
        make.check(site, wanted)


@pytest.mark.parametrize("name", ["", "-x", "a b", "firmware;reboot", "A", "../x"])
def test_no_name_of_a_package(name: str) -> None:
    with pytest.raises(OperatorError, match="no name of a Debian package"):
        make.package(name)


def test_a_program_that_fails_says_why() -> None:
    run = build.runner(quiet)
    script = (
        "echo 'I: running'; echo 'E: the reason'; echo 'E: setup failed: E: command failed: set -eu'; echo x; exit 3"
    )
    with pytest.raises(build.BuildError) as error:
        run(["sh", "-c", script])
    assert "failed with 3" in str(error.value)
    assert "E: the reason" in str(error.value)
    assert "\n  x" not in str(error.value)


def test_an_interrupted_build_waits_for_what_cleans_up(tmp_path: Path) -> None:
    """Ctrl-C while mmdebstrap runs: it takes away what it made before the command ends."""
    begun, cleaned = tmp_path / "begun", tmp_path / "cleaned"
    script = f"trap 'sleep 0.3; touch {cleaned}; exit 1' INT; touch {begun}; while :; do sleep 0.05; done"
    program = [
        "import signal, sys",
        "from underlay.image import build",
        "signal.signal(signal.SIGINT, signal.default_int_handler)",
        f"try: build.runner(print)(['sh', '-c', {script!r}])",
        "except KeyboardInterrupt: sys.exit(7)",
    ]
    with subprocess.Popen([sys.executable, "-c", "\n".join(program)], cwd=REPO) as process:
        assert wait_until(begun.exists, seconds=20)
        time.sleep(0.5)  # it knows by then what it has begun
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 7
    assert cleaned.exists()


# --- a machine of its own in the lab --------------------------------------------------------------------------------


def test_which_hosts_are_machines_of_their_own() -> None:
    drawn = blueprint.draw(SITE, vms=["master-1"])
    assert drawn.vms == ["master-1"]
    assert not blueprint.draw(SITE).same(drawn)
    with pytest.raises(LabError, match="did you mean 'master-1'"):
        blueprint.draw(SITE, vms=["master1"])
    vm.check_nics(["eth0", "eth1"], "x")
    for names in (["eth1"], ["eth0", "eth2"], ["eno1"]):
        with pytest.raises(LabError, match="can't be a machine of its own"):
            vm.check_nics(names, "x")


def test_the_command_line_of_qemu() -> None:
    drawn = blueprint.draw(SITE, vms=["master-1"])
    host = drawn.machine("master-1")
    argv = vm.command(host, drawn, Path("/run/log"))
    assert "-nodefaults" in argv, "it has no NIC of qemu's own, which would lead out of the lab"
    assert [word for word in argv if word.startswith(("user,", "bridge,", "socket,id=n"))] == []
    taps = [word for word in argv if word.startswith("tap,")]
    number = host.number
    assert taps == [f"tap,id=n{i},ifname=p{number}-{i},script=no,downscript=no" for i in range(3)]
    macs = [word.split("mac=")[1].split(",")[0] for word in argv if word.startswith("virtio-net-pci")]
    assert macs == [nic.mac for nic in host.nics]
    assert "tcg,thread=multi" in argv


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], list[Any]]]:
    """A guest agent that answers one caller after the other: what it is asked is kept, `answer` makes the answers."""
    monkeypatch.setattr(vm, "_socket", lambda _, what: tmp_path / what)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "agent"))
    listening.listen()
    asked: list[Any] = []

    def start(answer: Any) -> list[Any]:
        def serve() -> None:
            with suppress(OSError):
                while True:
                    line, _ = listening.accept()
                    with line, line.makefile("rb") as lines:
                        line.sendall(b'{"return": "half an answer to somebody else"}\n{"ret')
                        for each in lines:
                            request = json.loads(each.removeprefix(b"\xff"))
                            if request["execute"] == "guest-sync-delimited":
                                found, mark = request["arguments"]["id"], b"\xff"
                            else:
                                asked.append(request)
                                found, mark = answer(request), b""
                            line.sendall(mark + json.dumps({"return": found}).encode() + b"\n")

        Thread(target=serve, daemon=True).start()
        return asked

    yield start
    listening.close()


def test_a_command_by_the_agent(agent: Callable[[Any], list[Any]]) -> None:
    """It gets words, variables and input, and what it says comes back, whatever an earlier caller left on the line."""
    ends = iter([False, True])

    def answer(request: Any) -> object:
        if request["execute"] == "guest-exec":
            return {"pid": 7}
        data = {"out-data": base64.b64encode("hé\n".encode()).decode(), "err-data": ""}
        return {"exited": True, "exitcode": 3, **data} if next(ends) else {"exited": False}

    asked = agent(answer)
    done = vm.execute("x", ["sh", "-c", "a b"], {"PATH": "/bin"}, "in\n", True, 60)
    assert (done.returncode, done.stdout, done.stderr) == (3, "hé\n", "")
    begun = asked[0]["arguments"]
    assert begun["env"] == ["PATH=/bin"]
    assert begun["arg"][-3:] == ["sh", "-c", "a b"]
    assert base64.b64decode(begun["input-data"]) == b"in\n"
    assert {each["arguments"]["pid"] for each in asked[1:]} == {7}


def test_an_agent_that_is_not_there(agent: Callable[[Any], list[Any]], tmp_path: Path) -> None:
    (tmp_path / "agent").unlink()
    with pytest.raises(CommandError, match="took too long"):
        vm.execute("x", ["true"], {}, None, True, 5)
