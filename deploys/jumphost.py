"""The jump host: the way in from the company LAN, and the machine from which the site is deployed."""

from pyinfra import host
from pyinfra.facts.systemd import SystemdStatus
from pyinfra.operations import pip, server, systemd

from underlay.access import hostkeys
from underlay.access.target import MACHINE_KNOWN_HOSTS
from underlay.desired import checkout, units
from underlay.facts.access import ON_CALL
from underlay.operations import access, deploying, packages
from underlay.operations.files import config_file, tree
from underlay.plan import roles

if deploying.runs_for("jumphost"):
    target, _ = deploying.planned()
    people = roles.jumphost(target.plan).people_on_call

    deploying.require_supported_system()
    leaving = access.require_accounts_of_ours(people)
    deploying.packages("jumphost")
    deploying.planned_network()

    # A socket that starts it is stopped by its service.
    if not host.get_fact(SystemdStatus, services=[units.SSH.instead]).get(units.SSH.instead):
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
        access.person(name=f"People on call: {person}", account=person)
        access.account_keys(name=f"People on call: the keys of {person}", account=person, keys=list(keys))
    for person in leaving:
        access.removed(name=f"People on call: {person} is removed, open sessions too", account=person)

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
    packages.pinned(
        name="Deploy machine: the pinned Python packages",
        virtualenv=f"{checkout.FOLDER}/.venv",
        requirements=f"{checkout.FOLDER}/requirements.txt",
        wanted=checkout.pinned_packages(),
        _timeout=deploying.INSTALL,
    )
    config_file.installed(
        name="Deploy machine: the hosts' keys",
        path=str(MACHINE_KNOWN_HOSTS),
        content=hostkeys.known_hosts(target.plan, target.known_hosts),
        check="""[ ! -s "$NEW" ] || sed 's/^@cert-authority //' "$NEW" | ssh-keygen -lf - >/dev/null""",
    )
    access.machine_key(name="Deploy machine: a key of its own")
    deploying.deploy_machine_access()
    deploying.keys_only()
    deploying.network_holds_at_boot()
    access.rotated(name="Deploy machine: another key once somebody was removed", removed=leaving)
