"""Who may log in where: host keys that are known beforehand, and the line of the deploy machine's own key.

`known_hosts` is ssh's file: it is read as ssh does, which skips each line that it can't read and goes on.
"""

import base64
import binascii
import hmac
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import translate
from pathlib import Path

from underlay.access.ssh_config import TargetError
from underlay.plan import SSH_PORT, Host, Plan, given
from underlay.text import command

MARK = "underlay-deploy-machine"
"""The comment of the deploy machine's key in `authorized_keys`."""


def known_hosts(plan: Plan, path: Path) -> str:
    """The host keys of the plan's hosts that this machine knows, each with all addresses of its host.

    For the deploy machine, which reaches the hosts by other addresses than a workstation does.
    """
    known = _load(path)
    return "".join(_lines(known, host, names(host)) for host in plan.hosts)


def of_host(host: Host, path: Path) -> list[str]:
    """The keys by which a host is known, as TYPE and KEY; empty also where an authority (a CA) speaks for it."""
    known = _load(path)
    if known.authorities_of(host):
        return []  # any key of its that they signed will do
    there = (known.keys(name).items() for name in names(host))
    found = {f"{kind} {key}": None for kinds in there for kind, keys in kinds for key in keys}
    return [*found]


def known_as_published(plan: Plan, path: Path) -> str:
    """The host keys of published hosts by their published addresses, of those that are known by an internal one.

    So that nobody has to change `known_hosts` to publish a host, at another address than before, say. Where sshd has
    another port than 22, ssh knows a host by address and port: the keys are here by both, whichever is known.
    """
    known = _load(path)
    usual = [host for host in plan.published if host.login.port == SSH_PORT]
    others = [host for host in plan.hosts if host.login.port != SSH_PORT]
    lines = [_lines(known, host, [str(host.published)]) for host in usual]
    return "".join([*lines, *(_lines(known, host, names(host)) for host in others)])


def name(address: object, port: int) -> str:
    """What ssh calls the host at an address in `known_hosts`."""
    return str(address) if port == SSH_PORT else f"[{address}]:{port}"


def names(host: Host) -> list[str]:
    """All that a host may be known by, its own address first."""
    addresses = [*(nic.address for nic in host.interfaces), *([host.published] if host.published else [])]
    return [*dict.fromkeys(each for port in (host.login.port, SSH_PORT) for each in (name(a, port) for a in addresses))]


def machine_key(plan: Plan, public: str) -> str:
    """The line of `authorized_keys` that lets the deploy machine (the jump host) in, and only from there.

    public: its key, as TYPE and KEY
    """
    sources = ",".join(str(nic.address) for nic in plan.jumphost.interfaces)
    return f'from="{sources}" {public} {MARK}'


def with_key(content: str, key: str, mark: str) -> str:
    """A file of keys in which the only line whose comment is `mark` is this one; all other lines stay as they are."""
    lines = [f"{line}\n" for line in content.split("\n")]
    lines[-1] = lines[-1].removesuffix("\n")
    ours = [
        index for index, line in enumerate(lines) if line.rstrip().endswith(f" {mark}") and not line.startswith("#")
    ]
    if not ours:
        end = "" if not content or content.endswith("\n") else "\n"
        return f"{content}{end}{key}\n"
    lines[ours[0]] = f"{key}\n"
    return "".join(line for index, line in enumerate(lines) if index not in ours[1:])


def public_line(key: Path) -> str:
    """The line of a private key's public file; the comment says which one it is to people. Raises TargetError."""
    path = key.with_name(f"{key.name}.pub")
    how = f"{command('ssh-keygen', '-y', '-f', key)} > {command(path)}"
    try:
        words = given.content(path).split()
    except OSError as error:
        raise TargetError(f"{path} can't be read ({error.strerror}): `{how}` makes it") from error
    if not is_key(*words[:2]):
        raise TargetError(f"{path} is not one public key: `{how}` makes it")
    return b" ".join(words).decode(errors="replace")


def is_key(kind: bytes = b"", text: bytes = b"") -> bool:
    """Whether this is a whole public key in base64: strings (RFC 4253), of which the first is its kind."""
    try:
        blob, at, parts = base64.b64decode(text, validate=True), 0, list[bytes]()
    except binascii.Error:
        return False
    while at < len(blob):
        end = at + 4 + int.from_bytes(blob[at : at + 4])
        parts.append(blob[at + 4 : end])
        at = end
    # A cut one has its end behind that of the text.
    return at == len(blob) and len(parts) > 1 and parts[0] == kind and re.fullmatch(rb"[\w@.-]+", kind) is not None


