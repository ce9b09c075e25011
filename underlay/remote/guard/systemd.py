"""What systemd does for the guard: the timer, the change itself as a service, the rollback at boot."""

import sys
import time
from contextlib import suppress
from pathlib import Path

from underlay.remote.guard.files import sync, write
from underlay.remote.guard.paths import COPY, GUARD, PENDING
from underlay.remote.guard.programs import Refused, run

ATTEMPTS = 20
TIMER = "underlay-guard-rollback"
APPLY = "underlay-guard-apply"
BOOT_UNIT = Path("/etc/systemd/system/underlay-guard-boot.service")
BOOT_WANTED = Path("/etc/systemd/system/sysinit.target.wants") / BOOT_UNIT.name
BOOT_TEXT = f"""\
[Unit]
Description=Roll back the network change that was not confirmed before the power went
DefaultDependencies=no
RequiresMountsFor=/etc {GUARD}
After=local-fs.target systemd-remount-fs.service
Before=sysinit.target systemd-sysctl.service systemd-networkd.service network-pre.target underlay-firewall.service
Before=netfilter-persistent.service nftables.service
Before=ssh.service ssh.socket
ConditionPathExists={PENDING}

[Service]
Type=oneshot
ExecStart=/usr/bin/python3 {COPY} boot

[Install]
WantedBy=sysinit.target
"""


def units(*names: str) -> list[str]:
    """The states of units of systemd; one that is not there is inactive."""
    return run(["systemctl", "show", "--property=ActiveState", "--value", *names]).split()


def timer_lives() -> bool:
    """Whether the host is still going to roll back by itself, or does so now."""
    return not {"active", "activating", "deactivating"}.isdisjoint(units(f"{TIMER}.timer", f"{TIMER}.service"))


def disarm(*suffixes: str) -> None:
    """Stop the timer, and by that the rollback; best effort, an `expire` that finds nothing to undo does nothing."""
    with suppress(Refused):
        run(["systemctl", "stop", *(f"{TIMER}.{suffix}" for suffix in suffixes or ("timer", "service"))])


def service(name: str, *command: str, after: float | None = None, wait: bool = False) -> str:
    """Run a command of this program as a service of systemd: whatever happens to this process, that goes on.

    after: seconds from now
    """
    argv = ["systemd-run", "--quiet", "--collect", f"--unit={name}"]
    if after is None:
        # Of `apply`: it is only ever stopped for a rollback, which fixes whatever it was doing.
        argv += ["--property=KillSignal=SIGKILL", *(["--wait"] if wait else [])]
    else:
        argv += [f"--on-active={after}", "--timer-property=AccuracySec=50ms"]
    if name == TIMER:
        restart = {"Type": "oneshot", "Restart": "on-failure", "RestartSec": "500ms", "StartLimitIntervalSec": "0"}
        argv += [f"--property={key}={value}" for key, value in restart.items()]
    return run([*argv, "/usr/bin/python3", "-IS", str(COPY), *command], timeout=600)


def arm(token: str, seconds: float) -> None:
    """Have the host roll back by itself. Refused unless systemd says that it will."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            service(TIMER, "expire", token, after=seconds)
            break
        except Refused as error:
            if attempt == ATTEMPTS or "already" not in str(error):
                raise Refused(f"the host can't arm its timer, so nothing was changed: {error}") from error
            disarm()  # of a run that was killed before its change was pending
            time.sleep(0.1)  # a unit that was just stopped keeps its name for a moment
    if units(f"{TIMER}.timer") != ["active"]:
        raise Refused("the host's timer is not armed, so nothing was changed")


def install() -> None:
    """Leave this program on the host, and the unit that runs it at boot."""
    for path, content, mode in ((COPY, Path(sys.path[0]).read_bytes(), 0o700), (BOOT_UNIT, BOOT_TEXT.encode(), 0o644)):
        if not path.exists() or path.read_bytes() != content:
            write(path, content, mode)
    if not BOOT_WANTED.is_symlink():
        BOOT_WANTED.parent.mkdir(parents=True, exist_ok=True)
        BOOT_WANTED.symlink_to(BOOT_UNIT)
        sync(BOOT_WANTED.parent)
    (GUARD / "agent.py").unlink(missing_ok=True)  # what this program was before it was a zip application
