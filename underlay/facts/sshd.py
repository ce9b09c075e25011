"""What sshd makes of its configuration."""

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

from underlay.compare.sshd import CONFIG, Sshd
from underlay.facts import files, script, sections

FILES = (CONFIG, "/etc/ssh/sshd_config.d/*.conf")
ADDRESS = "192.0.2.1"
"""Where nobody is: what holds for an account from anywhere."""


def _accounts(port: int) -> str:
    """For each account that may log in, from anywhere and where a `Match` names an address; nothing without one."""
    return f"""\
there=$(cat {" ".join(FILES)} 2>/dev/null)
rest=$(echo "$there" | grep -viE '^[[:space:]]*include[[:space:]]+/etc/ssh/sshd_config\\.d/\\*\\.conf[[:space:]]*$')
echo "$rest" | grep -qiE '^[[:space:]]*(match|include)' || exit 0
near=$(echo "$rest" | grep -iE '^[[:space:]]*match' | grep -oE '[0-9]+(\\.[0-9]+){{3}}' | sort -u | head -n 10)
for user in $(awk -F: '$7 !~ /(nologin|false)$/ {{print $1}}' /etc/passwd | head -n 50); do
  for address in {ADDRESS} $near; do
    echo "= $user $address"
    sshd -T -C "user=$user,host=$address,addr=$address,laddr=$address,lport={port}" || exit 1
  done
done"""


def command(port: int) -> str:
    """A shell command that prints what `parse` reads; `port`: that of the logins."""
    asked = {
        "settings": "sshd -T",
        "accounts": _accounts(port),
        "passwords": "getent shadow | awk -F: '$2 != \"\" && $2 !~ /^[!*]/ {print $1}'",
        "files": files.command(FILES),
    }
    return f"exec 2>&1\n{script(asked)}"


def parse(lines: list[str]) -> Sshd:
    """Raises ValueError, with sshd's own words, for a configuration that it does not take."""
    found = sections(lines)
    for name in ("settings", "accounts", "passwords", "files"):
        code, said = found.get(name, (1, ["it was not read"]))
        if code != 0:
            raise ValueError(f"{name} of sshd: {'; '.join(said) or f'exit code {code}'}")
    accounts = dict[tuple[str, str], dict[str, str]]()
    for line in found["accounts"][1]:
        key, _, value = line.partition(" ")
        if key == "=":
            user, _, address = value.partition(" ")
            accounts[user, address] = {}
        else:
            next(reversed(accounts.values()))[key] = value
    settings = {key: value for key, _, value in (line.partition(" ") for line in found["settings"][1])}
    return Sshd(settings, accounts, tuple(found["passwords"][1]), files.parse(found["files"][1]))


class SshdConfiguration(FactBase[Sshd]):
    """What sshd makes of its configuration, and the files that it is made of."""

    def command(self, port: int) -> str:
        """+ port: that of the logins"""
        return command(port)

    def process(self, output: list[str]) -> Sshd:
        try:
            return parse(output)
        except ValueError as error:
            raise FactProcessError(str(error)) from None
