"""Where a packet was delivered: who listens there, whether it goes on, which limit it has met, whether it answers."""

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from operator import gt
from typing import NamedTuple

from underlay.access.answers import UnreadableError
from underlay.desired import nginx, units
from underlay.desired.units import PACKAGES
from underlay.doctor.cause import Cause
from underlay.doctor.investigation import Investigation, first, some
from underlay.doctor.survey import Limit, Listener, Stuck, UnitSeen
from underlay.observe.state import LATE
from underlay.plan import SSH_PORT, Host, Plan, roles
from underlay.remote.survey.programs import PROCESSOR
from underlay.text import command

SYSTEMS = 8
"""Of the web systems, how many are asked for their pages."""
NO_SUCH_NAME = "no-such-name.invalid"
NGINX_LOG = "/var/log/nginx/error.log"
TOOLS = {
    "ip": "iproute2",
    "ss": "iproute2",
    "sysctl": "procps",
    "systemctl": "systemd",
    "journalctl": "systemd",
    "dpkg-query": "dpkg",
}
"""What reads and changes every host, and the package of each."""
PROGRAMS = {
    "iptables": ("iptables", "iptables-save", "iptables-restore"),
    "conntrack": ("conntrack",),
    "tcpdump": ("tcpdump",),
    "nginx": ("nginx",),
}
"""Package of a role → its programs."""
SYSTEM = ("dbus.socket", "systemd-journald.service", "systemd-logind.service", units.NETWORKD.name)
CLOCKS = ("systemd-timesyncd", "chrony", "ntpsec", "ntp", "openntpd")
"""Services that keep the time."""
SYSTEM_UNIT = re.compile(r"(systemd-|dbus)[\w-]*\.(service|socket)", re.ASCII)
SLICE = re.compile(r"(system|user|user-\d+|-)\.slice", re.ASCII)
WRONG_MODE = re.compile(r"can't be run: (/[\w./-]+) has the wrong mode", re.ASCII)
UNIT = re.compile(r"[A-Za-z0-9_][\w:.\\@-]*\.(service|slice|scope)", re.ASCII)
SMALL_QUEUE = 8
"""Connections that may wait: fewer than this is no server's setting."""
RESTARTS = 3
FAILED = 500
"""The HTTP status from which on it is the server's fault."""
SETTINGS = {
    "open files": ("LimitNOFILE",),
    "processes": ("TasksMax", "LimitNPROC"),
    "memory": ("MemoryMax", "MemoryHigh"),
    PROCESSOR: ("CPUQuota",),
}
"""What in a unit's file sets a limit."""


class Harm(NamedTuple):
    """A kernel setting that hinders connections: when it does, the kernel's own value, what follows."""

    when: Callable[[int], bool]
    plain: str
    follows: str


SYSCTLS = {
    "net.ipv4.ip_default_ttl": Harm(lambda last: last < 16, "64", "what it sends ends after so many routers"),
    "net.core.somaxconn": Harm(lambda last: last < SMALL_QUEUE, "4096", "so few connections may wait for a program"),
    "net.ipv4.tcp_rmem": Harm(lambda last: last < 16384, "4096 131072 6291456", "it takes in so few bytes at a time"),
    "net.ipv4.tcp_wmem": Harm(lambda last: last < 16384, "4096 16384 4194304", "it sends so few bytes at a time"),
    "net.ipv4.neigh.default.gc_thresh3": Harm(lambda last: last < 64, "1024", "it knows so few neighbours"),
    "net.ipv4.tcp_max_syn_backlog": Harm(lambda last: last < SMALL_QUEUE, "512", "so few connections may begin"),
    "net.ipv4.icmp_echo_ignore_all": Harm(bool, "0", "it answers no ping"),
    "net.ipv4.ipfrag_high_thresh": Harm(lambda last: last < 65536, "4194304", "it puts no fragments together"),
}
"""Of each the last number counts."""
NIC_SYSCTLS = {
    "conf": {"arp_ignore": Harm(lambda last: last > 2, "0", "it does not answer those who ask for its address (ARP)")},
    "neigh": {"mcast_solicit": Harm(lambda last: last == 0, "3", "it asks nobody for an address (ARP)")},
}
FORGETS = "what goes on is forgotten so soon, and its answers are not let in or not translated"
TRACKING = {
    f"net.netfilter.nf_conntrack_{key}": Harm(partial(gt, least), plain, FORGETS)
    for key, least, plain in (
        ("icmp_timeout", 2, "30"),
        ("udp_timeout", 2, "30"),
        ("udp_timeout_stream", 5, "120"),
        ("generic_timeout", 2, "600"),
        ("tcp_timeout_syn_sent", 3, "120"),
        ("tcp_timeout_syn_recv", 3, "60"),
        ("tcp_timeout_established", 60, "432000"),
    )
}
"""Seconds that connections of a kind are remembered."""
_SSHD_FILES = "/etc/ssh/sshd_config /etc/ssh/sshd_config.d/*.conf"
LISTEN_ADVICE = f"this makes its lines about that comments: grep -niE '^(Port|ListenAddress)' {_SSHD_FILES}"
KERNELS_OWN = {"net.ipv4.ip_local_port_range": "32768 60999", "net.ipv4.ip_local_reserved_ports": ""}
SSH_PORTS = (22, 222, 443, 1022, 1222, 2022, 2200, 2222, 8022, 10022, 22222)
"""Where people let sshd listen."""


