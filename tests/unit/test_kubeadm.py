"""What kubeadm gets on a node, and the file that people read."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.unit import yaml
from underlay.errors import OperatorError
from underlay.nodes import kubeadm_file
from underlay.nodes.kubeadm import Secrets, api, documents
from underlay.plan import REPO, Plan, load

PLAN = load(REPO / "tests/golden/good/cluster.py")
KNOWN = Secrets("abcdef.0123456789abcdef", f"sha256:{'a' * 64}", "b" * 64)
LINES = f"token = {KNOWN.token}\n\n# of today\nca_hash = {KNOWN.ca_hash}\ncertificate_key={KNOWN.certificate_key}\n"


def of_version(version: str) -> Plan:
    assert PLAN.kubernetes
    return PLAN.model_copy(update={"kubernetes": PLAN.kubernetes.model_copy(update={"version": version})})


def made(name: str, secrets: Secrets | None = None, version: str = "1.33.4") -> dict[str, Any]:
    plan = of_version(version)
    return {each["kind"]: each for each in documents(plan, plan.host(name), secrets or Secrets())}


@pytest.mark.parametrize(
    ("minor", "version"),
    [(20, "v1beta2"), (21, "v1beta2"), (22, "v1beta3"), (30, "v1beta3"), (31, "v1beta4"), (40, "v1beta4")],
)
def test_each_release_has_its_api(minor: int, version: str) -> None:
    assert api(minor) == version
    for name in ("master-1", "master-2", "worker-1"):
        kinds = made(name, version=f"1.{minor}.0")
        assert {each["apiVersion"] for kind, each in kinds.items() if not re.match("Kube", kind)} == {
            f"kubeadm.k8s.io/{version}"
        }


def test_the_first_master_begins() -> None:
    found = made("master-1")
    assert list(found) == [
        "InitConfiguration",
        "ClusterConfiguration",
        "KubeletConfiguration",
        "KubeProxyConfiguration",
    ]
    cluster = found["ClusterConfiguration"]
    assert cluster["kubernetesVersion"] == "v1.33.4"
    assert cluster["controlPlaneEndpoint"] == "api.lab.example:6443"
    assert cluster["networking"] == {
        "podSubnet": "10.244.0.0/16",
        "serviceSubnet": "10.96.0.0/16",
        "dnsDomain": "cluster.local",
    }
    assert found["KubeletConfiguration"]["cgroupDriver"] == "systemd"
    assert found["KubeProxyConfiguration"]["mode"] == "iptables"
    assert found["InitConfiguration"]["localAPIEndpoint"] == {"advertiseAddress": "100.64.0.2", "bindPort": 6443}
    assert "bootstrapTokens" not in found["InitConfiguration"]
    assert "certificateKey" not in found["InitConfiguration"]


def test_the_certificate_is_for_every_way_to_the_api() -> None:
    assert made("master-1")["ClusterConfiguration"]["apiServer"]["certSANs"] == [
        "api.lab.example",
        "192.168.0.53",
        "100.64.0.53",
        "10.96.0.1",
        "kubernetes.example.org",
    ]


@pytest.mark.parametrize(
    ("name", "node", "server"), [("master-3", "100.64.32.4", "100.64.0.4"), ("worker-2", "100.64.32.12", "")]
)
def test_all_others_join_by_the_load_balancer(name: str, node: str, server: str) -> None:
    [found] = made(name).values()
    assert found["kind"] == "JoinConfiguration"
    assert found["discovery"]["bootstrapToken"] == {
        "apiServerEndpoint": "api.lab.example:6443",
        "token": "<TOKEN>",
        "caCertHashes": ["<CA_HASH>"],
    }
    assert found["nodeRegistration"]["name"] == name
    assert found["nodeRegistration"]["kubeletExtraArgs"] == [{"name": "node-ip", "value": node}]
    own = found.get("controlPlane", {"localAPIEndpoint": {"advertiseAddress": ""}})
    assert own["localAPIEndpoint"]["advertiseAddress"] == server


def test_older_releases_have_other_words() -> None:
    old, newer = (
        made("worker-1", version=each)["JoinConfiguration"]["nodeRegistration"] for each in ("1.20.2", "1.30.1")
    )
    assert old["criSocket"] == "/run/containerd/containerd.sock"
    assert newer["criSocket"] == "unix:///run/containerd/containerd.sock"
    assert old["kubeletExtraArgs"] == newer["kubeletExtraArgs"] == {"node-ip": "100.64.32.11"}


@pytest.mark.parametrize("version", ["1.20.2", "1.25.0", "1.33.4"])
@pytest.mark.parametrize("secrets", [Secrets(), KNOWN], ids=["without", "with"])
@pytest.mark.parametrize("host", PLAN.nodes, ids=lambda host: host.name)
def test_the_file_says_the_same(version: str, secrets: Secrets, host: Any) -> None:
    plan = of_version(version)
    text = kubeadm_file.text(plan, host, secrets)
    assert yaml.documents(text) == documents(plan, host, secrets)
    assert all(line.startswith("#") for line in text.partition("apiVersion")[0].splitlines())


@pytest.mark.parametrize(
    "value",
    ["", "no", "1.33", "10.96.0.0/16", "a: b", "a #b", "*", "-", "a:", "é", "x\ny", '"', "~", "0x1", "v1", "<A>"],
)
def test_a_text_stays_a_text(value: str) -> None:
    written = "\n".join(kubeadm_file._lines({"a": value, "b": [value], "c": [{"d": value, "e": [value]}]}))
    assert yaml.documents(written) == [{"a": value, "b": [value], "c": [{"d": value, "e": [value]}]}]


def test_what_to_run_stands_in_front() -> None:
    first, worker = (kubeadm_file.text(PLAN, PLAN.host(name), Secrets()) for name in ("master-1", "worker-1"))
    assert "kubeadm init --config kubeadm.yaml --upload-certs" in first
    assert "<TOKEN>" not in first
    assert "#   kubeadm join --config kubeadm.yaml" in worker
    assert "#   <TOKEN>  kubeadm token create" in worker
    assert "<CERTIFICATE_KEY>" not in worker
    assert "Before that" not in kubeadm_file.text(PLAN, PLAN.host("master-2"), KNOWN)


# --- secrets --------------------------------------------------------------------------------------------------------


def written(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "secrets"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_secrets_are_taken_from_a_file(tmp_path: Path) -> None:
    assert kubeadm_file.secrets(written(tmp_path, LINES)) == KNOWN
    init = made("master-1", KNOWN)["InitConfiguration"]
    assert init["bootstrapTokens"] == [{"token": KNOWN.token}]
    assert init["certificateKey"] == KNOWN.certificate_key


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        (LINES, 0o640, "can be read by others"),
        ("token = abcdef.0123456789abcde", 0o600, ":1: no token of kubeadm's"),
        ("\npassword = x", 0o600, ":2: not one of token = …, ca_hash = …, certificate_key = …"),
        (KNOWN.token, 0o600, ":1: not one of"),
    ],
)
def test_a_bad_file_is_refused_and_not_repeated(tmp_path: Path, text: str, mode: int, said: str) -> None:
    with pytest.raises(OperatorError) as caught:
        kubeadm_file.secrets(written(tmp_path, text, mode))
    assert said in str(caught.value)
    assert "abcdef" not in str(caught.value)
