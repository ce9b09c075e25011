"""Who gets in: people on call and their accounts, the jump host's own key, what local users leave for root to find."""

from collections.abc import Callable, Iterator

import pytest

from lab import control
from tests.lab.commands import inside, invoke, pyinfra
from tests.lab.test_deploys import changes, person, site  # noqa: F401 (fixtures)
from underlay.access.target import MACHINE_KEY

HOSTS = ("gateway", "jumphost", "lb", "master-1")
ADDRESSES = {"gateway": "100.64.0.1", "jumphost": "100.64.0.52", "lb": "100.64.0.53", "master-1": "100.64.0.2"}
OPTIONS = "-n -F none -o BatchMode=yes -o IdentitiesOnly=yes -o UserKnownHostsFile=/etc/ssh/ssh_known_hosts"
FOLDER = "~ops/.ssh"
KEYS = f"{FOLDER}/authorized_keys"
ACCOUNTS = "getent passwd; getent group; cat /var/lib/underlay/on-call 2>/dev/null; stat -c '%U %a %n' / /root /home/*"

pytestmark = pytest.mark.usefixtures("deployed")


def logs_in(key: str) -> list[str]:
    """The hosts that a key on the jump host logs in on."""
    return [
        host
        for host in HOSTS
        if control.run("jumphost", f"ssh {OPTIONS} -i {key} ops@{ADDRESSES[host]} true").returncode == 0
    ]


def lines() -> dict[str, list[str]]:
    """The deploy machine's lines on each host."""
    return {host: inside(host, f"grep deploy-machine {KEYS}").splitlines() for host in HOSTS}


def test_the_jump_host_logs_in_with_a_key_that_root_alone_can_read() -> None:
    assert inside("jumphost", f"stat -c '%U %a' {MACHINE_KEY} {MACHINE_KEY.parent}").splitlines() == [
        "root 600",
        "root 700",
    ]
    assert logs_in(str(MACHINE_KEY)) == list(HOSTS)
    assert logs_in("/etc/ssh/ssh_host_ed25519_key") == []
    assert {len(each) for each in lines().values()} == {1}


def test_the_host_key_of_an_earlier_version_goes() -> None:
    """On the gateway, by the jump host's deploy; and `verify` tells of one that is left."""
    public = " ".join(inside("jumphost", "cat /etc/ssh/ssh_host_ed25519_key.pub").split()[:2])
    line = f'from="100.64.0.52" {public} underlay-deploy-machine'
    inside("gateway", f"sed -i '/deploy-machine/d' {KEYS} && echo '{line}' >> {KEYS}")
    assert logs_in("/etc/ssh/ssh_host_ed25519_key") == ["gateway"]
    wrong = invoke("verify", "gateway", good=False)
    assert wrong.returncode == 2
    assert "the deploy machine may log in" in wrong.stdout
    pyinfra("deploys/jumphost.py", "-y")
    assert (logs_in("/etc/ssh/ssh_host_ed25519_key"), logs_in(str(MACHINE_KEY))) == ([], list(HOSTS))


@pytest.fixture
def copied() -> Iterator[str]:
    """A copy of the key in force, as somebody with sudo there can make one."""
    inside("jumphost", f"install -m 600 {MACHINE_KEY} /root/copied")
    yield "/root/copied"
    inside("jumphost", "rm -f /root/copied")


@pytest.mark.parametrize("where", ["workstation", "jumphost"])
def test_rotated_on_all_hosts_or_on_none(where: str, copied: str) -> None:
    """1. a host does not take it: all is as it was; 2. it does: the old key is refused everywhere, the new one not."""

    def rotate() -> tuple[int, str]:
        if where == "workstation":
            done = invoke("rotate-key", "--deploy-machine", good=False)
        else:
            command = "cd /opt/underlay && .venv/bin/python -m invoke rotate-key --deploy-machine"
            done = control.run("jumphost", command, timeout=120)
        return done.returncode, done.stdout + done.stderr

    before = lines()
    inside("master-1", f"chown root: {FOLDER}; chmod 755 {FOLDER}")
    try:
        code, said = rotate()
    finally:
        inside("master-1", f"chmod 700 {FOLDER}; chown ops: {FOLDER}")
    assert code == 1, said
    assert "nothing changed" in said
    assert lines() == before
    assert logs_in(copied) == list(HOSTS)
    code, said = rotate()
    assert code == 0, said
    assert "old key is refused on gateway, jumphost, lb, master-1" in said
    assert (logs_in(copied), logs_in(str(MACHINE_KEY))) == ([], list(HOSTS))
    assert inside("jumphost", f"ls {MACHINE_KEY.parent}").split() == ["key"]