PYTHON = command(
    "sh",
    "-c",
    "p=$(ls -d /usr/bin/python3.[0-9] /usr/bin/python3.[0-9][0-9] 2>/dev/null | tail -n 1); "
    '[ -z "$p" ] || { chmod 755 "$p" && ln -sfn "${p##*/}" /usr/bin/python3; }; '
    "python3 -V || { apt-get update; DEBIAN_FRONTEND=noninteractive apt-get install -y --reinstall python3-minimal "
    "$(dpkg-query -W -f '${Package} ' 'python3.*-minimal'); }",
)
"""Puts the host's own Python in its place: the link to it and its mode, or the packages."""


def request(plan: Plan, host: Host) -> dict[str, object]:
    """What to ask a deployed host to look at; see `remote.survey`."""
    answers: list[list[object]] = []
    found: dict[str, object] = {
        **dict.fromkeys(("listeners", "stuck", "limits", "resolver", "mounts", "modes"), True),
        "answers": answers,
        "units": [*_units(host), *SYSTEM, *(f"{clock}.service" for clock in CLOCKS), units.SSH_SOCKET.name],
        "lacking": list(_tools(host)),
        "sysctls": [*_sysctls(host)],
    }
    if host.role == "lb_nginx":
        address = str(host.primary.address)
        found["complaints"] = NGINX_LOG
        answers += [[address, nginx.HTTP_PORT, url] for url in _own_pages(plan, host)]
        for name, ends in _upstreams(plan).items():
            answers += [[end.rpartition(":")[0], int(end.rpartition(":")[2]), f"{end}@{name}/"] for end in ends]
    return found


def _sysctls(host: Host) -> dict[str, Harm]:
    nics = [nic.nic.replace(".", "/") for nic in host.interfaces]
    places = [("conf", "all"), *((folder, nic) for folder in NIC_SYSCTLS for nic in nics)]
    own = {f"net.ipv4.{at}.{nic}.{key}": harm for at, nic in places for key, harm in NIC_SYSCTLS[at].items()}
    return SYSCTLS | TRACKING | own


def _tools(host: Host) -> dict[str, str]:
    own = {program: package for package in PACKAGES.get(host.role, ()) for program in PROGRAMS.get(package, ())}
    return TOOLS | own


def _units(host: Host) -> tuple[str, ...]:
    """The services that others connect to."""
    return (units.SSH.name, *([units.NGINX.name] if host.role == "lb_nginx" else []))


def _upstreams(plan: Plan) -> dict[str, tuple[str, ...]]:
    services = roles.lb_nginx(plan).web_services
    return {name: service.upstreams for name, service in list(services.items())[:SYSTEMS]}


def _own_pages(plan: Plan, host: Host) -> dict[str, str]:
    """What nginx itself is asked for → of which system, or of none."""
    own = f"{host.primary.address}:{nginx.HTTP_PORT}@"
    health = {f"{own}{name}/healthz": name for name in (NO_SUCH_NAME, *_upstreams(plan))}
    return health | {f"{own}{name}/": name for name in _upstreams(plan)}


