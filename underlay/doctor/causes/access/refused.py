"""Why the operator does not get in, or is not root there: as ssh tells it, and as the host itself does."""

from collections.abc import Iterator

from underlay.doctor.cause import Cause
from underlay.doctor.investigation import Fix, Investigation
from underlay.doctor.survey import Failure, Login, Reason, Why
from underlay.doctor.ways import AT_THE_DOOR
from underlay.plan import SSH_PORT, Host
from underlay.remote.guard.paths import COPY
from underlay.text import command

OUTSIDE_THE_DOOR: dict[Why, str] = {
    "key refused": "its sshd refuses the operator's key",
    "more than a key": "its sshd wants more than the operator's key",
    "account": "its sshd takes the operator's key, and PAM refuses the account",
    "session": "the operator gets in, and no command is run for him",
    "sudo": "the operator gets in, and sudo does not make him root",
    "penalty": "its sshd takes no connection from here for some time, after logins that failed",
    "nothing in common": "its sshd and the ssh here can't agree on how to speak",
    "startups": "its sshd takes no newcomers: too many have not logged in yet",
    "forwarding": "its sshd forwards no connection to others",
}
IDS: dict[Why, str] = {
    "refused": "sshd-down",
    "mute": "sshd-hangs",
    "closed": "sshd-closes",
    "key refused": "key-refused",
    "sudo": "sudo-refused",
    "forwarding": "forwarding-refused",
}
RESTART = command("systemctl", "restart", "ssh")
"""What ends all penalties, and no session."""


def refused(case: Investigation, host: Host) -> Iterator[Cause]:
    """`sshd-down`, `key-refused`, `login-refused`, `sudo-refused`, `forwarding-refused`, `key-unusable`."""
    failure = case.seen.failures.get(host.name) or case.seen.confined.get(host.name)
    if failure is None or case.is_cut(host.name):
        return
    said = (f"ssh {host.name}: {failure.said}", *failure.more)
    if failure.why == "own key":
        yield _own_key(case, said)
    if failure.why not in AT_THE_DOOR:
        return
    jump = case.seen.target.endpoint(host.name).jump if failure.why == "forwarding" else ""
    where = case.plan.host(jump) if jump else host
    login = case.seen.logins.get(where.name, Login(None))
    if not login.reasons and failure.why in OUTSIDE_THE_DOOR:
        yield _narrowed(case, where, failure, login, said)
    for reason in login.reasons or ():
        yield _told(case, where, failure.why, login, reason, said)


def _told(case: Investigation, where: Host, why: Why, login: Login, reason: Reason, said: tuple[str, ...]) -> Cause:
    """What the host says itself."""
    fix = Fix("")
    if reason["fix"]:
        fix = case.console(where.name, reason["fix"])
        if login.how == "ssh":
            fix = Fix(case.ssh(where.name, command("sh", "-c", reason["fix"])))
    deploy = case.deploy(where) if reason["then"] == "deploy" else ""
    look = "" if reason["fix"] else _look(case, where)
    return Cause(
        id="sshd-elsewhere" if where.name in case.seen.elsewhere else IDS.get(why, "login-refused"),
        host=where.name,
        cause=f"{where.name}: {reason['what']}",
        evidence=(*said, f"{where.name} says so itself, asked by {login.how}"),
        fix=f"{fix.command} && {deploy}" if fix.command and deploy and not fix.at else fix.command,
        at=fix.at,
        advice=f"then here: {deploy}" if deploy and fix.at else look,
        plan=case.line(where),
        hosts=case.behind(where),
        cuts=True,
    )


def _narrowed(case: Investigation, where: Host, failure: Failure, login: Login, said: tuple[str, ...]) -> Cause:
    """As much as ssh tells; what only the host knows is asked there."""
    fix = case.console(where.name, RESTART) if failure.why == "penalty" else Fix("")
    told = f": {failure.more[-1]}" if failure.why == "account" and failure.more else ""
    unread = (f"not asked {login.unread}",) if login.unread else ()
    nothing = (f"{where.name} finds nothing in the way itself, asked by {login.how}",) if login.reasons == () else ()
    return Cause(
        id=IDS.get(failure.why, "login-refused"),
        host=where.name,
        cause=f"{where.name}: {OUTSIDE_THE_DOOR[failure.why]}{told}",
        evidence=(*said, *unread, *nothing),
        fix=fix.command,
        at=fix.at,
        advice=_look(case, where),
        plan=case.line(where),
        hosts=case.behind(where),
        cuts=True,
    )


def _look(case: Investigation, where: Host) -> str:
    login = where.login
    usual = (login.port, login.sudo) == (SSH_PORT, "nopasswd")
    more = () if usual else ("", login.port, login.sudo or "")
    line = command("python3", COPY, "login", login.user, *more)
    look = case.console(where.name, line)
    return f"why, as it says itself: {look.command}{f' ({look.at})' if look.at else ''}; or journalctl -u ssh there"


def _own_key(case: Investigation, said: tuple[str, ...]) -> Cause:
    return Cause(
        id="key-unusable",
        host=case.here,
        cause=f"{case.here}: its key {case.seen.target.key} can't be used",
        evidence=said,
        advice=f"look at the file, its mode and its passphrase: ssh-keygen -y -f {command(case.seen.target.key)}",
        plan=case.plan.line("operator", "key"),
        hosts=case.everybody,
        cuts=True,
    )
