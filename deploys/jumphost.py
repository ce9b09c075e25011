"""The jump host: the way in from the company LAN, and the machine from which the site is deployed."""

from pyinfra import host
from pyinfra.facts.server import Groups, Users
from pyinfra.operations import pip, server, systemd

from underlay.access import hostkeys
from underlay.access.target import MACHINE_KNOWN_HOSTS
from underlay.desired import checkout, units
from underlay.desired.files import sshd_settings
from underlay.operations import access, config_file, deploying, sshd, tree
from underlay.plan import roles
from underlay.text import command

ON_CALL = "underlay-oncall"

if deploying.runs_for("jumphost"):
    target, _ = deploying.planned()
    people = roles.jumphost(target.plan).people_on_call

    deploying.require_supported_system()
    deploying.packages("jumphost")
    deploying.planned_network()

    sshd.configured(
        name="sshd: keys only, forwarding for ProxyJump",
        content=sshd_settings(target.plan),
    )
    systemd.service(name="sshd: runs, now and at boot", service=units.SSH.name, running=True, enabled=True)

    server.group(name="People on call: their group", group=ON_CALL)
    config_file.installed(
        name="People on call: sudo without a password",
        path="/etc/sudoers.d/underlay-oncall",
        content=f"# Written by the repo's deploy.\n%{ON_CALL} ALL=(ALL:ALL) NOPASSWD: ALL\n",
        check='visudo -cqf "$NEW"',
        mode="440",
    )
    for person, keys in people.items():
        server.user(  # noqa: S604 (its `shell` is the one that an account gets)
            name=f"People on call: {person}",
            user=person,
            shell="/bin/bash",
            groups=[ON_CALL],
            append=True,
            create_home=True,
        )
        access.account_keys(name=f"People on call: the keys of {person}", account=person, keys=list(keys))
    # Members of the group are ours: whoever is one and not in the list was removed from it.
    accounts = host.get_fact(Users) if ON_CALL in (host.get_fact(Groups) or []) else {}
    for account, details in accounts.items():
        if ON_CALL in details["groups"] and account not in people:
            server.shell(
                name=f"People on call: {account} is removed, open sessions too",
                commands=[
                    f"{command('loginctl', 'terminate-user', account)} || true; "
                    f"{command('pkill', '-KILL', '-u', account)} || true",
                    command("rm", "-f", f"{details['home']}/.ssh/authorized_keys"),
                    command("userdel", account),
                ],
            )

    tree.present(
        name="Deploy machine: this repo, with the plan in force",
        folder=checkout.FOLDER,
        files=checkout.files(target.plan),
        executable=["inv"],
        ignore=[".venv", "__pycache__", ".pytest_cache"],
    )
    pip.venv(
        name="Deploy machine: its own Python environment",
        path=f"{checkout.FOLDER}/.venv",
        python="python3",
        _timeout=deploying.INSTALL,
    )
    pip.packages(
        name="Deploy machine: the pinned Python packages",
        packages=checkout.pinned_packages(),
        virtualenv=f"{checkout.FOLDER}/.venv",
        extra_install_args="--no-compile",  # half of the time; what is used is compiled with its first use
        _timeout=deploying.INSTALL,
    )
    config_file.installed(
        name="Deploy machine: the hosts' keys",
        path=str(MACHINE_KNOWN_HOSTS),
        content=hostkeys.known_hosts(target.plan, target.known_hosts),
        check='[ ! -s "$NEW" ] || ssh-keygen -lf "$NEW" >/dev/null',
    )
    deploying.deploy_machine_access()
    deploying.network_holds_at_boot()