def ends(case: Investigation, host: Host) -> Iterator[Cause]:
    """All causes that are at the ends of a host's connections, and in the system that they need."""
    yield from _tools_missing(case, host)
    yield from _programs(case, host)
    yield from _clock(case, host)


# --- before all else: what everything is looked at with ---------------------------------------------------------------


def _tools_missing(case: Investigation, host: Host) -> Iterator[Cause]:
    """`program-missing`, `systemd-stuck`: without these nothing can be read or changed there."""
    if (why := case.seen.blind.get(host.name, "")) and re.search(
        "python3?.*(not found|No such file|ermission denied|cannot execute|bad interpreter|Exec format)", why
    ):
        yield _tool(case, host, "python3", "is not there or does not work", why, case.ssh(host.name, PYTHON))
    lacking = case.look(host).lacking
    for package in dict.fromkeys(_tools(host)[each] for each in lacking):
        own = [program for program in lacking if _tools(host)[program] == package]
        evidence = "; ".join(f"{program} {lacking[program]}" for program in own)
        modes = [found[1] for each in own if (found := WRONG_MODE.fullmatch(lacking[each]))]
        fix = case.ssh(host.name, command("chmod", "755", *modes) if len(modes) == len(own) else _install(package))
        latent = package == "tcpdump" or (package == "conntrack" and host != case.gateway)
        yield _tool(case, host, own[0], lacking[own[0]].partition(":")[0], evidence, fix, package, latent=latent)
    yield from _systemd(case, host)


def _install(package: str) -> str:
    """What puts a package's files back, whether it was taken away or only they were."""
    return command(
        "sh", "-c", f"apt-get update; DEBIAN_FRONTEND=noninteractive apt-get install -y --reinstall {package}"
    )


def _tool(
    case: Investigation,
    host: Host,
    program: str,
    how: str,
    why: str,
    fix: str,
    package: str = "",
    *,
    latent: bool = False,
) -> Cause:
    of = f" (of the package {package})" if package else ""
    return Cause(
        id="program-missing",
        host=host.name,
        cause=f"{host.name}: the program {program}{of} {how}",
        evidence=(why,),
        fix=fix,
        advice="the host is read and changed with it",
        plan=case.line(host),
        latent=latent,
        hosts=frozenset() if latent else frozenset({host.name}),
    )


def _systemd(case: Investigation, host: Host) -> Iterator[Cause]:
    look = case.look(host)
    state = case.state(host)
    first_process = next((each for each in look.stuck if each["pid"] == 1), None)
    if first_process is not None:
        thaw = f"echo 0 > {command(first_process['at'])}" if first_process["at"] else "kill -CONT 1"
        yield Cause(
            id="systemd-stuck",
            host=host.name,
            cause=f"{host.name}: systemd (process 1) {_HOW[first_process['how']]}",
            evidence=(f"/proc/1: {first_process['how']} {first_process['at']}".rstrip(),),
            fix=case.ssh(host.name, command("sh", "-c", thaw)),
            advice="until then no service is started or ended there, and whoever asks systemd waits",
            plan=case.line(host),
            hosts=frozenset({host.name}),
        )
    elif state is not None and state.sections.get("units", (0, []))[0] in LATE and look.listeners and not look.units:
        yield Cause(
            id="systemd-stuck",
            host=host.name,
            cause=f"{host.name}: systemd (process 1) does not answer",
            evidence=("systemctl show: no answer in time",),
            advice=f"what it said last: {case.ssh(host.name, 'journalctl -b -n 30 _PID=1')}; if it crashed, only "
            "`reboot -f` there helps",
            plan=case.line(host),
            hosts=frozenset({host.name}),
        )


_HOW = {
    "stopped": "is stopped by a signal",
    "traced": "is held by a debugger",
    "frozen": "is frozen (its control group)",
    "disk": "waits for a disk or a network file system",
}


# --- who listens ----------------------------------------------------------------------------------------------------


def _programs(case: Investigation, host: Host) -> Iterator[Cause]:
    """`program-stuck`, `limit-met`, `port-taken`, `unit-masked`, `not-listening`, `not-answering`."""
    yield from _stuck(case, host)
    for limit in case.look(host).limits:
        yield from _limit(case, host, limit)
    yield from _kernel(case, host)
    for unit in _units(host):
        if (host.name, unit) not in case.told:
            yield from _served(case, host, unit)
    yield from _others(case, host)
    yield from _modes(case, host)


