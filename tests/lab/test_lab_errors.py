"""What a person is told whose machine or plan does not do: one line each, with the fix. Needs no lab."""

import shlex
from collections.abc import Callable

import pytest

from lab import blueprint, machine
from lab.process import CommandError, LabError, run
from underlay.plan import Plan


def test_names_that_the_lab_needs_are_refused(plan: Plan) -> None:
    switch = plan.host("dev").model_copy(update={"name": "switch"})
    with pytest.raises(LabError, match="the lab has a 'switch' of its own: give the host another name"):
        blueprint.draw(plan.model_copy(update={"hosts": (*plan.hosts, switch)}))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (("os.geteuid", lambda: 1000), "the lab needs root: run the same command with sudo"),
        (("platform.system", lambda: "Darwin"), "the lab needs Linux, this is Darwin"),
        (("shutil.which", lambda name, **_: name if name == "apt-get" else None), "apt-get install systemd-container"),
        (("shutil.which", lambda *_, **__: None), "there is no apt here: run it on Debian or Ubuntu"),
        (("lab.machine.NAME", "../x"), "UNDERLAY_LAB='../x' is no name for a lab"),
        (("lab.machine._mounted", lambda _: []), "needs a writable cgroup2 in /sys/fs/cgroup: run it on a machine"),
    ],
    ids=["no root", "no Linux", "no programs", "no apt", "a bad name", "no control groups"],
)
def test_a_machine_that_cannot_run_the_lab_is_told_why(
    setting: tuple[str, Callable[..., object]], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(*setting)
    with pytest.raises(LabError, match=message) as error:
        machine.check()
    assert "\n" not in str(error.value)


def test_a_failing_program_is_shown_as_it_can_be_pasted() -> None:
    with pytest.raises(CommandError) as error:
        run(["ls", "/no such folder"])
    assert str(error.value).splitlines()[0] == f"failed with 2: {shlex.join(['ls', '/no such folder'])}"
