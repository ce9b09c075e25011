"""Why ssh does not get in, and who may: from the words of ssh and of hosts, made up here, to causes and fixes."""

import os
import pwd
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.test_doctor import PLAN, failing, healthy, only, target, with_look, with_state, without
from underlay.access import hostkeys
from underlay.doctor.causes.access import accounts
from underlay.doctor.diagnosis import diagnose
from underlay.doctor.survey import Accounts, Failure, Login, Reason, Survey, Why
from underlay.doctor.ways import failure_of
from underlay.remote import guard, send
from underlay.remote.survey import programs
from underlay.remote.survey.logins import account, keys, others, session, sshd
from underlay.remote.survey.logins import refused as refusals
from underlay.remote.survey.logins.account import client
from underlay.remote.survey.logins.common import Line

TCP = "debug1: Connection established."
BANNER = "debug1: Remote protocol version 2.0, remote software version OpenSSH_10.0p2"
OFFERED = "debug1: Offering public key: /key ED25519 SHA256:c0Xw explicit"
ACCEPTED = "debug1: Server accepts key: /key ED25519 SHA256:c0Xw explicit"
INSIDE = 'Authenticated to 192.168.0.52 ([192.168.0.52]:22) using "publickey".'
CLOSED = "Connection closed by 192.168.0.52 port 22"


@pytest.mark.parametrize(
    ("said", "why", "words"),
    [
        (
            [TCP, BANNER, OFFERED, "ops@192.168.0.52: Permission denied (publickey)."],
            "key refused",
            "Permission denied",
        ),
        ([TCP, BANNER, OFFERED, "ops@192.168.0.52: Permission denied ()."], "key refused", "Permission denied ()"),
        (
            [TCP, BANNER, ACCEPTED, "Your account has expired; please contact your administrator.", CLOSED],
            "account",
            "Your account has expired; please contact your administrator.",
        ),
        ([TCP, BANNER, ACCEPTED, "maintenance tonight", CLOSED], "account", "maintenance tonight"),
        (
            [TCP, ACCEPTED, 'Authenticated using "publickey" with partial success.', "ops@h: Permission denied (x)."],
            "more than a key",
            "Permission denied (x)",
        ),
        (
            [TCP, BANNER, ACCEPTED, INSIDE, "debug1: Exit status 1", "This account is currently not available."],
            "session",
            "This account is currently not available.",
        ),
        ([TCP, BANNER, ACCEPTED, INSIDE, "exec request failed on channel 0"], "session", "exec request failed"),
        ([TCP, BANNER, INSIDE, "bash: /x: Permission denied"], "session", "Permission denied"),
        ([TCP, "Connection timed out during banner exchange", "Connection to h port 22 timed out"], "mute", "banner"),
        ([TCP, "kex_exchange_identification: read: Connection reset by peer", CLOSED], "closed", "closed"),
        ([TCP, BANNER, "Connection reset by 192.168.0.52 port 22"], "closed", "reset"),
        (
            [TCP, "debug1: kex_exchange_identification: banner line 0: Not allowed at this time", CLOSED],
            "penalty",
            "Not allowed at this time",
        ),
        (
            [TCP, "debug1: kex_exchange_identification: banner line 0: Exceeded MaxStartups", CLOSED],
            "startups",
            "Exceeded MaxStartups",
        ),
        (
            [TCP, BANNER, "Unable to negotiate with h port 22: no matching cipher found. Their offer: aes256-cbc"],
            "nothing in common",
            "Their offer: aes256-cbc",
        ),
        (["channel 0: open failed: administratively prohibited: open failed", CLOSED], "forwarding", "prohibited"),
        (['Load key "/key": invalid format', "ops@h: Permission denied (publickey)."], "own key", "invalid format"),
        (["channel 0: open failed: connect failed: Permission denied", CLOSED], "no route", "Permission denied"),
        ([], "other", "ssh failed"),
    ],
)
def test_how_far_a_login_got(said: list[str], why: str, words: str) -> None:
    """By what ssh says at DEBUG1; what sshd or PAM says is kept, what ssh talks is not."""
    found = failure_of(said, jump=False)
    assert found.why == why
    told = (found.said, *found.more)
    assert any(words in line for line in told)
    assert not any(line.startswith("debug1") for line in told)