def _unit(case: Investigation, host: Host, name: str) -> UnitSeen | None:
    return next((each for each in case.look(host).units or () if each["name"] == name), None)


def _stuck(case: Investigation, host: Host) -> Iterator[Cause]:
    listening = {each["pid"] for each in case.look(host).listeners or ()}
    groups: dict[tuple[str, str], list[Stuck]] = {}
    for each in case.look(host).stuck:
        # A login is a child of sshd, and may have stopped a job of its own.
        if each["pid"] != 1 and (each["unit"] != units.SSH.name or each["pid"] in listening or each["at"]):
            groups.setdefault((each["unit"], each["how"]), []).append(each)
    for (unit, how), processes in groups.items():
        ours = unit in _units(host)
        if not (ours or SYSTEM_UNIT.fullmatch(unit)):
            case.notes.append(f"{host.name}: {unit} {_HOW[processes[0]['how']]}")
            continue
        at = processes[0]["at"]
        look = case.ssh(host.name, command("ps", "-o", "pid,stat,wchan:20,args", "-p", processes[0]["pid"]))
        fix, advice = "", f"what it waits for: {look}"
        if how == "stopped":
            fix, advice = (
                case.ssh(host.name, command("systemctl", "kill", "--signal=CONT", unit)),
                "somebody stopped it",
            )
        elif how == "frozen":
            thaw = f"{command('systemctl', 'thaw', unit)}; echo 0 > {command(at)}"
            fix, advice = case.ssh(host.name, command("sh", "-c", thaw)), "somebody froze it: find out what for"
        case.told.add((host.name, unit))
        yield Cause(
            id="program-stuck",
            host=host.name,
            cause=f"{host.name}: {unit} {_HOW[processes[0]['how']]}"
            + (": it takes connections, and does not answer" if ours else ""),
            evidence=first([f"process {each['pid']} ({each['program']}): {how} {at}".rstrip() for each in processes]),
            fix=fix if UNIT.fullmatch(unit) else "",
            advice=advice,
            plan=case.line(host),
            hosts=case.behind(host) if ours else frozenset(),
        )


def _limit(case: Investigation, host: Host, limit: Limit) -> Iterator[Cause]:
    unit, what, at = limit["unit"], limit["what"], limit["at"]
    if what == "followed connections" and host == case.gateway:
        return  # the table is looked at by itself
    if unit and not (unit in _units(host) or SLICE.fullmatch(unit) or SYSTEM_UNIT.fullmatch(unit)):
        case.notes.append(f"{host.name}: {unit} has {limit['used']} of {limit['limit']} {what}")
        return
    if (host.name, unit or what) in case.told:
        return
    case.told.add((host.name, unit or what))
    fix, advice = "", ""
    seen = _unit(case, host, unit)
    sets = [row for row in (seen["sets"] if seen else ()) if row[2].partition("=")[0].strip() in SETTINGS.get(what, ())]
    if not unit:
        plain = KERNELS_OWN.get(at, str(2 * limit["limit"]))
        fix = case.ssh(host.name, command("sysctl", "-w", f"{at}={plain}"))
        advice = "find out what uses them, and who set the limit"
    elif UNIT.fullmatch(unit):
        restart = command("systemctl", "restart", unit)
        if unit.endswith(".slice"):
            restart = command("systemctl", "set-property", "--runtime", unit, "TasksMax=infinity")
        lines = [f"sed -i {number}s/^/#/ {command(path)}" for path, number, _ in sets]
        reload = ["systemctl daemon-reload"] if lines else []
        fix = _make(case, unit)(host.name, " && ".join([*lines, *reload, restart]))
        advice = "this makes the line that sets it a comment; " if lines else ""
        advice += "somebody set it: find out what for"
    yield Cause(
        id="limit-met",
        host=host.name,
        cause=f"{host.name}: {unit + ' has' if unit else 'it has'} {limit['used']} of the {limit['limit']} {what} "
        f"that it may have: it {'waits' if what == PROCESSOR else 'refuses more'}",
        evidence=(f"{at}", *first([f"{path}, line {number}: {text}" for path, number, text in sets])),
        fix=fix,
        advice=advice,
        plan=case.line(host),
        hosts=case.behind(host),
        cuts=unit in ("", units.SSH.name),
    )


