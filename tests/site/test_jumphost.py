"""The jump host: the people on call, and this repo, ready to deploy from."""

import hashlib

from underlay.desired import checkout
from underlay.desired.units import SSH
from underlay.observe.state import HostState
from underlay.plan import Host, Plan, roles
from underlay.verify.checks import EveryHost, expect, expect_unit, wrong


class TestJumphost(EveryHost):
    role = "jumphost"

    def test_ssh_service(self, planned: Host, state: HostState) -> None:
        """The sshd runs, now and at boot."""
        expect_unit(planned, state, SSH)

    def test_on_call(self, plan: Plan, state: HostState) -> None:
        """Accounts are the people on call."""
        people = roles.jumphost(plan).people_on_call
        wanted = {f"{account}: {key}" for account, keys in people.items() for key in keys}
        seen = {f"{account}: {key}" for account, text in state.on_call.items() for key in text.splitlines() if key}
        accounts = [
            f"account {name} {'is missing' if name in people else 'is there'}"
            for name in set(people) ^ set(state.on_call)
        ]
        if wanted != seen or accounts:
            missing = sorted(wanted - seen) or "no other accounts and keys"
            wrong(missing, [*accounts, *sorted(seen - wanted)], str(roles.role_file(plan, self.role)))

    def test_rotation(self, state: HostState) -> None:
        """Nobody who was removed has the deploy machine's key."""
        fix = "./inv rotate-key --deploy-machine"
        expect([f"{name} was removed since it was made" for name in state.rotation_due], [], fix)

    def test_repo(self, plan: Plan, state: HostState) -> None:
        """This repo is there, unchanged."""
        wanted = {path: hashlib.sha256(content).hexdigest() for path, content in checkout.files(plan).items()}
        seen = state.tree
        differs = [path for path in sorted(wanted.keys() | seen.keys()) if wanted.get(path) != seen.get(path)]
        expect([f"{path} differs" for path in differs], [], checkout.FOLDER)

    def test_python_packages(self, state: HostState) -> None:
        """Its Python packages are pinned."""
        differs = [
            f"{name} {state.python_packages.get(name, 'is missing')}, not {version}"
            for name, version in checkout.pinned_packages().items()
            if state.python_packages.get(name) != version
        ]
        expect(differs, [], f"{checkout.FOLDER}/.venv")