def refused(why: Why, host: str, login: Login | None, *behind: str) -> Survey:
    """A site of which one host does not let the operator in."""
    seen = without(healthy(), why, host, *behind)
    failures = {host: Failure(why, "Connection closed", ("a word of PAM",))}
    failures |= {name: Failure("the jump host", "it can't") for name in behind}
    logins = {host: login} if login else {}
    return failing(replace(seen, failures=failures, logins=logins), lambda flow: host in flow.hosts)


def told(*whats: str, fix: str = "chage -E -1 ops", then: str = "") -> tuple[Reason, ...]:
    return tuple({"what": what, "fix": fix, "then": then} for what in whats)  # type: ignore[typeddict-item]


def test_a_host_says_why_at_its_console() -> None:
    """What it says is the cause, what mends it the fix, there."""
    login = Login(told("its account has expired"), "the console")
    found = only(diagnose(refused("account", "jumphost", login, "master-1")))
    assert (found.id, found.host) == ("login-refused", "jumphost")
    assert found.cause == "jumphost: its account has expired"
    assert found.fix == './inv lab.run jumphost "chage -E -1 ops"'
    assert "a word of PAM" in found.evidence


def test_a_host_says_why_over_ssh() -> None:
    """Where it was asked by another way, the fix goes there, too."""
    login = Login(told("sshd drops what comes from there", fix="systemctl restart ssh"), "ssh")
    found = only(diagnose(refused("penalty", "lb", login)))
    assert found.fix == "./inv ssh lb \"sudo sh -c 'systemctl restart ssh'\""


def test_each_reason_is_a_cause() -> None:
    """Two faults at once are two."""
    login = Login(told("AllowUsers names others", "its home is open"), "the console")
    found = diagnose(refused("key refused", "lb", login)).findings
    assert [each.cause for each in found] == ["lb: AllowUsers names others", "lb: its home is open"]
    assert {each.id for each in found} == {"key-refused"}


def test_a_key_that_is_missing_is_added_and_deployed() -> None:
    """Whoever emptied the file took the deploy machine's key, too."""
    login = Login(told("it has not the key", fix="echo key", then="deploy"), "the console")
    found = only(diagnose(refused("key refused", "jumphost", login, "master-1")))
    assert found.fix == './inv lab.run jumphost "echo key" && ./inv deploy jumphost'


@pytest.mark.parametrize("why", ["key refused", "account", "session", "startups", "more than a key"])
def test_no_fix_where_only_the_host_knows(why: Why) -> None:
    """A real site has no console that is a command: what ssh proves is told, and what shows the rest."""
    seen = replace(refused(why, "jumphost", None, "master-1"), target=target("ssh"))
    found = only(diagnose(seen))
    assert found.host == "jumphost"
    assert found.fix == ""
    assert "python3 /var/lib/underlay/guard/guard.pyz login ops (at the console of jumphost, as root)" in found.advice


def test_what_forwards_nothing_is_the_jump_host() -> None:
    """Not the host behind it."""
    seen = without(healthy(), "forwarding", "master-1")
    seen = replace(seen, failures={"master-1": Failure("forwarding", "open failed")})
    seen = replace(seen, logins={"jumphost": Login(told("sshd forwards nothing", fix="sed x"), "ssh")})
    found = only(diagnose(failing(seen, lambda flow: "master-1" in flow.hosts)))
    assert (found.id, found.host) == ("forwarding-refused", "jumphost")
    assert found.fix.startswith("./inv ssh jumphost ")


def test_in_but_not_root() -> None:
    """A host that was reached, and where sudo refuses."""
    seen = healthy()
    seen = replace(seen, states={name: each for name, each in seen.states.items() if name != "lb"})
    seen = replace(seen, confined={"lb": Failure("sudo", "sudo: a password is required")})
    found = only(diagnose(seen))
    assert (found.id, found.host, found.fix) == ("sudo-refused", "lb", "")
    assert "sudo: a password is required" in found.evidence[0]


def test_this_machine_s_key() -> None:
    """What ssh can't use here is no host's fault."""
    seen = without(healthy(), "own key", *(host.name for host in PLAN.deployed))
    found = only(diagnose(seen))
    assert (found.id, found.host) == ("key-unusable", "dev")


# --- what a host looks at -------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> pwd.struct_passwd:
    """An account with a home where all is well."""
    tmp_path.chmod(0o755)
    place = tmp_path / "home"
    place.mkdir(mode=0o755)
    uid = os.geteuid()
    return pwd.struct_passwd((pwd.getpwuid(uid).pw_name, "x", uid, os.getegid(), "", str(place), "/bin/sh"))


KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILDLUvVRtpfHX8XS37GygjAo2ZBCVsCcxxxxxxxxxxxx"


@pytest.mark.parametrize("before", ["nothing", "empty", "others", "a folder", "a link to nowhere"])
def test_a_key_is_added_once(home: pwd.struct_passwd, before: str) -> None:
    """However often what mends it is pasted; what was there stays."""
    path = Path(home.pw_dir) / ".ssh/authorized_keys"
    path.parent.mkdir()
    match before:
        case "empty":
            path.touch()
        case "others":
            path.write_text("ssh-rsa BBBB other\n")
        case "a folder":
            path.mkdir()
        case "a link to nowhere":
            path.symlink_to("/nowhere")
    fix = keys.add_key(home, str(path), f"{KEY} ops@dev")
    for _ in range(2):
        subprocess.run(fix, shell=True, check=True)
    assert path.read_text().count(KEY) == 1
    assert ("BBBB" in path.read_text()) == (before == "others")
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_sshd_does_not_trust(home: pwd.struct_passwd) -> None:
    """The file, and each folder up to the home; with StrictModes off nothing of it counts."""
    path = Path(home.pw_dir) / ".ssh/authorized_keys"
    path.parent.mkdir(mode=0o700)
    path.write_text(f"{KEY}\n")
    path.chmod(0o600)
    assert list(keys._modes(str(path), home, True, "")) == []
    Path(home.pw_dir).chmod(0o777)
    path.chmod(0o660)
    found = [each["fix"] for each in keys._modes(str(path), home, True, "")]
    assert found == [f"chmod go-w {path}", f"chmod go-w {home.pw_dir}"]
    assert list(keys._modes(str(path), home, False, "")) == []
    for fix in found:
        subprocess.run(fix, shell=True, check=True)
    assert list(keys._modes(str(path), home, True, "")) == []


@pytest.mark.parametrize(
    ("pattern", "good"),
    [
        ("ops", True),
        ("o*", True),
        ("op?", True),
        ("root", False),
        ("ops@192.0.2.0/24", True),
        ("ops@198.51.100.*", False),
    ],
)
def test_patterns_of_sshd(pattern: str, good: bool) -> None:
    """As AllowUsers has them."""
    assert sshd.names(pattern, "ops", "192.0.2.7") == good


@pytest.mark.parametrize(
    ("patterns", "good"),
    [("192.0.2.7", True), ("192.0.2.*,!192.0.2.7", False), ("198.51.100.0/24", False), ("*", True)],
)
def test_where_a_key_may_come_from(patterns: str, good: bool) -> None:
    """As `from=` has it."""
    assert sshd.listed(patterns, "192.0.2.7") == good


def test_clients_of_tcp_wrappers() -> None:
    """ALL, a prefix, a network."""
    assert [client(each, "192.0.2.7") for each in ("ALL", "192.0.", "192.0.2.0/24", "198.51.100.")] == [
        True,
        True,
        True,
        False,
    ]


def test_what_takes_a_right_of_sudo_away() -> None:
    """A later line does; without any right a file gives it."""
    folder = Line("/etc/sudoers", 9, ["@includedir", "/etc/sudoers.d"])
    good = Line("/etc/sudoers.d/ops", 1, ["root", "ALL=(ALL:ALL)", "NOPASSWD:", "ALL"])
    bad = Line("/etc/sudoers.d/zz", 3, ["root", "ALL=(ALL)", "ALL"])
    assert session._right("root", [folder, good, bad]) == "sed -i 3s/^/#/ /etc/sudoers.d/zz"
    assert "/etc/sudoers.d/root" in session._right("root", [folder])
    assert session._right("root", [folder, good]) == ""


@pytest.mark.parametrize(
    ("keyword", "value", "bad"),
    [
        ("ciphers", "aes256-cbc", True),
        ("ciphers", "chacha20-poly1305@openssh.com,aes128-ctr", False),
        ("kexalgorithms", "diffie-hellman-group1-sha1", True),
        ("kexalgorithms", "curve25519-sha256", False),
        ("macs", "hmac-md5", True),
        ("hostkeyalgorithms", "ssh-rsa", True),
        ("hostkeyalgorithms", "ssh-ed25519", False),
        ("persourcemaxstartups", "0", True),
        ("persourcemaxstartups", "none", False),
    ],
)
def test_settings_that_keep_everybody_out(keyword: str, value: str, bad: bool) -> None:
    rules = [is_bad for name, is_bad, _ in sshd._rules("ops", KEY, forwards=False) if name == keyword]
    assert [is_bad(value) for is_bad in rules] == [bad]