def _make(case: Investigation, unit: str) -> Callable[[str, str], str]:
    """How a command about a unit is run on a host: ssh's own might cut the way."""
    if unit.startswith("ssh"):
        return case.change
    return lambda host, line: case.ssh(host, command("sh", "-c", line) if "&&" in line or ";" in line else line)


def _kernel(case: Investigation, host: Host) -> Iterator[Cause]:
    """`sysctl-hinders`."""
    known = _sysctls(host)
    for key, value in case.look(host).sysctls.items():
        numbers = re.fullmatch(r"(?:-?\d+\s+)*(-?\d{1,18})", value)
        harm = known.get(key)
        if numbers is None or harm is None or not harm.when(int(numbers[1])):
            continue
        restart = ""
        if key == "net.core.somaxconn":  # a program keeps what it was when it began to listen
            restart = "".join(f" && systemctl restart {unit}" for unit in _units(host))
        yield Cause(
            id="sysctl-hinders",
            host=host.name,
            cause=f"{host.name}: {key} is {value}: {harm.follows}",
            evidence=(f"sysctl {key}: the kernel's own value is {harm.plain}",),
            fix=case.change(host.name, command("sysctl", "-w", f"{key}={harm.plain}") + restart),
            advice="somebody set it: find out what for",
            plan=case.line(host),
            hosts=_concerned(case, host, key),
            cuts=True,
        )


def _concerned(case: Investigation, host: Host, key: str) -> frozenset[str]:
    """Who can do less because of a kernel setting of a host: without pings the others can do all else."""
    if host != case.gateway:
        return case.behind(host)
    return frozenset({host.name}) if "icmp" in key or "generic" in key else case.everybody


def listen(host: Host) -> str:
    """A shell command that lets sshd listen on the plan's port of all addresses of a host."""
    line = rf"sed -i -E 's/^[[:space:]]*(Port|ListenAddress)[[:space:]=]/# &/I' {_SSHD_FILES}"
    return line if host.login.port == SSH_PORT else f"{line} && sed -i '1i Port {host.login.port}' /etc/ssh/sshd_config"


def _ports(case: Investigation, host: Host, unit: str) -> list[int]:
    if unit == units.SSH.name:
        return [host.login.port]
    return [nginx.HTTP_PORT, *([nginx.API_PORT] if case.plan.hosts_of("master") else [])]


def _served(case: Investigation, host: Host, unit: str) -> Iterator[Cause]:
    """A service of the plan: whether it is there, listens where it must, and answers."""
    look = case.look(host)
    seen = _unit(case, host, unit)
    if seen is not None and seen["active"] != "active" and seen["load"] != "loaded":
        socket = _unit(case, host, units.SSH_SOCKET.name) if unit == units.SSH.name else None
        if not (socket and socket["active"] == "active"):
            yield _not_loaded(case, host, seen)
            return
    if look.listeners is None:
        return
    # Somebody may keep sshd to the network of the people who log in.
    nics = (host.primary,) if unit == units.SSH.name else host.interfaces
    addresses = {str(nic.address) for nic in nics}
    for port in _ports(case, host, unit):
        there = [each for each in look.listeners if each["port"] == port and ":" not in each["address"]]
        strangers = [each for each in there if _is_stranger(each, unit)]
        if strangers:
            yield _taken(case, host, unit, strangers[0])
            return
        heard = {each["address"] for each in there}
        deaf = sorted(addresses - heard) if "0.0.0.0" not in heard else []  # noqa: S104  it is compared
        runs = seen is not None and seen["active"] == "active"
        if deaf and runs and not _file_differs(case, host, unit):
            yield _not_listening(case, host, unit, port, deaf, look.listeners)
            return
        full = [each for each in there if each["queue"] > each["room"]]
        if full:
            yield _mute(
                case, host, unit, f"{full[0]['queue']} connections wait for it, more than the {full[0]['room']}"
            )
            return
    yield from _answers(case, host, unit)


def is_probe(listener: Listener) -> bool:
    """Whether it may be what this repo puts there for a moment: a program of somebody's login."""
    return listener["program"].startswith("python") and listener["unit"].startswith(("ssh", "session-", "user@"))


def _is_stranger(listener: Listener, unit: str) -> bool:
    """Whether a port of ours belongs to somebody else; what systemd has for a socket is the unit's."""
    own = listener["unit"] == unit or (unit == units.SSH.name and listener["unit"].startswith("ssh"))
    return listener["pid"] not in (0, 1) and not own


