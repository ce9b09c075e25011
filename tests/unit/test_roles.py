"""The data of roles: what good files become, and what is said about bad ones."""

from pathlib import Path

import pytest

from tests.unit.conftest import Planned
from underlay.plan import REPO, PlanError, roles

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA ada@laptop"


def errors(planned: Planned, folder: Path, role: str, text: str) -> list[str]:
    """What is said about a role's file, a line for each error and one for its fix."""
    (folder / f"{role}.py").write_text(text)
    with pytest.raises(PlanError) as caught:
        getattr(roles, role)(planned())
    head, *lines = str(caught.value).splitlines()
    assert head.startswith(f"{folder}/{role}.py: {len(lines) // 2} error")
    return [line.strip() for line in lines]


def test_web_services(planned: Planned, tmp_path: Path) -> None:
    (tmp_path / "lb_nginx.py").write_text(
        """web_services = {
            "a.example": {"upstreams": ["master-1:3000", "192.0.2.7:80"]},
            "b": {
                "upstreams": ["lb:1"], "websockets": True, "max_body": "10G", "extra": ['add_header X "a; b"'],
            },
        }"""
    )
    services = roles.lb_nginx(planned()).web_services
    assert services["a.example"].model_dump() == {
        "upstreams": ("100.64.0.2:3000", "192.0.2.7:80"),
        "websockets": False,
        "max_body": "1m",
        "extra": (),
    }
    assert services["b"].websockets
    assert services["b"].extra == ('add_header X "a; b"',)


def test_people_on_call(planned: Planned, tmp_path: Path) -> None:
    (tmp_path / "jumphost.py").write_text(f'people_on_call = {{"ada": ["{KEY}"], "_x-1": []}}')
    assert roles.jumphost(planned()).people_on_call == {"ada": (KEY,), "_x-1": ()}


def test_a_file_beside_the_plan_comes_before_the_one_of_the_repo(planned: Planned, tmp_path: Path) -> None:
    own = tmp_path / "jumphost.py"
    assert roles.role_file(planned(), "jumphost") == REPO / "group_data" / "jumphost.py"
    own.write_text("")
    assert roles.role_file(planned(), "jumphost") == own
    assert roles.jumphost(planned()).people_on_call == {}


@pytest.mark.parametrize(
    ("upstream", "what", "fix"),
    [
        ("mastr-1:80", "unknown host 'mastr-1'", "did you mean 'master-1'?"),
        ("10.1:80", "'10.1' is not an IPv4 address", "write four numbers, like 192.0.2.7"),
        ("192.0.2.256:80", "'192.0.2.256' is not an IPv4 address", "write four numbers, like 192.0.2.7"),
        *(
            (bad, f"{bad!r} is not HOST:PORT", "write it like master-1:3000, with a port of up to 65535")
            for bad in ("master-1", "master-1:", "master-1:0", "master-1:65536", "master-1:http", ":80", 80, None)
        ),
    ],
)
def test_bad_upstream(planned: Planned, tmp_path: Path, upstream: object, what: str, fix: str) -> None:
    text = f'web_services = {{\n"a": {{\n"upstreams": [\n"lb:1",\n{upstream!r}]}}}}'
    assert errors(planned, tmp_path, "lb_nginx", text) == [
        f"line 5: web_services.a.upstreams.1: {what}",
        f"fix: {fix}",
    ]


@pytest.mark.parametrize(
    ("upstream", "what"),
    [
        *(
            (loop, f"{loop!r} is the proxy itself, which would ask itself for ever")
            for loop in ("lb:80", "lb:6443", "lb:080", "100.64.0.53:80", "192.168.0.53:6443", "127.0.0.1:80")
        ),
        *(
            (f"{nobody}:80", f"no host can have the address {nobody}")
            for nobody in ("0.0.0.0", "224.0.0.1", "255.255.255.255", "169.254.1.1", "100.64.0.0", "192.168.0.255")
        ),
    ],
)
def test_upstream_that_cant_answer(planned: Planned, tmp_path: Path, upstream: str, what: str) -> None:
    text = f'web_services = {{"a": {{"upstreams": ["lb:8080", "127.0.0.1:9090", {upstream!r}]}}}}'
    assert errors(planned, tmp_path, "lb_nginx", text)[0] == f"line 1: web_services.a.upstreams.2: {what}"