def test_limits_that_keep_everybody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """sshd's own, and those of logins; not those of somebody's service."""
    found = [("ssh.service", "processes", 1, 1, "/x"), ("user-7.slice", programs.PROCESSOR, 1, 1, "/y")]
    monkeypatch.setattr(programs, "groups", lambda: iter([*found, ("web.service", "memory", 9, 9, "/z")]))
    assert [each["fix"] for each in sshd.met()] == [
        "systemctl set-property ssh.service TasksMax=infinity",
        "systemctl set-property user-7.slice CPUQuota=",
    ]


@pytest.mark.parametrize(("key", "told"), [(KEY, []), (f"{KEY[:-4]}AAAA", ["host-key"])])
def test_whose_host_key(key: str, told: list[str]) -> None:
    """That of another host of the plan: that one answered, and nobody's key has changed."""
    seen = without(healthy(), "host key", "lb")
    shown = accounts.fingerprint(key)
    failures = {"lb": Failure("host key", "Host key verification failed.", (), shown)}
    keys = {host.name: [f"{KEY[:-4]}{number:04}"] for number, host in enumerate(PLAN.deployed)} | {"gateway": [KEY]}
    found = diagnose(replace(seen, failures=failures, host_keys=keys))
    assert [each.id for each in found.findings if each.id == "host-key"] == told