def _file_differs(case: Investigation, host: Host, unit: str) -> bool:
    state = case.state(host)
    if unit != units.NGINX.name or state is None:
        return False
    try:
        return state.files.get(nginx.PATH) != nginx.configuration(case.plan)
    except UnreadableError:
        return True  # what is on disk can't be told: nothing is said about it


def _not_loaded(case: Investigation, host: Host, seen: UnitSeen) -> Cause:
    unit = seen["name"]
    case.told.add((host.name, unit))
    how = {"masked": "is masked: nothing can start it", "not-found": "is not there"}.get(
        seen["load"], "can't be loaded"
    )
    own = f"systemctl revert {unit} && systemctl unmask {unit} && systemctl enable --now {unit}"
    fix = case.ssh(host.name, command("sh", "-c", own))
    if seen["load"] == "not-found":
        fix = case.ssh(host.name, _install("openssh-server" if unit == units.SSH.name else "nginx"))
    return Cause(
        id="unit-masked",
        host=host.name,
        cause=f"{host.name}: {unit} {how}",
        evidence=(f"systemctl status {unit}: {seen['load']}, {seen['active']}",),
        fix=f"{fix} && {case.deploy(host)}",
        advice="somebody did it: find out what for",
        plan=case.line(host),
        hosts=case.behind(host),
    )


def _taken(case: Investigation, host: Host, unit: str, there: Listener) -> Cause:
    case.told.add((host.name, unit))
    who = f"{there['program']} (process {there['pid']}" + (f", {there['unit']})" if there["unit"] else ")")
    own = there["unit"] if there["unit"].endswith(".service") and UNIT.fullmatch(there["unit"]) else ""
    # A login's process is in sshd's group.
    stop = command("systemctl", "stop", own) if own and not own.startswith("ssh") else command("kill", there["pid"])
    line = f"{stop}; sleep 1; {command('systemctl', 'restart', unit)}"
    return Cause(
        id="port-taken",
        host=host.name,
        cause=f"{host.name}: {who} has port {there['port']}, which is {unit}'s",
        evidence=(f"ss -ltnp: {there['address']}:{there['port']} {who}",),
        fix=case.ssh(host.name, command("sh", "-c", line)),
        advice="find out who started it, or it comes back",
        plan=case.line(host),
        hosts=case.behind(host),
    )


def _not_listening(
    case: Investigation, host: Host, unit: str, port: int, deaf: list[str], listeners: Iterable[Listener]
) -> Cause:
    case.told.add((host.name, unit))
    own = [f"{each['address']}:{each['port']}" for each in listeners if each["unit"] == unit]
    seen = _unit(case, host, unit)
    sets = [row for row in (seen["sets"] if seen else ()) if row[2].startswith("Exec")]
    if unit == units.NGINX.name:
        lines = [f"sed -i {number}s/^/#/ {command(path)}" for path, number, _ in sets]
        reload = ["systemctl daemon-reload"] if lines else []
        fix = _make(case, unit)(host.name, " && ".join([*lines, *reload, command("systemctl", "restart", unit)]))
        advice = "it runs with another configuration than the one on disk, which is as planned"
    else:
        fix = case.change(host.name, f"{listen(host)} && sshd -t && systemctl restart {unit}")
        advice = LISTEN_ADVICE
    return Cause(
        id="not-listening",
        host=host.name,
        cause=f"{host.name}: {unit} runs, and does not listen on port {port} of {some(deaf)}",
        evidence=(
            f"ss -ltnp: it listens on {some(dict.fromkeys(own)) if own else 'nothing'}",
            *first([f"{path}, line {number}: {text}" for path, number, text in sets]),
        ),
        fix=fix,
        advice=advice,
        plan=case.line(host, deaf[0]),
        hosts=case.behind(host),
        cuts=True,
    )


def _answers(case: Investigation, host: Host, unit: str) -> Iterator[Cause]:
    if unit != units.NGINX.name:
        return  # it has just let the doctor in
    answers = case.look(host).answers
    own = {end: answers[end] for end in _own_pages(case.plan, host) if end in answers}
    silent = [f"{end} {text.removeprefix('- ')}" for end, text in own.items() if _is_mute(text)]
    if own and len(silent) == len(own):
        yield _mute(case, host, unit, silent[0])
        return
    if not _file_differs(case, host, unit):
        yield from _pages(case, host, own)


