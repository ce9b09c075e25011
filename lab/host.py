"""One host of the lab: its disk, its power switch, and a way to run something in it."""

import os
import shlex
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from lab import flavour, machine, network, vm
from lab.blueprint import Blueprint, Machine
from lab.image import REPO, layer
from lab.process import CommandError, LabError, run, tail, wait_until
from lab.state import NAME, RUNTIME, VARIABLE
from underlay.plan import SSH_PORT
from underlay.programs import search_path

HOSTS = VARIABLE / "hosts"
NSPAWN = Path("/run/systemd/nspawn")
BOOT_SECONDS = 90.0
PASSWORD = "correct horse battery staple"  # noqa: S105
"""Of an account that has one for sudo: no secret."""
PASSWORD_HASH = "$6$underlay$lZG8eI5R2EUjF5weldpr8o0VZFoY/sRAZow3Eimx0aCc3rWoPeQB9GOehFD3BG1muXg8lViahWaikotsLXVo71"  # noqa: S105
PACKAGES_SERVICE = """\
[Unit]
Description=Packages for the hosts of the site

[Service]
ExecStart=/usr/bin/python3 -m http.server 80 --directory /srv

[Install]
WantedBy=multi-user.target
"""
DNS_SERVICE = """\
[Unit]
Description=DNS of the enterprise

[Service]
ExecStart=/usr/sbin/dnsmasq --keep-in-foreground --user=root --conf-file=/dev/null --no-resolv --no-hosts {records}

[Install]
WantedBy=multi-user.target
"""
CLEAN_ENV = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "USER": "root",
    "LOGNAME": "root",
    "SHELL": "/bin/bash",
    "LANG": "C.UTF-8",
}


def root(name: str) -> Path:
    """Where a host's file system is mounted: an overlay over the image."""
    return HOSTS / name / "root"


def console(name: str) -> Path:
    """What a host wrote to its console at its last boot."""
    return RUNTIME / f"{name}.log"


# --- disk -----------------------------------------------------------------------------------------------------------


def make_disk(host: Machine, blueprint: Blueprint, image: Path, key: Path, parts: Path | None = None) -> None:
    """Give a host a fresh disk, as an installer leaves it. `key`: the operator's public key.

    image, parts: what the disks are made of; the latter those of machines of their own
    """
    if host.vm:
        assert parts is not None
        files = {f"/{path}": content for path, _, content in _services(blueprint)}
        vm.make_disk(host, host.user, key.read_text(), keys(host.name), parts, files)
        return
    top, merged = HOSTS / host.name, root(host.name)
    for folder in (top / "upper", top / "work", merged):
        folder.mkdir(parents=True)
        folder.chmod(0o755)  # that of "upper" is that of the host's "/", whatever the umask is here
    way = flavour.named(host.flavour)
    lower = [*([layer(image, way.packages)] if way.packages else []), image / "root"]
    layers = f"lowerdir={':'.join(map(str, lower))},upperdir={top / 'upper'},workdir={top / 'work'}"
    run(["mount", "-t", "overlay", f"{network.PREFIX}{host.name}", "-o", layers, str(merged)])
    if host.user != "root":
        password = ["--password", PASSWORD_HASH] if host.sudo == "password" else []
        argv = ["useradd", "--prefix", str(merged), "--create-home", "--shell", "/bin/bash", *password, host.user]
        run(argv)
    for path, mode, content in _files(host, blueprint):
        _write(merged / path, mode, content)
    _authorize(merged, host.user, key)
    for verb, units in (("enable", way.enable), ("disable", way.disable)):
        if units:
            run(["systemctl", "--quiet", "--root", str(merged), verb, *units])
    if host.serves_packages:
        run(["systemctl", "--quiet", "--root", str(merged), "enable", "packages.service", "dns.service"])


def remove_disk(name: str) -> None:
    """Take the disk of a host away that is off, with its host key."""
    machine.unmount_below(HOSTS / name)
    shutil.rmtree(HOSTS / name)
    for path in (keys(name), keys(name).with_suffix(".pub")):
        path.unlink()


