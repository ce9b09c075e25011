"""What `verify` looks at beside the network and its files: packages, listeners, the deploy machine, the proxy."""

import hashlib
from collections.abc import Iterator

from underlay.access import hostkeys
from underlay.access.target import MACHINE_KEY
from underlay.compare.systemd.next_boot import NextBoot
from underlay.desired import checkout, nginx
from underlay.desired.files import authorized_keys
from underlay.desired.units import PACKAGES
from underlay.doctor.cause import Cause
from underlay.doctor.investigation import Investigation, some
from underlay.observe.state import NO_SUCH_NAME, HostState
from underlay.plan import Host, roles
from underlay.text import command


def checks(case: Investigation, host: Host) -> Iterator[Cause]:
    """`packages-missing`, `not-listening`, `deploy-key`, `rotation-due`, `repo-differs`, `nginx-invalid`,
    `proxy-answers`; not what the fix of an earlier cause mends as well."""
    state = case.state(host)
    if state is None:
        return
    for found in _checks(case, host, state):
        if not any(each.host == host.name and each.fix == found.fix for each in case.found):
            yield found


def _checks(case: Investigation, host: Host, state: HostState) -> Iterator[Cause]:
    missing = [name for name in PACKAGES[host.role] if name not in state.packages]
    if missing:
        yield case.cause(
            "packages-missing",
            host,
            f"packages are missing: {some(missing)}",
            [f"dpkg -l {name}: it is not installed" for name in missing],
            case.deploy(host),
        )
    yield from _listening(case, host, state)
    yield from _machine_access(case, host, state)
    if host.role == "jumphost":
        yield from _deploy_machine(case, host, state)
    if host.role == "lb_nginx":
        yield from _proxy(case, host, state)


def _listening(case: Investigation, host: Host, state: HostState) -> Iterator[Cause]:
    web = [nginx.HTTP_PORT, *([nginx.API_PORT] if case.plan.hosts_of("master") else [])]
    programs = {host.login.port: "ssh", **(dict.fromkeys(web, "nginx") if host.role == "lb_nginx" else {})}
    silent = {port: program for port, program in programs.items() if port not in state.listening}
    if silent and not any(each.host == host.name and not each.latent for each in case.found):
        program = next(iter(silent.values()))
        yield case.cause(
            "not-listening",
            host,
            f"{program} does not listen at port {some(silent)} of its addresses",
            [f"ss -Hltn: it listens at {some(sorted(state.listening)) or 'no port'} for others"],
            case.change(host.name, command("systemctl", "restart", program)),
            latent=False,
            advice=f"its configuration, if that does not help: {case.ssh(host.name, 'ss -ltnp')}",
        )


def _machine_access(case: Investigation, host: Host, state: HostState) -> Iterator[Cause]:
    """The deploy machine's key is among the operator's, once."""
    jump = case.state(case.plan.jumphost)
    public = jump.machine_public if jump else None
    if host.role == "jumphost" and public is None:
        yield case.cause(
            "deploy-key",
            host,
            "the deploy machine has no key of its own",
            [f"{MACHINE_KEY} is not there"],
            " && ".join(dict.fromkeys(["./inv deploy gateway", *(case.deploy(each) for each in case.deployed)])),
        )
        return
    if public is None:
        return
    lines = state.files.get(authorized_keys(host), "").splitlines()
    seen = [line for line in lines if line.endswith(f" {hostkeys.MARK}")]
    key = hostkeys.machine_key(case.plan, public)
    if f"{public}\n" in case.seen.workstation.host_keys:
        yield case.cause(
            "deploy-key",
            host,
            "the deploy machine's key is a host key, too, which others can read",
            [f"{MACHINE_KEY} on {case.plan.jumphost.name}"],
            "./inv rotate-key --deploy-machine",
        )
    elif seen != [key]:
        how = "may not log in" if key not in seen else "may log in, and so may an older key of its"
        yield case.cause(
            "deploy-key",
            host,
            f"the deploy machine {how}",
            [f"{authorized_keys(host)} has {len(seen)} lines that end with {hostkeys.MARK}"],
            # The gateway's is the business of the jump host's deploy: its own comes before there is a key.
            case.deploy(case.plan.jumphost if host == case.gateway else host),
        )


def _deploy_machine(case: Investigation, host: Host, state: HostState) -> Iterator[Cause]:
    if state.rotation_due:
        yield case.cause(
            "rotation-due",
            host,
            f"who was removed may still have the deploy machine's key: {some(state.rotation_due)}",
            [f"{MACHINE_KEY.with_name('due')}: {name}" for name in state.rotation_due],
            "./inv rotate-key --deploy-machine",
        )
    wanted = {path: hashlib.sha256(content).hexdigest() for path, content in checkout.files(case.plan).items()}
    differs = [path for path in sorted(wanted.keys() | state.tree.keys()) if wanted.get(path) != state.tree.get(path)]
    pinned = {
        name: f"{name} {state.python_packages.get(name, 'is missing')}, not {version}"
        for name, version in checkout.pinned_packages().items()
        if state.python_packages.get(name) != version
    }
    if differs or pinned:
        yield case.cause(
            "repo-differs",
            host,
            "what it would deploy with is not this: " + (differs or [*pinned])[0],
            [*(f"{checkout.FOLDER}/{path} differs" for path in differs), *pinned.values()],
            case.deploy(host),
        )


def _proxy(case: Investigation, host: Host, state: HostState) -> Iterator[Cause]:
    down = any(each.host == host.name and not each.latent for each in case.found)
    code, words = state.sections.get("nginx", (0, []))
    # With the file of the plan it is told what the next boot does, and what mends it.
    told = isinstance(state.next_boot, NextBoot) and bool(state.next_boot.nginx)
    if code and not down and not (told and state.files.get(nginx.PATH) == nginx.configuration(case.plan)):
        yield case.cause(
            "nginx-invalid",
            host,
            "nginx does not take its configuration: it will not start again",
            [*words[-3:]],
            case.deploy(host),
        )
    answers = state.answers
    unknown = answers.get(f"{NO_SUCH_NAME}/")
    if down or unknown is None:
        return
    wrong = [] if unknown[0] == 404 else [f"a name that is not served gets {unknown[0]}, not 404"]
    health = answers.get(f"{NO_SUCH_NAME}/healthz")
    wrong += [] if health == (200, "ok\n") else [f"/healthz gets {health}"]
    for name in roles.lb_nginx(case.plan).web_services:
        status, body = answers.get(f"{name}/", unknown)
        if status == 0 or (status, body) == unknown:
            wrong.append(f"{name} is not passed on: status {status}")
    if wrong:
        yield case.cause(
            "proxy-answers",
            host,
            f"its web server does not answer as its configuration says: {wrong[0]}",
            wrong,
            case.change(host.name, "systemctl restart nginx"),
            latent=False,
            advice="it runs with another configuration than the file's, or another program has its port",
        )
