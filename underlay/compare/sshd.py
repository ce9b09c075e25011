"""What sshd makes of all of its configuration, beside what it must: by its own word, not by the text of files. Pure."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from underlay.compare.difference import Difference, Place, SshdSetting
from underlay.desired.files import SSHD

CONFIG = "/etc/ssh/sshd_config"
INCLUDE = "Include /etc/ssh/sshd_config.d/*.conf"
ALIASES = {"challengeresponseauthentication": "kbdinteractiveauthentication", "prohibit-password": "without-password"}
"""Other words for a keyword or a value: the one that sshd prints."""
PASSWORDS = ("passwordauthentication", "kbdinteractiveauthentication")
NOT_KEYS = ("password", "keyboard-interactive")


@dataclass(frozen=True)
class Sshd:
    """settings: what holds for everybody: keyword in lower case → value
    accounts: account and address → what holds for it from there, where `Match` may make a difference
    passwords: accounts that have one
    files: path → text of the files of its configuration
    """

    settings: Mapping[str, str]
    accounts: Mapping[tuple[str, str], Mapping[str, str]] = field(default_factory=dict)
    passwords: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)


def differences(wanted: Mapping[str, str], operator: str, found: Sshd) -> list[Difference]:
    """The settings that are not in force: for everybody, then for accounts that `Match` lets do more.

    wanted: keyword → value
    operator: the account that needs them as they are; for others less is no difference
    """
    there = [
        _difference(found, SshdSetting(key, value), seen)
        for key, value in wanted.items()
        if (seen := _seen(found.settings, key)) != _said(value)
    ]
    looser = {
        SshdSetting(key, wanted[key], user): _seen(settings, key)
        for (user, _), settings in reversed([*found.accounts.items()])
        for key in _more(wanted, user, operator, settings)
        if _seen(settings, key) != _seen(found.settings, key)
    }
    return there + [_difference(found, setting, seen) for setting, seen in reversed(looser.items())]


def _more(wanted: Mapping[str, str], user: str, operator: str, settings: Mapping[str, str]) -> Iterator[str]:
    for key, value in wanted.items():
        seen = _seen(settings, key)
        if seen == _said(value) or not value[0].isalpha() or (key == "PermitRootLogin" and user != "root"):
            continue
        if seen != "no" or user == operator:
            yield key


def _difference(found: Sshd, setting: SshdSetting, seen: str) -> Difference:
    for path in sorted(found.files, key=lambda path: (path == CONFIG, path)):
        for number, line in enumerate(found.files[path].splitlines(), 1):
            words = re.match(r'\s*(\w+)(?:\s*=\s*|\s+)"?([^\s"#]+)', line)
            if words and _said(words[1]) == setting.key.lower() and _said(words[2]) == seen:
                return Difference("differs", setting, Place(path, number, line.strip()))
    return Difference("differs", setting, seen)


def _seen(settings: Mapping[str, str], key: str) -> str:
    return settings.get(key.lower(), "not set")


def _said(word: str) -> str:
    return ALIASES.get(word.lower(), word.lower())


def advice(found: Sequence[Difference]) -> list[str]:
    """What to do about settings that are not in force although our file is there, for people."""
    lines = []
    of_all = [each for each in found if isinstance(each.thing, SshdSetting) and not each.thing.account]
    if any(not isinstance(each.found, Place) for each in of_all):
        # A default of sshd's own: nothing of ours is read, and which lines win is seen when it is.
        more = f" (and {len(of_all) - 1} more)" if len(of_all) > 1 else ""
        lines.append(f'{of_all[0].what}{more}: sshd does not read {SSHD}: make "{INCLUDE}" the first line of {CONFIG}')
        found = [each for each in found if each not in of_all]
    for each in found:
        where = (
            f"line {each.found.number} out of {each.found.path}" if isinstance(each.found, Place) else "that Match out"
        )
        lines.append(f"{each.what}: take {where}")
    return [f"{line}, reload sshd with a session open that can undo it, and deploy again" for line in lines]


def passwords_end(found: Sshd) -> str:
    """Who can log in with a password now, and can't with our settings, for people; empty where nobody can."""
    on = any(each.get(key) == "yes" for each in (found.settings, *found.accounts.values()) for key in PASSWORDS)
    who = ", ".join(found.passwords) or "no local account"
    return f"nobody logs in over ssh with a password any more (that have one: {who})" if on else ""


def locked_out(found: Sshd) -> list[str]:
    """Whom sshd asks for more than keys, so that nothing would let them in without that, for people."""
    lines = dict[str, None]()
    for who, settings in [("everybody", found.settings), *((user, each) for (user, _), each in found.accounts.items())]:
        methods = settings.get("authenticationmethods", "any").split()
        if not any(all(each.partition(":")[0] not in NOT_KEYS for each in method.split(",")) for method in methods):
            lines[f"sshd asks {who} for {' or '.join(methods)} (AuthenticationMethods)"] = None
    return list(lines)