@pytest.mark.parametrize("name", ["a..example", "a.-b", f"{'a' * 64}.example", f"{'a.' * 127}aa"])
def test_names_that_dns_does_not_have(planned: Planned, tmp_path: Path, name: str) -> None:
    text = f'web_services = {{{name!r}: {{"upstreams": ["lb:1"]}}}}'
    assert "is not the name of a web system" in " ".join(errors(planned, tmp_path, "lb_nginx", text))


def test_all_files_of_roles_at_once(planned: Planned, tmp_path: Path) -> None:
    """Of the roles that the plan has."""
    for role in ("jumphost", "lb_nginx"):
        (tmp_path / f"{role}.py").write_text("nonsense = 1")
    with pytest.raises(PlanError) as caught:
        roles.check(planned())
    assert [
        line.split(": ")[1] for line in str(caught.value).splitlines() if "errors" in line or "1 error" in line
    ] == [
        "1 error; nothing was changed",
        "1 error; nothing was changed",
    ]
    with pytest.raises(PlanError) as caught:
        roles.check(planned(('"lb_nginx"', '"server"')))
    assert "lb_nginx" not in str(caught.value)


def test_everything_wrong_with_web_services_at_once(planned: Planned, tmp_path: Path) -> None:
    text = """web_services = {
    "Grafana": {"upstreams": ["lb:1"]},
    "a": {"upstreams": []},
    "b": {"upstreams": "lb:1"},
    "c": {"upstreams": ["lb:1"], "websockets": "no"},
    "d": {"upstreams": ["lb:1"], "max_body": "10 GB"},
    "e": {"upstreams": ["lb:1"], "extra": ["gzip on;"]},
    "f": {"upstream": ["lb:1"], "upstreams": ["lb:1"]},
    "g": {},
    "g": {},
    "h": {"upstreams": [1 + 1]},
}
"""
    assert errors(planned, tmp_path, "lb_nginx", text) == [
        "line 2: web_services.Grafana: 'Grafana' is not the name of a web system",
        "fix: write it like grafana.lab.example",
        "line 3: web_services.a.upstreams: is empty",
        "fix: write at least one HOST:PORT",
        "line 4: web_services.b.upstreams: 'lb:1' is not a list",
        "fix: write a list in […]",
        "line 5: web_services.c.websockets: 'no' is neither True nor False",
        "fix: write one of the two, without quotes",
        "line 6: web_services.d.max_body: '10 GB' is not a size",
        'fix: write it as nginx does, like "10g", or "0" for no limit',
        "line 7: web_services.e.extra.0: 'gzip on;' is not one nginx directive",
        "fix: write each as a text of its own, without the semicolon at its end",
        "line 8: web_services.f: unknown key 'upstream'",
        "fix: did you mean 'upstreams'?",
        "line 9: web_services.g: has no 'upstreams'",
        "fix: add 'upstreams'",
        "line 10: web_services.g: is there twice (first on line 9)",
        "fix: rename or delete one of the two",
        "line 11: web_services.h.upstreams.0: is not plain data",
        "fix: write the value itself: no code, names or calls here",
    ]


def test_everything_wrong_with_people_on_call_at_once(planned: Planned, tmp_path: Path) -> None:
    text = f"""people_on_call = {{
    "ada": ["{KEY}", "ssh-ed25519 AAAA"],
    "Bob": [],
    "root": [],
    "ops": ["{KEY}"],
    "eve": "{KEY}",
    "mallory": ["{KEY}\\nssh-ed25519 AAAA"],
}}
person = {{}}
"""
    shown = f"{KEY[:58]}…"
    key_fix = "fix: copy the line of a .pub file, like ssh-ed25519 AAAA… ada@laptop"
    assert errors(planned, tmp_path, "jumphost", text) == [
        "line 2: people_on_call.ada.1: 'ssh-ed25519 AAAA' is not a public key",
        key_fix,
        "line 3: people_on_call.Bob: 'Bob' is not the name of an account",
        "fix: use up to 32 of a-z, 0-9, _ and -, a letter first",
        "line 4: people_on_call.root: 'root' has other keys already",
        "fix: give each person an account of their own",
        "line 5: people_on_call.ops: 'ops' has other keys already",
        "fix: give each person an account of their own",
        f"line 6: people_on_call.eve: '{shown} is not a list",
        "fix: write a list in […]",
        f"line 7: people_on_call.mallory.0: '{shown} is not a public key",
        key_fix,
        "line 9: the file: unknown key 'person'",
        "fix: known: people_on_call",
    ]


def test_the_files_of_the_repo_are_good(planned: Planned) -> None:
    roles.lb_nginx(planned())
    roles.jumphost(planned())
