"""The plan: what a good file becomes, and that a bad one always becomes a report (`tests/golden` has the texts)."""

import os
import pprint
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from netaddr import IPAddress, IPNetwork
from pydantic import ValidationError

from underlay.desired.routing import TABLES, host_network
from underlay.plan import MOST_NETWORKS, REPO, ROLES, Network, Plan, PlanError, Zone, load, plan_file
from underlay.plan.datafile import read_literals, validate
from underlay.plan.model import (
    ForwardingException,
    Frozen,
    HostSpec,
    Kubernetes,
    Operator,
    PackageSource,
    PlanFile,
    Published,
)

Data = dict[str, Any]


def write(folder: Path, data: Data) -> Path:
    path = folder / "plan.py"
    path.write_text("".join(f"{name} = {pprint.pformat(value, sort_dicts=False)}\n" for name, value in data.items()))
    return path


def report(path: Path) -> str:
    with pytest.raises(PlanError) as caught:
        load(path)
    return str(caught.value)


@pytest.fixture
def data() -> Data:
    return read_literals(REPO / "group_data" / "all.py").values


@pytest.fixture(scope="module")
def site() -> Plan:
    return load(REPO / "group_data" / "all.py")


def test_the_networks_of_the_site(site: Plan) -> None:
    assert site.enterprise.name == "enterprise"
    assert [network.name for network in site.internal] == ["mgmt", "traffic", "storage"]
    assert site.network("storage").cidr == IPNetwork("100.64.64.0/21")
    assert site.gateway_address("enterprise") == IPAddress("192.168.0.1")
    assert site.gateway_address("storage") == IPAddress("100.64.64.1")


def test_the_hosts_of_the_site(site: Plan) -> None:
    assert [host.name for host in site.published] == ["jumphost", "lb"]
    assert [len(site.hosts_of(role)) for role in ROLES] == [1, 1, 1, 1, 0]
    assert site.gateway.primary.with_prefix == "192.168.0.51/24"
    master = site.host("master-1")
    assert [(nic.network, nic.nic) for nic in master.interfaces] == [
        ("mgmt", "eth0"),
        ("traffic", "eth1"),
        ("storage", "eth2"),
    ]
    assert master.default_network == "traffic"
    assert site.jumphost.default_network == "mgmt"
    assert master.interface("enterprise") is None


def test_what_is_not_in_the_plan_is_a_key_error(site: Plan) -> None:
    with pytest.raises(KeyError):
        site.host("nobody")
    with pytest.raises(KeyError):
        site.network("nowhere")
    assert site.hosts_of("nothing") == ()


def test_a_line_of_the_plan_is_the_one_that_has_it(site: Plan) -> None:
    found = re.fullmatch(r"(group_data/all\.py):(\d+) hosts\.lb\.published", site.line("hosts", "lb", "published"))
    assert found
    line = (REPO / found[1]).read_text().splitlines()[int(found[2]) - 1]
    assert line.lstrip().startswith('"lb": ')


def test_a_plan_is_frozen(site: Plan) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        site.gateway.name = "other"  # type: ignore[misc]


