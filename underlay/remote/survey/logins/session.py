"""What comes after the key: PAM, limits, the shell, sudo."""

from __future__ import annotations

import os
import pwd
import re
import shlex
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from underlay.remote.survey.logins.account import client, shadow
from underlay.remote.survey.logins.common import ANYWHERE, Line, Reason, as_account, groups_of, off, plain, reason, said

MARK = "underlay-login"
SMALL = {"maxlogins": 3, "maxsyslogins": 3, "nproc": 30, "nofile": 30, "as": 100_000, "cpu": 1, "fsize": 100}
"""Limits below which nobody works: `pam_limits`, in its units."""


def pam(user: str, address: str) -> Iterator[Reason]:
    """PAM has its files for sshd, and the modules in them; `pam_access` and `pam_deny` among them."""
    main = next((each for name in ("sshd", "other") if (each := Path("/etc/pam.d") / name).exists()), None)
    if main is None:
        yield reason("/etc/pam.d has no file for sshd, and none for others: PAM refuses everybody")
        return
    folders = [*Path("/usr/lib").glob("*/security"), Path("/usr/lib/security"), Path("/lib/security")]
    for line in pam_lines(main):
        kind, control, module, *_ = [*pam_words(line.words), "", "", ""]
        if kind.lstrip("-") not in ("account", "session", "auth"):
            continue
        missing = not any((each / module).exists() for each in folders)
        if folders and not kind.startswith("-") and module.endswith(".so") and "/" not in module and missing:
            if kind == "auth":
                continue  # a key asks for none
            yield reason(f"a module of PAM is not there: {line}", off([line]))
        elif kind == "account" and module == "pam_deny.so" and control in ("required", "requisite"):
            before = [pam_words(each.words) for each in pam_lines(main)]
            # Debian's common-account has it behind a success that jumps over it.
            if not any(words[:1] == ["account"] and "success=" in words[1] for words in before if len(words) > 1):
                yield reason(f"PAM refuses everybody: {line}", off([line]))
        elif kind == "account" and module == "pam_access.so":
            yield from _access(user, address, line)


def pam_words(words: list[str]) -> list[str]:
    """Type, control and module: the control may be several words in brackets."""
    match = re.match(r"(\S+)\s+(\[[^\]]*\]|\S+)\s+(\S+)", " ".join(words))
    return [*match.groups()] if match else words


def pam_lines(path: Path, depth: int = 3) -> Iterator[Line]:
    """The lines of a file of PAM's, with those of the files that it includes."""
    if not path.exists():
        return
    for number, text in enumerate(path.read_text(errors="replace").splitlines(), 1):
        words = text.split()
        if words[:1] == ["@include"] and depth and len(words) > 1:
            yield from pam_lines(path.parent / words[1], depth - 1)
        elif words and not words[0].startswith("#"):
            yield Line(str(path), number, words)


def _access(user: str, address: str, pam: Line) -> Iterator[Reason]:
    path = "/etc/security/access.conf"
    found = re.search(r"accessfile=(\S+)", " ".join(pam.words))
    path = found[1] if found else path
    for number, text in enumerate(Path(path).read_text(errors="replace").splitlines(), 1):
        fields = [each.strip() for each in text.split(":")]
        if text.lstrip().startswith("#") or len(fields) < 3 or fields[0] not in ("+", "-"):
            continue
        who, origins = fields[1].split(), ":".join(fields[2:]).split()
        mine = {user, "ALL", *groups_of(user), *(f"({group})" for group in groups_of(user))}
        here = any(each == "ALL" or client(each, address) for each in origins)
        if "EXCEPT" in who:
            index = who.index("EXCEPT")
            named = bool(mine & set(who[:index])) and not (mine - {"ALL"}) & set(who[index:])
        else:
            named = bool(mine & set(who))
        if not (named and here):
            continue
        if fields[0] == "-":
            there = Line(path, number, text.split())
            yield reason(f"PAM refuses it: {there}", f"sed -i '{number}i + : {user} : ALL' {shlex.quote(path)}")
        return


USUAL = ("pam_unix.so", "pam_permit.so", "pam_deny.so", "pam_nologin.so", "pam_access.so", "pam_sss.so", "pam_ldap.so")
"""What decides about accounts where nobody has changed PAM's files, and what is looked at by itself."""