def _files(host: Machine, blueprint: Blueprint) -> Iterator[tuple[str, int, str]]:
    yield "etc/hostname", 0o644, f"{host.name}\n"
    yield "etc/hosts", 0o644, f"127.0.0.1 localhost {host.name}\n"
    # With none, systemd takes the boot for the first one and applies its presets.
    yield "etc/machine-id", 0o444, f"{uuid.uuid4().hex}\n"
    if host.sudo:
        free = "NOPASSWD: " if host.sudo == "nopasswd" else ""
        yield f"etc/sudoers.d/{host.user}", 0o440, f"{host.user} ALL=(ALL:ALL) {free}ALL\n"
    if host.port != SSH_PORT:
        yield "etc/ssh/sshd_config.d/00-installer.conf", 0o644, f"Port {host.port}\n"
    yield from flavour.named(host.flavour).files(host, blueprint.packages_at or "")
    host_key = keys(host.name)
    yield "etc/ssh/ssh_host_ed25519_key", 0o600, host_key.read_text()
    yield "etc/ssh/ssh_host_ed25519_key.pub", 0o644, host_key.with_suffix(".pub").read_text()
    yield from _services(blueprint)
    if host.loopback:
        loopback = ["[Match]", "Name=lo", "", "[Network]", f"Address={host.loopback}"]
        yield "etc/systemd/network/50-loopback.network", 0o644, _lines(loopback)
    if host.serves_packages:
        yield "etc/systemd/system/packages.service", 0o644, PACKAGES_SERVICE
        records = (f"--host-record={each.name},{each.address.partition('/')[0]}" for each in blueprint.machines)
        yield "etc/systemd/system/dns.service", 0o644, DNS_SERVICE.format(records=" ".join(records))


def _services(blueprint: Blueprint) -> Iterator[tuple[str, int, str]]:
    """Where a host finds names and packages."""
    at = blueprint.packages_at
    yield "etc/resolv.conf", 0o644, f"nameserver {at}\n" if at else ""
    if at:
        yield "etc/apt/sources.list", 0o644, f"deb [trusted=yes] http://{at}/debian ./\n"
        pip = ["[global]", "no-index = true", f"find-links = http://{at}/python/", f"trusted-host = {at}"]
        yield "etc/pip.conf", 0o644, _lines(pip)