def test_lines_of_pam_that_decide(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Somebody's own for accounts; those that every host has decide nothing by themselves."""
    file, lines = tmp_path / "sshd", session.pam_lines
    monkeypatch.setattr(session, "pam_lines", lambda _: lines(file))
    plain = "account required pam_nologin.so\naccount [success=1 default=ignore] pam_unix.so\n"
    file.write_text(plain)
    assert list(session.deciding("ops")) == []
    file.write_text(f"{plain}account required pam_succeed_if.so quiet user != ops\n")
    [found] = session.deciding("ops")
    assert "line 3: account required pam_succeed_if.so" in found["what"]
    assert found["fix"] == f"sed -i 3s/^/#/ {file}"


def test_pam_that_asks_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`sufficient` ends it; what Debian has at the end of common-auth does not."""
    monkeypatch.setattr(others, "pam_lines", lambda path, depth: session.pam_lines(tmp_path / path.name, depth))
    (tmp_path / "common-auth").write_text("auth requisite pam_deny.so\nauth required pam_permit.so\n")
    (tmp_path / "su").write_text("auth sufficient pam_rootok.so\n@include common-auth\n")
    assert list(others._asks_nothing()) == []
    (tmp_path / "su").write_text("# mine\nauth sufficient pam_permit.so\n")
    [line] = others._asks_nothing()
    assert (line.path, line.number) == (f"{tmp_path}/su", 2)


def test_an_account_that_nobody_looks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows from it is not told."""
    files = {"/etc/passwd": "root:x:0:0::/root:/bin/bash\nops:x:1000:1000::/home/ops:/bin/bash\n"}
    monkeypatch.setattr(account, "_text", lambda path: files.get(path, ""))
    files["/etc/nsswitch.conf"] = "passwd: files systemd\n"
    assert list(account.looked_for("ops")) == []
    files["/etc/nsswitch.conf"] = "passwd: sss\ngroup: files sss\n"
    [found] = refusals.reasons("ops")
    assert "nobody look into /etc/passwd (passwd: sss)" in found["what"]
    assert list(account.looked_for("eve")) == []


def test_a_home_that_is_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """That is told once, and no key is put into a folder that is made for it."""
    mine = pwd.getpwuid(os.getuid())
    monkeypatch.setattr(pwd, "getpwnam", lambda _: pwd.struct_passwd((*mine[:5], f"{tmp_path}/none", mine[6])))
    assert list(keys.keys("me", "192.0.2.1", KEY)) == []
    assert any("none is not there" in each["what"] for each in account.account("me"))


def test_an_sshrc_that_does_not_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = pwd.getpwuid(os.getuid())
    monkeypatch.setattr(pwd, "getpwnam", lambda _: pwd.struct_passwd((*home[:5], str(tmp_path), home[6])))
    (tmp_path / ".ssh").mkdir()
    rc = tmp_path / ".ssh/rc"
    rc.write_text("exit 1\n")
    assert list(session.runs("me")) == []
    rc.write_text("sleep 9\n")
    [found] = session.runs("me")
    assert found["fix"] == f"mv {rc} {rc}.off"


def test_at_the_console(tmp_path: Path) -> None:
    """The program that every host has says it in plain words."""
    program = tmp_path / "guard.pyz"
    program.write_bytes(send.packed(guard))
    argv = ["python3", "-I", "-S", str(program), "login", "no-such-account"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "no-such-account does not get in: there is no account no-such-account\n" in done.stdout


# --- who may get in -------------------------------------------------------------------------------------------------


def who(**parts: object) -> Accounts:
    """A host where only root and the operator get in."""
    plain: dict[str, object] = {
        "accounts": [("root", 0, False, False), ("ops", 1000, False, False)],
        "keys": [("ops", "/home/ops/.ssh/authorized_keys", 1, f"ssh-ed25519 {'A' * 68}", hostkeys.MARK, False)],
        "rights": [("/etc/sudoers.d/ops", 1, "ops ALL=(ALL:ALL) NOPASSWD: ALL")],
        "admins": [],
        "writable": [],
        "asks_nothing": [],
        "recorded": [],
    }
    return plain | parts  # type: ignore[return-value]


def everywhere(seen: Survey, **parts: object) -> Survey:
    for host in PLAN.deployed:
        seen = with_look(seen, host.name, accounts=who(**parts))
    return seen


EVE = ("ops", "/home/ops/.ssh/authorized_keys", 2, KEY, "eve@laptop", False)


@pytest.mark.parametrize(
    ("parts", "id", "fix"),
    [
        ({"accounts": [("root", 0, False, False), ("toor", 0, False, False)]}, "account-root", "usermod --lock"),
        ({"rights": [("/etc/sudoers.d/x", 2, "ALL ALL=(ALL) NOPASSWD: ALL")]}, "sudo-open", "sed -i"),
        ({"writable": [("/etc/sudoers.d", "0777")]}, "file-open", "chmod o-w /etc/sudoers.d"),
        ({"asks_nothing": [("/etc/pam.d/su", 1, "auth …")]}, "account-open", "sudo sed -i 1s/^/#/ /etc/pam.d/su"),
        ({"keys": [EVE]}, "key-unknown", f"sed -i /{KEY.split()[1]}/d "),
    ],
)
def test_holes(parts: dict[str, object], id: str, fix: str) -> None:
    """On one host of several: to fix before it matters, by one command there."""
    seen = everywhere(healthy())
    assert diagnose(seen).findings == ()
    found = only(diagnose(with_look(seen, "lb", accounts=who(**parts))))
    assert (found.id, found.host, found.latent) == (id, "lb", True)
    assert found.fix.startswith("./inv ssh lb ")
    assert fix in found.fix


@pytest.mark.parametrize(
    "parts",
    [
        {"accounts": [("root", 0, False, False), ("toor", 0, False, True)]},
        {"rights": [("/etc/sudoers", 1, "%sudo ALL=(ALL:ALL) ALL"), ("/etc/sudoers", 2, "ALL ALL=(ALL) ALL")]},
        {"keys": [("root", "/root/.ssh/authorized_keys", 1, KEY, "debian", True)]},
        {"keys": [("debian", "/home/debian/.ssh/authorized_keys", 1, KEY, "admin", False)], "admins": ["debian"]},
    ],
)
def test_what_hosts_of_people_have(parts: dict[str, object]) -> None:
    """A cloud image's own admin, root's key that only says who to log in as, an account that has expired."""
    seen = everywhere(healthy())
    assert diagnose(with_look(seen, "lb", accounts=who(**parts))).findings == ()


def test_keys_of_all_hosts_are_a_note() -> None:
    """The site was set up with it."""
    found = diagnose(everywhere(healthy(), keys=[EVE]))
    assert found.findings == ()
    assert len([note for note in found.notes if "eve@laptop" in note]) == 1


def test_a_stranger_on_call() -> None:
    """Put into the group by somebody: taken out; the rest is the deploy's."""
    seen = with_state(everywhere(healthy()), "jumphost", on_call={"eve": f"{KEY} eve\n"})
    found = only(diagnose(seen))
    assert (found.id, found.host) == ("on-call-differs", "jumphost")
    assert found.fix == './inv ssh jumphost "sudo gpasswd -d eve underlay-oncall"'
    assert "rotate-key" in found.advice
    ours = with_look(seen, "jumphost", accounts=who(recorded=["eve"]))
    assert only(diagnose(ours)).fix == "./inv deploy jumphost"