def deciding(user: str) -> Iterator[Reason]:
    """Lines of PAM that decide about accounts as somebody wanted it: to be suspected where nothing else is found."""
    there = [
        line
        for line in pam_lines(Path("/etc/pam.d/sshd"))
        if (words := [*pam_words(line.words), "", "", ""])[0].lstrip("-") == "account"
        and words[1] not in ("optional", "sufficient", "include", "substack")
        and words[2] not in USUAL
    ]
    if len(there) == 1:
        yield reason(f"PAM refuses {user}, by a line that no package has there: {there[0]}", off(there))
    elif there:
        yield reason(f"PAM refuses {user}, by one of these: {'; '.join(map(str, there))}")


def runs(user: str) -> Iterator[Reason]:
    """What sshd lets run before the shell does not end: its sshrc."""
    account = pwd.getpwnam(user)
    for path in (f"{account.pw_dir}/.ssh/rc", "/etc/ssh/sshrc"):
        if os.path.exists(path):
            done = as_account(account, "/bin/sh", path)
            if done is not None and done[0] == 124:
                name = shlex.quote(path)
                yield reason(f"{path}, which sshd runs at each login, does not end", f"mv {name} {name}.off")
            return  # sshd takes the first that is there


def limits(user: str) -> Iterator[Reason]:
    mine = {user, "*", *(f"@{group}" for group in groups_of(user))}
    for path in ("/etc/security/limits.conf", *map(str, sorted(Path("/etc/security/limits.d").glob("*.conf")))):
        text = Path(path).read_text(errors="replace") if os.path.exists(path) else ""
        for number, line in enumerate(text.splitlines(), 1):
            words = line.split()
            if len(words) < 4 or words[0].startswith("#") or words[0] not in mine:
                continue
            if words[3].isdigit() and int(words[3]) < SMALL.get(words[2], 0):
                there = Line(path, number, words)
                yield reason(f"a limit leaves it nothing to work with: {there}", off([there]))


def shell(user: str) -> Iterator[Reason]:
    """Its shell runs a command for sshd, and prints nothing of its own."""
    account = pwd.getpwnam(user)
    shell = account.pw_shell or "/bin/sh"
    if not os.access(shell, os.X_OK) or os.path.basename(shell) in ("nologin", "false"):
        return  # told already
    command = (shell, "-c", f"echo {MARK}")
    remote = {"SSH_CLIENT": f"{ANYWHERE} 1 22", "SSH_CONNECTION": f"{ANYWHERE} 1 {ANYWHERE} 22", "SHELL": shell}
    done = as_account(account, *command, variables=remote)
    if done is None or done[:2] == (0, f"{MARK}\n"):
        return
    how = (
        "does not end" if done[0] == 124 else "ends too early" if MARK not in done[1] else "prints something of its own"
    )
    without = as_account(account, *command, variables=remote | {"HOME": "/nonexistent"})
    rc = f"{account.pw_dir}/.bashrc"
    if without is not None and without[:2] == (0, f"{MARK}\n") and os.path.lexists(rc):
        name = shlex.quote(rc)
        yield reason(f"its shell {how} for commands, by {rc}", f"mv -f {name} {shlex.quote(f'{rc}.off')}")
    else:
        words = (done[2].strip() or done[1].strip()).splitlines()
        yield reason(f"its shell {shell} {how} for commands{': ' + words[-1] if words else ''}")


def sudo(user: str, password: bool) -> Iterator[Reason]:
    """sudo makes it root, without a password or with the account's."""
    if user == "root":
        return
    account, path = pwd.getpwnam(user), shutil.which("sudo") or "/usr/bin/sudo"
    if not os.path.exists(path):
        yield reason("there is no sudo", "apt-get install -y sudo")
        return
    found = os.stat(path)
    if found.st_uid != 0 or not found.st_mode & stat.S_ISUID or not found.st_mode & 1:
        mode = stat.S_IMODE(found.st_mode)
        what = f"sudo can't become root: {path} belongs to uid {found.st_uid}, mode {mode:04o}"
        yield reason(what, f"chown root:root {shlex.quote(path)} && chmod 4755 {shlex.quote(path)}")
        return
    done = as_account(account, path, "-n", "true")
    if done is None or done[0] == 0:
        return
    words = done[2] + done[1]
    if password and "password is required" in words:
        yield from _with_password(user, path)
        return
    yield reason(f"sudo refuses {user}: {_last(words) or f'exit code {done[0]}'}", _sudo_fix(user, words))