@dataclass(frozen=True)
class _Line:
    """A key in `known_hosts`: the words for its hosts, its kind, itself in base64."""

    names: tuple[bytes, ...]
    kind: str
    key: str

    def has(self, name: str) -> bool:
        """Whether it is of the host of that name, by ssh's rules: hashed, with wildcards, excluded with `!`."""
        if self.names[0].startswith(b"|"):
            return len(self.names) == 1 and _is_hash_of(self.names[0], name)
        found = [each for each in self.names if _matches(each.removeprefix(b"!"), name.encode())]
        return bool(found) and not any(each.startswith(b"!") for each in found)


@dataclass(frozen=True)
class _Known:
    """What a file of `known_hosts` says.

    authorities: the keys of CAs (`@cert-authority`), which sign those of hosts
    """

    good: list[_Line] = field(default_factory=list)
    revoked: list[_Line] = field(default_factory=list)
    authorities: list[_Line] = field(default_factory=list)

    def authorities_of(self, host: Host) -> list[_Line]:
        """Those that speak for a host, each key once."""
        found = {line.key: line for line in self.authorities if any(line.has(each) for each in names(host))}
        return [line for key, line in found.items() if key not in self.revoked_of(host)]

    def revoked_of(self, host: Host) -> set[str]:
        """The keys that are not to be trusted as a host's any more."""
        return {line.key for line in self.revoked if any(line.has(each) for each in names(host))}

    def keys(self, name: str) -> dict[str, list[str]]:
        """Kind → the keys by which a host of that name is known, each once, in the order of the file."""
        found: dict[str, dict[str, None]] = {}
        for line in self.good:
            if line.has(name):
                found.setdefault(line.kind, {})[line.key] = None
        return {kind: [*keys] for kind, keys in found.items()}


def _load(path: Path) -> _Known:
    try:
        content = given.content(path)
    except FileNotFoundError:
        return _Known()
    except OSError as error:
        raise TargetError(f"the known host keys {path} can't be read: {error.strerror}") from error
    known = _Known()
    lists = {b"": known.good, b"@revoked": known.revoked, b"@cert-authority": known.authorities}
    for marker, line in _lines_of(content):
        if marker in lists:
            lists[marker].append(line)
    return known


def _lines_of(content: bytes) -> Iterator[tuple[bytes, _Line]]:
    for text in content.split(b"\n"):
        marker, *words = text.split(None, 4) or [b"#"]
        if not marker.startswith(b"@"):
            marker, words = b"", [marker, *words]
        if len(words) >= 3 and not words[0].startswith(b"#") and is_key(*words[1:3]):
            yield marker, _Line(tuple(words[0].split(b",")), words[1].decode(), words[2].decode())


def _is_hash_of(word: bytes, name: str) -> bool:
    try:
        nothing, version, salt, digest = word.split(b"|")
        found = hmac.digest(base64.b64decode(salt, validate=True), name.encode(), "sha1")
        return (nothing, version) == (b"", b"1") and hmac.compare_digest(found, base64.b64decode(digest, validate=True))
    except ValueError:
        return False


def _matches(word: bytes, name: bytes) -> bool:
    # Of the wildcards ssh knows two. Few words have one, and few of these begin like an address of the plan.
    begin = re.split(rb"[*?]", word, maxsplit=1)[0].lower()
    if begin == word.lower() or not name.lower().startswith(begin):
        return begin == name.lower() == word.lower()
    pattern = translate(word.decode("latin-1").replace("[", "[[]")).encode("latin-1")
    return re.compile(pattern, re.IGNORECASE).fullmatch(name) is not None


def _lines(known: _Known, host: Host, names: list[str]) -> str:
    keys = sorted(_known_keys(known, host).items())
    lines = [f"{','.join(names)} {kind} {key}\n" for kind, of_kind in keys for key in of_kind]
    signers = [f"@cert-authority {','.join(names)} {each.kind} {each.key}\n" for each in known.authorities_of(host)]
    return "".join([*lines, *signers])


def _known_keys(known: _Known, host: Host) -> dict[str, list[str]]:
    # The first address is the host's own for longest: a published one may have been another host's before.
    revoked = known.revoked_of(host)
    found = {kind: keys for name in reversed(names(host)) for kind, keys in known.keys(name).items()}
    return {kind: left for kind, keys in found.items() if (left := [key for key in keys if key not in revoked])}