def test_underlay_plan_names_another_file(tmp_path: Path, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNDERLAY_PLAN", raising=False)
    assert plan_file() == REPO / "group_data" / "all.py"
    path = write(tmp_path, data | {"site": "other"})
    monkeypatch.setenv("UNDERLAY_PLAN", str(path))
    assert (load().site, load().source) == ("other", path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNDERLAY_PLAN", "plan.py")
    assert load().source == path


def test_a_file_that_cant_be_read_is_a_plan_error(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for path, why in (
        (tmp_path / "none.py", "No such file or directory"),
        (tmp_path, "Is a directory"),
        (tmp_path / "loop", "Too many levels of symbolic links"),
        (tmp_path / ("x" * 3000), "File name too long"),
    ):
        assert report(path).startswith(f"{path}: can't be read: {why}\n    fix: ")


def test_what_is_no_file_is_a_plan_error(tmp_path: Path) -> None:
    """It would say nothing for ever, or never end; and those that a command starts would find it empty."""
    os.mkfifo(tmp_path / "pipe")
    for path, why in (
        (tmp_path / "pipe", "it is no file, but a pipe or a device"),
        (Path("/dev/zero"), "it has more than 64 MB"),
    ):
        assert report(path).startswith(f"{path}: can't be read: {why}\n    fix: ")


def test_a_name_that_is_not_utf_8_can_be_printed(tmp_path: Path) -> None:
    assert r"\xff.py: can't be read" in report(tmp_path / "\udcff.py")


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"\xff\xfe", b"\x7fELF", b"((((", b"hosts = {", b"= 1", b"x" * 100_000]
)
def test_a_file_that_is_no_plan_is_a_plan_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "plan.py"
    path.write_bytes(content)
    assert f"{path}: " in report(path)


def test_a_fleet_of_a_hundred_nodes(tmp_path: Path, data: Data) -> None:
    for number in range(2, 101):
        addresses = {"mgmt": f"100.64.1.{number}", "traffic": f"100.64.33.{number}", "storage": f"100.64.65.{number}"}
        data["hosts"][f"master-{number}"] = {"role": "master", "addresses": addresses, "default_route": "traffic"}
    assert len(load(write(tmp_path, data)).hosts_of("master")) == 100


def test_as_many_networks_as_there_are_routing_tables(tmp_path: Path, data: Data) -> None:
    for number in range(MOST_NETWORKS - len(data["networks"])):
        data["networks"][f"n{number}"] = {"cidr": f"10.{number}.0.0/24"}
        data["hosts"]["gateway"]["addresses"][f"n{number}"] = f"10.{number}.0.1"
        data["hosts"]["master-1"]["addresses"][f"n{number}"] = f"10.{number}.0.2"
    plan = load(write(tmp_path, data))
    tables = {route.table for route in host_network(plan, plan.host("master-1")).routes}
    assert (len(tables), max(tables)) == (MOST_NETWORKS, TABLES[-1])


def test_parts_of_a_wrong_host_that_are_right_are_checked_too(tmp_path: Path, data: Data) -> None:
    data["hosts"]["lb"] |= {"publishd": "192.168.0.54", "addresses": {"mgmt": "100.64.0.52"}}
    text = report(write(tmp_path, data))
    assert "2 errors" in text
    assert "unknown key 'publishd'" in text
    assert "100.64.0.52 is used already by hosts.jumphost.addresses.mgmt" in text


def test_an_upstream_of_none_is_none(tmp_path: Path, data: Data) -> None:
    data["networks"]["mgmt"]["upstream"] = None
    assert load(write(tmp_path, data)).enterprise.name == "enterprise"


def test_gateways_of_different_networks_are_two_gateways(tmp_path: Path, data: Data) -> None:
    addresses = data["hosts"]["gateway"]["addresses"]
    data["hosts"]["gateway-2"] = {"role": "gateway", "addresses": {"storage": addresses.pop("storage")}}
    text = report(write(tmp_path, data))
    assert "1 error;" in text
    assert "hosts.gateway-2: is a second gateway, after 'gateway'" in text


def test_a_misnamed_network_is_one_error(tmp_path: Path, data: Data) -> None:
    data["networks"] = {{"storage": "strage"}.get(name, name): value for name, value in data["networks"].items()}
    text = report(write(tmp_path, data))
    assert "1 error;" in text
    assert "unknown network 'storage' (also on line" in text


def test_a_network_too_large_is_one_error(tmp_path: Path, data: Data) -> None:
    data["networks"]["mgmt"]["cidr"] = "100.64.0.0/10"
    text = report(write(tmp_path, data))
    assert "1 error;" in text
    assert "networks.mgmt.cidr: network 'mgmt' 100.64.0.0/10 overlaps network 'traffic'" in text


@pytest.mark.parametrize(
    "address",
    [
        "1.2.3",
        "1.2.3.4.5",
        "0x7f.1.1.1",
        " 100.64.0.53",
        "100.64.0.53\n",
        "::1",
        "100.64.0.53/21",
        "\u0661.\u0662.\u0663.\u0664",
        "01.2.3.4",
        1,
        None,
        True,
        1.5,
        [],
        {},
        b"100.64.0.53",
    ],
)
def test_only_four_decimal_numbers_are_an_address(tmp_path: Path, data: Data, address: object) -> None:
    data["hosts"]["lb"]["addresses"]["mgmt"] = address
    text = report(write(tmp_path, data))
    assert "1 error;" in text
    assert "hosts.lb.addresses.mgmt: " in text


@pytest.mark.parametrize(
    "cidr", ["100.64.64.0/255.255.248.0", "100.64.64.0/33", "100.64.64/21", "", 0, None, [], "::/0"]
)
def test_only_an_address_with_its_length_is_a_cidr(tmp_path: Path, data: Data, cidr: object) -> None:
    data["networks"]["storage"]["cidr"] = cidr
    text = report(write(tmp_path, data))
    assert "1 error;" in text
    assert "networks.storage.cidr: " in text


@pytest.mark.parametrize(
    "model",
    [PlanFile, Operator, Network, Zone, HostSpec, Published, ForwardingException, Kubernetes, PackageSource],
)
def test_every_key_is_explained(model: type[Frozen]) -> None:
    explained = (REPO / "docs" / "plan.md").read_text()
    names = {field.alias or name for name, field in model.model_fields.items()}
    quoted = {name for name in names if f"`{name}`" in explained or f'"{name}": ' in explained}
    assert quoted == names - {"name"}


class _Role(Frozen):
    ports: dict[str, int]


def test_other_data_files_are_validated_the_same_way(tmp_path: Path) -> None:
    path = tmp_path / "data.py"
    path.write_text('ports = {\n    "http": "many",\n}\nprots = {}\n')
    source = read_literals(path)
    problems = validate(_Role, source.values, (), source)
    assert isinstance(problems, list)
    assert [(problem.line, problem.where, problem.fix) for problem in problems] == [
        (2, "ports.http", "see docs/plan.md for what belongs there"),
        (4, "the file", "did you mean 'ports'?"),
    ]


@st.composite
def plans(draw: st.DrawFn) -> Data:
    """A valid plan: an enterprise network, some internal ones, a gateway in all of them, hosts in some of them."""
    names = draw(st.lists(st.from_regex(r"[a-z]{1,8}", fullmatch=True), min_size=2, max_size=6, unique=True))
    cidrs = {name: IPNetwork(f"10.{index * 7}.0.0/{draw(st.integers(16, 24))}") for index, name in enumerate(names)}
    used = dict.fromkeys(names, 0)

    def address(network: str) -> str:
        used[network] += 1
        return str(cidrs[network][used[network]])

    lan, *internal = names
    hosts: Data = {"gw": {"role": "gateway", "addresses": {name: address(name) for name in names}}}
    hosts["jump"] = {"role": "jumphost", "addresses": {internal[0]: address(internal[0])}, "published": address(lan)}
    for number in range(draw(st.integers(0, 8))):
        mine = draw(st.lists(st.sampled_from(internal), min_size=1, unique=True))
        host: Data = {"role": draw(st.sampled_from(["lb_nginx", "master", "images"]))}
        host["addresses"] = {name: address(name) for name in mine}
        if draw(st.booleans()):
            host["published"] = address(lan)
        if draw(st.booleans()):
            host["default_route"] = draw(st.sampled_from(mine))
        if draw(st.booleans()):
            host["nics"] = {name: f"ens{index}" for index, name in enumerate(mine)}
        hosts[f"h{number}"] = host
    networks: Data = {name: {"cidr": str(cidr)} for name, cidr in cidrs.items()}
    networks[lan]["upstream"] = address(lan)
    return {"site": "s", "target": draw(st.sampled_from(["lab", "ssh"])), "networks": networks, "hosts": hosts}


@pytest.mark.parametrize("key", ["\udcff", "zone\ud800", 7])
def test_a_key_of_a_host_that_is_no_text(tmp_path: Path, key: str | int) -> None:
    """It is told, beside what is wrong with others."""
    data: Data = {"site": "s", "target": "lab", "networks": {}, "hosts": {"dev": {key: "x", "role": "workstation"}}}
    with pytest.raises(PlanError, match=r"hosts\.dev"):
        load(write(tmp_path, data))


# Lone surrogates too, which can't be encoded.
TEXT = st.text(st.characters(exclude_categories=()), max_size=20)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT | st.binary()
KEYS = [name for model in (PlanFile, Network, Zone, HostSpec) for name in model.model_fields]
WORDS = st.sampled_from([*KEYS, *ROLES, "lab", "mgmt", "10.0.0.1", "10.0.0.0/24", "10.0.0.1/24"])
JUNK = st.recursive(
    SCALARS | WORDS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(WORDS | TEXT | st.integers(), inner, max_size=4)
        | st.tuples(inner)
    ),
    max_leaves=12,
)
relaxed = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@relaxed
@given(data=plans())
def test_every_valid_plan_is_loaded(tmp_path: Path, data: Data) -> None:
    plan = load(write(tmp_path, data))
    assert [host.name for host in plan.hosts] == list(data["hosts"])
    assert [str(network.cidr) for network in plan.networks] == [net["cidr"] for net in data["networks"].values()]
    for network in plan.networks:
        assert plan.gateway_address(network.name) in network.cidr
    for host in plan.hosts:
        spec = data["hosts"][host.name]
        assert {nic.network: str(nic.address) for nic in host.interfaces} == spec["addresses"]
        assert host.interface(host.default_network) is not None
        assert str(host.published or "") == spec.get("published", "")