def _lines(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"


def _write(path: Path, mode: int, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(content)
    path.chmod(mode)


def _authorize(merged: Path, user: str, key: Path) -> None:
    home = merged / "root" if user == "root" else merged / "home" / user
    (home / ".ssh").mkdir(mode=0o700, exist_ok=True)
    _write(home / ".ssh/authorized_keys", 0o600, key.read_text())
    owner = home.stat()
    for path in (home / ".ssh", home / ".ssh/authorized_keys"):
        os.chown(path, owner.st_uid, owner.st_gid)


def keys(name: str) -> Path:
    """The private host key of a host; the public one is beside it."""
    return RUNTIME / "keys" / name


def make_key(path: Path, comment: str) -> None:
    """Make a key pair."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)])


# --- power ----------------------------------------------------------------------------------------------------------


def leader(name: str) -> int | None:
    """The process that is PID 1 of a host, or its machine; None if the host is off."""
    if vm.is_vm(name):
        return vm.leader(name)
    scope = machine.cgroup_root() / name / "payload/init.scope/cgroup.procs"
    with suppress(OSError):
        return next((int(pid) for pid in scope.read_text().split()), None)
    return None


def start(host: Machine, blueprint: Blueprint, image: Path) -> None:
    """Switch a host on, with a new namespace and new NICs: nothing of an earlier run is left but its disk."""
    if host.vm:
        vm.start(host, blueprint, console(host.name))
        return
    network.create(host.name)
    network.plug(host, blueprint)
    argv = ["systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--link-journal=no"]
    argv += ["--resolv-conf=off", "--timezone=off", "--capability=CAP_NET_ADMIN"]
    argv += [f"--machine={network.PREFIX}{host.name}", f"--hostname={host.name}"]
    argv += [f"--network-namespace-path={network.netns(host.name)}", f"--directory={root(host.name)}"]
    if host.serves_packages:
        argv.append(f"--bind-ro={image / 'repo'}:/srv")
    env = {
        "PATH": search_path(),
        "UNDERLAY_LAB": NAME,
        "SYSTEMD_NSPAWN_LOCK": "0",  # its lock files outlive a killed container
        "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network",  # else /proc/sys/net is read-only
        "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",  # else Debian 13 does not boot where cgroup v1 is mounted
    }
    # Asked to reboot by its host, nspawn ends with 133 for its caller to start it again. Here that is a cold boot, too.
    again = [sys.executable, "-c", f"from lab import control; control.reboot({host.name!r}, patience=60)"]
    again = machine.in_cgroup(".restart", again)
    script = f"{shlex.join(argv)}; [ $? -ne 133 ] || exec {shlex.join(again)}"
    with console(host.name).open("w") as log:
        subprocess.Popen(
            machine.in_cgroup(host.name, ["/bin/sh", "-c", script]),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=REPO,
            env=env,
            start_new_session=True,
        )


def stop(host: Machine, blueprint: Blueprint) -> None:
    """A power cut: all that runs on the host ends at once, and its NICs are gone with all that was set on them."""
    end_processes([network.netns(host.name)])
    machine.kill_cgroup(host.name)
    sweep(host.name)
    network.unplug(host, blueprint)
    network.remove(network.netns(host.name))


def sweep(hosts: str) -> None:
    """Remove what systemd-nspawn left when it was killed, of the hosts that match a pattern."""
    for path in NSPAWN.glob(f"*/{network.PREFIX}{hosts}"):
        if path.is_mount():  # since systemd 256; the next start would refuse to go on
            run(["umount", "--lazy", str(path)])
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def end_processes(namespaces: list[Path]) -> None:
    """Kill what runs in these network namespaces, however it got there, but not this process nor its callers."""
    wanted = {machine.namespace(path) for path in namespaces}
    spared = machine.ancestry()
    killed: set[int] = set()

    def end() -> bool:
        pids = machine.processes_in(wanted) - spared
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, 9)
        killed.update(pids)
        return not pids

    if not wait_until(end, seconds=15):
        raise LabError(f"processes in the lab's network namespaces do not end: ip netns pids {namespaces[0].name}")
    machine.wait_for_end(killed)


def wait_ready(host: Machine) -> None:
    """Wait until a host has its first address, listens for ssh and has booted. LabError with its last words."""
    seconds = vm.BOOT_SECONDS if host.vm else BOOT_SECONDS
    ready = (host.vm or wait_until(lambda: _reachable(host), seconds=seconds)) and wait_until(
        lambda: system_state(host.name) in ("running", "degraded"), seconds=seconds, every=0.1
    )
    if not ready:
        log = console(host.name)
        what = f"host {host.name!r} is not ready after {seconds:.0f} s, its systemd is {system_state(host.name)}"
        words = tail(log.read_text()) or ["  (nothing yet)"]
        raise LabError("\n".join([f"{what}: see {log}, which ends with", *words]))


def system_state(name: str) -> str:
    """How a host's systemd is: "running", "degraded", "starting", …, or "off"."""
    if leader(name) is None:
        return "off"
    try:
        return execute(name, ["systemctl", "is-system-running"], capture=True, timeout=10).stdout.strip() or "starting"
    except LabError:
        return "hangs"


def _reachable(host: Machine) -> bool:
    address = host.address.partition("/")[0]
    with suppress(OSError):
        net = Path(f"/proc/{leader(host.name)}/net")
        sockets = (net / "tcp").read_text().splitlines()[1:]
        return f"|-- {address}\n" in (net / "fib_trie").read_text() and any(_listens(row, host.port) for row in sockets)
    return False


def _listens(row: str, port: int) -> bool:
    _, local, _, state, *_ = row.split()
    return state == "0A" and int(local.rpartition(":")[2], 16) == port


# --- commands -------------------------------------------------------------------------------------------------------


def execute(
    name: str,
    command: list[str] | str,
    *,
    stdin: str | None = None,
    capture: bool = False,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command (argv, or a line for the shell) as root inside a host.

    With `capture` its output is in the result, else it goes where this process's goes; without `stdin` it reads what
    this process would. CommandError if it takes longer than `timeout` seconds; LabError if the host is off.
    """
    pid = leader(name)
    if pid is None:
        raise LabError(f"host {name!r} is off: switch it on with `./inv lab.up`")
    inside = ["/bin/bash", "-c", command] if isinstance(command, str) else command
    env = CLEAN_ENV | {"TERM": os.environ.get("TERM", "dumb")}
    if vm.is_vm(name):
        return vm.execute(name, inside, env, stdin, capture, timeout)
    # Not nsenter's own fork: nsenter stops when its child is stopped, as each process is when a host shuts down, and
    # nothing continues it. The host's PID namespace then waits for ever for the child to be reaped, and we for nsenter.
    argv = ["nsenter", f"--target={pid}", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root"]
    argv += ["--wd", "--no-fork", "--", "/bin/sh", "-c", '"$@"; exit $?', "lab", *inside]
    source = subprocess.DEVNULL if capture and stdin is None else None
    try:
        return subprocess.run(
            argv,
            env=env,
            input=stdin,
            stdin=source,
            capture_output=capture,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CommandError(inside, None, "") from error
