"""The load balancer's configuration (`tests/golden` has whole files, the lab loads them)."""

from pathlib import Path

import pytest

from tests.unit.conftest import Planned
from underlay.desired import nginx

MASTERS = (
    '"default_route": "traffic",\n    },',
    '"default_route": "traffic",\n    },\n    "master-2": {"role": "master", "addresses": {"mgmt": "100.64.0.3"}},',
)


def block(text: str, head: str) -> list[str]:
    """The lines between `head {` and the end of that block."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.strip() == f"{head} {{")
    indent = len(lines[start]) - len(lines[start].lstrip())
    end = next(number for number in range(start, len(lines)) if lines[number] == f"{' ' * indent}}}")
    return [line.strip() for line in lines[start + 1 : end]]


def services(folder: Path, text: str) -> None:
    (folder / "lb_nginx.py").write_text(f"web_services = {{{text}}}")


def test_every_master_is_behind_the_api(planned: Planned) -> None:
    text = nginx.configuration(planned(MASTERS))
    assert [line for line in block(text, "upstream kubernetes_api") if line.startswith("server ")] == [
        "server 100.64.0.2:6443 max_fails=2 fail_timeout=10s;",
        "server 100.64.0.3:6443 max_fails=2 fail_timeout=10s;",
    ]
    assert "proxy_next_upstream_tries 2;" in block(text, "stream")


@pytest.mark.parametrize(("count", "size"), [(1, 64), (32, 64), (100, 200), (1000, 2000)])
def test_what_grows_with_the_plan_has_room(planned: Planned, tmp_path: Path, count: int, size: int) -> None:
    """nginx takes one KiB of shared memory for each server: with fewer it does not start."""
    more = "".join(
        f'"more-{n}": {{"role": "master", "addresses": {{"mgmt": "100.64.{1 + n // 250}.{1 + n % 250}"}}}},\n'
        for n in range(count - 1)
    )
    upstreams = ", ".join(f'"192.0.2.1:{1 + n}"' for n in range(count))
    services(tmp_path, f'"web": {{"upstreams": [{upstreams}]}}')
    text = nginx.configuration(planned(('    "master-1": {', f'{more}    "master-1": {{')))
    assert f"zone kubernetes_api {size}k;" in block(text, "upstream kubernetes_api")
    assert f"zone web {size}k;" in block(text, "upstream web")


@pytest.mark.parametrize(("name", "bucket"), [("a", 128), ("a" * 63, 128), (".".join(["a" * 49] * 5), 320)])
def test_a_name_of_any_length_fits(planned: Planned, tmp_path: Path, name: str, bucket: int) -> None:
    services(tmp_path, f'"{name}": {{"upstreams": ["lb:1"]}}')
    assert f"server_names_hash_bucket_size {bucket};" in block(nginx.configuration(planned()), "http")


def test_many_names_fit(planned: Planned, tmp_path: Path) -> None:
    services(tmp_path, ", ".join(f'"web-{n}": {{"upstreams": ["lb:1"]}}' for n in range(1000)))
    assert "server_names_hash_max_size 4000;" in block(nginx.configuration(planned()), "http")


def test_no_masters_no_api(planned: Planned) -> None:
    without = ('"role": "master",', '"role": "server",')
    assert "stream {" not in nginx.configuration(planned(without))


def test_a_name_is_an_upstream_of_its_own(planned: Planned, tmp_path: Path) -> None:
    services(tmp_path, '"a-b.example": {"upstreams": ["lb:1"]}, "a.b.example": {"upstreams": ["lb:2", "lb:3"]}')
    text = nginx.configuration(planned())
    assert "server 100.64.0.53:1 max_fails=2 fail_timeout=10s;" in block(text, "upstream a-b.example")
    assert [line.split()[1] for line in block(text, "upstream a.b.example") if line.startswith("server ")] == [
        "100.64.0.53:2",
        "100.64.0.53:3",
    ]
    assert text.count("proxy_pass http://a.b.example;") == 1


def test_a_service_of_its_own_kind(planned: Planned, tmp_path: Path) -> None:
    plain = '"plain": {"upstreams": ["lb:1"]}'
    services(tmp_path, plain)
    before = set(nginx.configuration(planned()).splitlines())
    rest = '"websockets": True, "max_body": "0", "extra": ["proxy_buffering off"]'
    services(tmp_path, f'{plain}, "other": {{"upstreams": ["lb:1"], {rest}}}')
    added = {line.strip() for line in set(nginx.configuration(planned()).splitlines()) - before}
    assert added >= {
        "server_name other;",
        "client_max_body_size 0;",
        "proxy_set_header Upgrade $http_upgrade;",
        "proxy_read_timeout 24h;",
        "proxy_request_buffering off;",
        "proxy_buffering off;",
    }


def test_no_services(planned: Planned, tmp_path: Path) -> None:
    services(tmp_path, "")
    text = nginx.configuration(planned())
    assert text.count("server_name ") == 1
    assert text.count("{") == text.count("}")