def loads_or_reports(path: Path) -> None:
    try:
        load(path)
    except PlanError as error:
        text = str(error)
    else:
        return
    text.encode()
    assert re.search(r": \d+ errors?; nothing was changed\n  line \d+: ", text)
    assert max(map(len, text.splitlines())) < 250


@relaxed
@given(data=st.dictionaries(WORDS.filter(str.isidentifier), JUNK))
def test_junk_is_a_plan_error(tmp_path: Path, data: Data) -> None:
    loads_or_reports(write(tmp_path, data))


@relaxed
@given(data=plans(), junk=JUNK, choices=st.lists(st.integers(0, 9), min_size=1, max_size=5))
def test_a_plan_with_junk_somewhere_is_a_plan_error_or_a_plan(
    tmp_path: Path, data: Data, junk: object, choices: list[int]
) -> None:
    place: Any = data
    for choice in choices:
        key = list(place)[choice % len(place)]
        if not isinstance(place[key], dict) or not place[key] or choice == choices[-1]:
            break
        place = place[key]
    place[key] = junk
    loads_or_reports(write(tmp_path, data))


@relaxed
@given(content=st.binary(max_size=200) | st.text(alphabet="abhosts={}[]()'\":,#\\\n .0", max_size=80).map(str.encode))
def test_any_file_is_a_plan_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "plan.py"
    path.write_bytes(content)
    with pytest.raises(PlanError):
        load(path)