def test_who_is_removed_takes_no_key_along(site: Callable[..., str], person: str, copied: str) -> None:  # noqa: F811
    """1. listed; 2. removed while a host is down: told, and due; 3. with it up: the copied key is refused everywhere.

    The home stays theirs: who comes next has another UID, and who comes back has it again.
    """
    pyinfra(
        "deploys/jumphost.py",
        "-y",
        UNDERLAY_PLAN=site("jumphost", jumphost=f'people_on_call = {{"ada": ["{person}"]}}\n'),
    )
    uid = inside("jumphost", "id -u ada").strip()
    inside("jumphost", "echo '* * * * * touch /run/ada' > /var/spool/cron/crontabs/ada || true")
    # Once more, as the person on call may, with what leads root elsewhere.
    inside("jumphost", "rm -rf ~ada/.ssh && ln -s /root ~ada/.ssh && echo root > /root/authorized_keys")
    plan = site("jumphost", jumphost=f'people_on_call = {{"bob": ["{person}"]}}\n')
    inside("lb", "systemctl stop ssh")
    try:
        done = pyinfra("deploys/jumphost.py", "-y", good=False, UNDERLAY_PLAN=plan)
    finally:
        inside("lb", "systemctl start ssh")
    assert done.returncode == 1
    assert "./inv rotate-key --deploy-machine" in done.stdout + done.stderr
    assert control.run("jumphost", "id ada || pgrep -u ada || ls /var/spool/cron/crontabs/ada").returncode != 0
    assert inside("jumphost", "cat /root/authorized_keys && rm /root/authorized_keys") == "root\n"
    assert logs_in(copied) == list(HOSTS)
    assert "ada was removed since it was made" in invoke("verify", "jumphost", good=False, UNDERLAY_PLAN=plan).stdout
    pyinfra("deploys/jumphost.py", "-y", UNDERLAY_PLAN=plan)
    assert (logs_in(copied), logs_in(str(MACHINE_KEY))) == ([], list(HOSTS))
    assert changes("jumphost", UNDERLAY_PLAN=plan) == []
    assert inside("jumphost", "id -u bob").strip() != uid
    inside("jumphost", "rm -f ~bob/../ada/.ssh")
    both = site("jumphost", jumphost=f'people_on_call = {{"ada": ["{person}"], "bob": []}}\n')
    pyinfra("deploys/jumphost.py", "-y", UNDERLAY_PLAN=both)
    assert inside("jumphost", "id -u ada; stat -c %u ~ada/.ssh").split() == [uid, uid]


def test_accounts_of_others_are_refused(site: Callable[..., str]) -> None:  # noqa: F811
    """Each by name, before anything changes: neither accounts nor homes nor sessions."""
    listed = site("jumphost", jumphost='people_on_call = {"eve": [], "daemon-1": [], "printers": []}\n')
    inside(
        "jumphost", "useradd -m eve; useradd -r -d / daemon-1; groupadd printers; useradd -m -G underlay-oncall earlier"
    )
    inside(
        "jumphost", "gpasswd -a root underlay-oncall; gpasswd -a ops underlay-oncall; mv /opt/underlay/LICENSE /run/"
    )
    inside("jumphost", "systemd-run --uid=earlier --unit=earlier sleep 600")
    try:
        before = inside("jumphost", ACCOUNTS)
        done = pyinfra("deploys/jumphost.py", "-y", good=False, UNDERLAY_PLAN=listed)
        assert done.returncode == 1
        for said in (
            "nothing was changed: eve: an account of this name is there, and no deploy made it: give the person",
            "nothing was changed: daemon-1: an account of this name is there",
            "nothing was changed: printers: a group of this name is there",
            "nothing was changed: root is in the group underlay-oncall, and no deploy made this account: take it out",
            "nothing was changed: ops is in the group underlay-oncall",
            "if an earlier version made it, say so there: echo 'earlier ",
        ):
            assert said in done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        assert inside("jumphost", ACCOUNTS) == before
        inside("jumphost", "pgrep -u earlier sleep; [ ! -e /opt/underlay/LICENSE ]")
    finally:
        inside(
            "jumphost",
            "systemctl stop earlier; for n in eve earlier; do userdel -r $n 2>/dev/null; done; userdel daemon-1",
        )
        inside("jumphost", "groupdel printers; for n in root ops; do gpasswd -d $n underlay-oncall; done")


def test_what_a_local_user_plants() -> None:
    """Files, links and folders under every name that could be guessed, on a host without the kernel's protection.

    The deploy of the repo, and a command there, touch none of them, and read none.
    """
    inside("jumphost", "sysctl -q -w fs.protected_symlinks=0 fs.protected_regular=0 || true; useradd -m mallory")
    try:
        plant = (
            "import hashlib, os\n"
            "for name in ('/opt/underlay', '/opt/underlay.upload', '/etc/ssh/ssh_known_hosts'):\n"
            "    there = '/tmp/pyinfra-' + hashlib.sha1(name.encode()).hexdigest()\n"
            "    for path in (there, there + '.upload'): os.symlink('/etc/planted', path)\n"
            "os.symlink('/etc', '/tmp/underlay-0')\n"
        )
        control.run("jumphost", ["runuser", "-u", "mallory", "--", "python3", "-c", plant])
        inside("jumphost", "touch /run/before; rm -f /opt/underlay/LICENSE")
        pyinfra("deploys/jumphost.py", "-y")
        inside("jumphost", "cd /opt/underlay && .venv/bin/python -m invoke history gateway")
        assert inside(
            "jumphost", "ls -d /etc/planted /etc/????????/ssh_config 2>/dev/null; stat -c %a /etc"
        ).split() == ["755"]
        assert inside("jumphost", "find /tmp /var/tmp /dev/shm -mindepth 1 -newer /run/before -user root") == ""
    finally:
        inside("jumphost", "sysctl -q -w fs.protected_symlinks=1 fs.protected_regular=2 || true; userdel -r mallory")
        inside("jumphost", "rm -rf /tmp/pyinfra-* /tmp/underlay-0")