def _with_password(user: str, path: str) -> Iterator[Reason]:
    """Whether its password is a right one only sudo can tell; that there is one, and a right to all, can be seen."""
    code, words = said(path, "-l", "-U", user)
    if "not allowed to run" in words:
        rule = shlex.quote(f"{user} ALL=(ALL:ALL) ALL")
        place = shlex.quote(f"/etc/sudoers.d/{user.replace('.', '_')}")
        fix = (
            f"echo {rule} > {place} && chown root:root {place} && chmod 440 {place} && visudo -cq"
            if plain(user)
            else ""
        )
        yield reason(f"sudo gives {user} no right to anything", fix)
    field = shadow(user)[1] if os.geteuid() == 0 and not code else "?"
    if field.startswith(("!", "*")) or not field:
        yield reason(f"{user} has no password here that sudo could ask for, or it is locked (passwd -S {user})")


def _last(words: str) -> str:
    lines = [line for line in words.splitlines() if line.strip() and "unable to resolve host" not in line]
    return next(
        (line for line in lines if re.search(r"owned by|writable|error|must", line)), lines[-1] if lines else ""
    )


def _sudo_fix(user: str, words: str) -> str:
    there = list(sudoers())
    if re.search(r"/[^\s:]+ is (?:owned by|world|group)", words):
        fix = _owned(words)
    elif at := re.search(r"(/[^\s:]+):(\d+)(?::\d+)?: ", words):
        fix = off([Line(at[1], int(at[2]), [])])
    elif "must have a tty" in words:
        fix = off([line for line in there if line.words[0].startswith("Defaults") and "requiretty" in line.words])
    elif re.search(r"password is required|not in the sudoers|not allowed|may not run", words):
        fix = _right(user, there)
    else:
        fix = ""
    return fix


def _owned(words: str) -> str:
    """What gives root all files of sudo's own that are not root's alone, as it wants them."""
    named = re.findall(r"(/[^\s:]+) is (?:owned by|world|group)", words)
    paths = [Path(each) for each in (*named, "/etc/sudo.conf", "/etc/sudoers", "/etc/sudoers.d")]
    there = {path: path.stat() for path in dict.fromkeys([*paths, *Path("/etc/sudoers.d").glob("*")]) if path.exists()}
    foreign = [shlex.quote(str(path)) for path, found in there.items() if found.st_uid or found.st_gid]
    loose = [shlex.quote(str(path)) for path, found in there.items() if found.st_mode & 0o022]
    fixes = [f"chown root:root {' '.join(foreign)}"] if foreign else []
    return " && ".join([*fixes, *([f"chmod go-w {' '.join(loose)}"] if loose else [])])


def _right(user: str, there: list[Line]) -> str:
    """What gives an account the right to all without a password: it has none, or a later line takes it away."""
    mine = {user, "ALL", *(f"%{group}" for group in groups_of(user))}
    rights = [line for line in there if line.words[0] in mine]
    grants = [line for line in rights if re.search(r"NOPASSWD:\s*ALL\b", " ".join(line.words))]
    reads_folder = any(line.path == "/etc/sudoers" and "includedir" in line.words[0] for line in there)
    if grants:
        return off(rights[rights.index(grants[-1]) + 1 :])
    if reads_folder and plain(user):
        path = f"/etc/sudoers.d/{user.replace('.', '_')}"
        rule = shlex.quote(f"{user} ALL=(ALL:ALL) NOPASSWD: ALL")
        return f"echo {rule} > {path} && chown root:root {path} && chmod 440 {path} && visudo -cq"
    return "" if reads_folder or not there else "echo '@includedir /etc/sudoers.d' >> /etc/sudoers && visudo -cq"


def sudoers(path: str = "/etc/sudoers", depth: int = 3) -> Iterator[Line]:
    """The lines of sudo's files, in the order in which it reads them. They need root."""
    text = ""
    with suppress(OSError):
        text = Path(path).read_text(errors="replace")
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or (words[0].startswith("#") and not words[0].startswith("#include")):
            continue
        yield Line(path, number, words)
        if words[0] in ("@includedir", "#includedir") and depth and len(words) > 1:
            for each in sorted(Path(words[1]).glob("*")):
                if each.is_file() and "." not in each.name and not each.name.endswith("~"):
                    yield from sudoers(str(each), depth - 1)
        elif words[0] in ("@include", "#include") and depth and len(words) > 1:
            yield from sudoers(words[1], depth - 1)