def _is_mute(text: str) -> bool:
    # A connection that does not come about may have been dropped on its way; a queue that is full is seen by itself.
    return bool(re.match(r"- (takes the connection|closed without a word|Connection reset|Broken pipe)", text))


def _mute(case: Investigation, host: Host, unit: str, evidence: str) -> Cause:
    case.told.add((host.name, unit))
    look = case.ssh(host.name, command("journalctl", "-n", 20, f"--unit={unit}"))
    return Cause(
        id="not-answering",
        host=host.name,
        cause=f"{host.name}: {unit} takes connections, and does not answer",
        evidence=(evidence, *case.look(host).complaints),
        fix=_make(case, unit)(host.name, command("systemctl", "restart", unit)),
        advice=f"why, before that: {look}",
        plan=case.line(host),
        hosts=case.behind(host),
    )


def _pages(case: Investigation, host: Host, own: dict[str, str]) -> Iterator[Cause]:
    """What nginx says about its own health and for each system, beside what the systems say themselves."""
    pages = _own_pages(case.plan, host)
    wrong = [
        f"{end}: {text}" for end, text in own.items() if end.endswith("/healthz") and text.isdigit() and text != "200"
    ]
    answers = case.look(host).answers
    blamed = []
    for name, ends in _upstreams(case.plan).items():
        page = next((own[end] for end, of in pages.items() if of == name and end.endswith("/") and end in own), "")
        direct = {end: answers.get(f"{end}@{name}/", "- not asked") for end in ends}
        if not (page.isdigit() and int(page) >= FAILED):
            continue
        if any(text.isdigit() and int(text) < FAILED for text in direct.values()):
            wrong.append(f"{name}: {page}, and its server says {direct}")
        elif all(text.isdigit() for text in direct.values()):
            blamed += [(name, end, text) for end, text in direct.items()]
    if wrong:
        case.told.add((host.name, units.NGINX.name))
        yield Cause(
            id="old-configuration",
            host=host.name,
            cause=f"{host.name}: nginx runs with another configuration than the one on disk, which is as planned",
            evidence=(*first(wrong), *case.look(host).complaints),
            fix=case.ssh(host.name, command("systemctl", "restart", units.NGINX.name)),
            plan=case.line(host),
            hosts=case.behind(host),
        )
    for name, end, text in blamed:
        address, _, port = end.rpartition(":")
        home = next(
            (each for each in case.plan.hosts if any(str(nic.address) == address for nic in each.interfaces)), None
        )
        owner = (
            next((each["unit"] for each in (case.look(home).listeners or ()) if each["port"] == int(port)), "")
            if home
            else ""
        )
        look = "look at its log"
        if home and UNIT.fullmatch(owner) and owner.endswith(".service"):
            look = case.ssh(home.name, command("journalctl", "-n", 50, f"--unit={owner}"))
        yield Cause(
            id="web-fails",
            host=home.name if home else address,
            cause=f"{home.name if home else address}: the server of {name} (port {port}) answers {text}",
            evidence=(f"{host.name} asks {end} for {name}/: {text}", *([f"{owner} listens there"] if owner else [])),
            fix="",
            advice=f"it is the system's own fault: {look}",
            plan=case.line(home) if home else "",
            hosts=frozenset({home.name}) if home else frozenset(),
        )


# --- the rest of the system -----------------------------------------------------------------------------------------


def _others(case: Investigation, host: Host) -> Iterator[Cause]:
    """`unit-loops`, `unit-masked` of what the system needs, `read-only`, `no-inodes`."""
    for seen in case.look(host).units or ():
        unit = seen["name"]
        ours = unit in _units(host)
        loops = seen["sub"] == "auto-restart" or (seen["active"] == "activating" and seen["restarts"] >= RESTARTS)
        # What others have it do before and instead is the first to be suspected; without that a deploy starts it.
        own = [row for row in seen["sets"] if row[2].startswith("Exec")]
        if loops and not (ours or SYSTEM_UNIT.fullmatch(unit)):
            # A kubelet waits so for its cluster.
            case.notes.append(f"{host.name}: {unit} ends again and again: it was started {seen['restarts']} times")
            continue
        if (loops or (ours and own and seen["active"] == "failed")) and (host.name, unit) not in case.told:
            case.told.add((host.name, unit))
            lines = [f"sed -i {number}s/^/#/ {command(path)}" for path, number, _ in own] if ours else []
            again = " && ".join([*lines, "systemctl daemon-reload", command("systemctl", "restart", unit)])
            look = case.ssh(host.name, command("journalctl", "-n", 50, f"--unit={unit}"))
            how = f"ends again and again: it was started {seen['restarts']} times" if loops else "does not start"
            yield Cause(
                id="unit-loops",
                host=host.name,
                cause=f"{host.name}: {unit} {how}",
                evidence=(
                    f"systemctl status {unit}: {seen['result']}",
                    *first([f"{path}, line {number}: {text}" for path, number, text in own]),
                    *seen["log"][-3:],
                ),
                fix=_make(case, unit)(host.name, again) if lines else "",
                advice=f"{'this makes these lines comments; ' if lines else ''}why it ends: {look}",
                plan=case.line(host),
                hosts=case.behind(host) if ours else frozenset(),
            )
        if unit == "dbus.socket" and seen["active"] in ("inactive", "failed") and seen["load"] in ("loaded", "masked"):
            unmask = "systemctl unmask dbus.socket dbus.service; systemctl start dbus.socket dbus.service"
            yield Cause(
                id="service-down",
                host=host.name,
                cause=f"{host.name}: {unit} {'is masked' if seen['load'] == 'masked' else 'does not run'}: programs "
                "there can't speak with each other and with systemd",
                evidence=(f"systemctl status {unit}: {seen['load']}, {seen['active']}",),
                fix=case.ssh(host.name, command("sh", "-c", unmask)),
                plan=case.line(host),
            )
    for path, what in case.look(host).mounts:
        if what == "read-only":
            write = command("mount", "-o", "remount,rw", path)
            bound = command("mount", "-o", "remount,bind,rw", path)
            yield Cause(
                id="read-only",
                host=host.name,
                cause=f"{host.name}: the file system of {path} is read-only",
                evidence=(f"findmnt -T {path}: ro",),
                fix=case.ssh(host.name, command("sh", "-c", f"{write} || {bound}")),
                advice=f"after an error of the disk that is no fix: {case.ssh(host.name, 'dmesg --level=err')} first",
                plan=case.line(host),
            )
        else:
            find = f"find {command(path)} -xdev -printf '%h\\n' | sort | uniq -c | sort -n | tail -5"
            yield Cause(
                id="no-inodes",
                host=host.name,
                cause=f"{host.name}: the file system of {path} has no inodes left: no file can be made",
                evidence=(f"df -i {path}",),
                advice=f"which folder has so many files: {case.ssh(host.name, command('sh', '-c', find))}",
                plan=case.line(host),
            )


def _modes(case: Investigation, host: Host) -> Iterator[Cause]:
    """`file-mode`: what every program needs, and only root has."""
    for path, what, fix in case.look(host).modes:
        yield Cause(
            id="file-mode",
            host=host.name,
            cause=f"{host.name}: {path} {what}",
            evidence=(f"ls -ld {command(path)}",),
            fix=case.ssh(host.name, command("sh", "-c", fix) if "&&" in fix else fix),
            advice="programs of other accounts than root fail",
            plan=case.line(host),
        )


def _clock(case: Investigation, host: Host) -> Iterator[Cause]:
    """`clock-unkept`: a service that keeps the time is there, and none runs."""
    clocks = [
        each
        for each in case.look(host).units or ()
        if each["name"].removesuffix(".service") in CLOCKS and each["load"] in ("loaded", "masked")
    ]
    if clocks and not any(each["active"] in ("active", "activating") or each["unmet"] for each in clocks):
        unit = clocks[0]["name"]
        start = f"systemctl unmask {unit}; systemctl enable --now {unit}"
        yield Cause(
            id="clock-unkept",
            host=host.name,
            cause=f"{host.name}: {unit} does not run: nothing keeps its time",
            evidence=(f"systemctl status {unit}: {clocks[0]['load']}, {clocks[0]['active']}",),
            fix=case.ssh(host.name, command("sh", "-c", start)),
            plan=case.line(host),
            latent=True,
        )
