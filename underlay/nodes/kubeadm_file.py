"""kubeadm's configuration as a file for people: what to run in front, then YAML. Pure but for the file of secrets."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from underlay.errors import OperatorError
from underlay.nodes.kubeadm import Secrets, api, documents
from underlay.plan import Host, Plan, given
from underlay.text import is_blank

SHAPES = {
    "token": r"[a-z0-9]{6}\.[a-z0-9]{16}",
    "ca_hash": "sha256:[0-9a-f]{64}",
    "certificate_key": "[0-9a-f]{64}",
}
"""Line of a file of secrets → what kubeadm takes."""
OTHERS = 0o077
HOW = {
    "<TOKEN>": "kubeadm token create",
    "<CA_HASH>": "openssl x509 -pubkey -noout -in /etc/kubernetes/pki/ca.crt | openssl pkey -pubin -outform der | "
    "sha256sum | sed 's/^/sha256:/; s/ .*//'",
    "<CERTIFICATE_KEY>": "kubeadm init phase upload-certs --upload-certs | tail -n 1",
}
"""Placeholder → what says it, on the first master."""
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./:-]*[A-Za-z0-9_./-]")
_WORDS = ("true", "false", "yes", "no", "on", "off", "null")


def text(plan: Plan, host: Host, secrets: Secrets) -> str:
    """The file for a node of the plan."""
    body = yaml(documents(plan, host, secrets))
    return "".join(f"# {line}".rstrip() + "\n" for line in _head(plan, host, body)) + body


def yaml(made: Iterable[Mapping[str, Any]]) -> str:
    """Documents as YAML."""
    return "---\n".join("".join(f"{line}\n" for line in _lines(each)) for each in made)


def _head(plan: Plan, host: Host, body: str) -> Iterator[str]:
    assert plan.kubernetes
    first = plan.nodes[0]
    what = "the first master" if host == first else "a further master" if host.role == "master" else "a worker"
    yield f"{host.name}, {what} of {plan.kubernetes.endpoint}: kubeadm {plan.kubernetes.version}, which reads"
    yield f"{api(plan.kubernetes.minor)}. Made of the plan by ./inv kubeadm {host.name}."
    yield ""
    yield f"Put it on {host.name}, as a file that root alone can read, and run there as root:"
    if host == first:
        yield "  kubeadm init --config kubeadm.yaml --upload-certs"
    else:
        yield "  kubeadm join --config kubeadm.yaml"
    if places := [place for place in HOW if place in body]:
        yield ""
        yield f"Before that put in what {first.name} says, as root (the first for a day, the last for two hours):"
        yield from (f"  {place}  {HOW[place]}" for place in places)


def secrets(path: Path) -> Secrets:
    """Those of a file with lines like `token = …`, which nobody else can read. Raises OperatorError."""
    content = given.content(path).decode(errors="replace")
    if path.stat().st_mode & OTHERS:
        raise OperatorError(f"{path} can be read by others: chmod 600 it, and make a new token")
    found: dict[str, str] = {}
    for number, line in enumerate(content.splitlines(), 1):
        name, equals, value = (part.strip() for part in line.partition("="))
        if is_blank(line) or line.lstrip().startswith("#"):
            continue
        if not equals or name not in SHAPES:
            raise OperatorError(f"{path}:{number}: not one of {', '.join(f'{each} = …' for each in SHAPES)}")
        if not re.fullmatch(SHAPES[name], value):
            # The value is not repeated: it may be one, with a slip.
            raise OperatorError(f"{path}:{number}: no {name} of kubeadm's: copy all of it")
        found[name] = value
    return replace(Secrets(), **found)


def _lines(value: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """An object as YAML, in blocks."""
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield f"{indent}{key}:"
            yield from _lines(item, f"{indent}  ")
        elif isinstance(item, Sequence) and not isinstance(item, str):
            yield f"{indent}{key}:"
            yield from _items(item, f"{indent}  ")
        else:
            yield f"{indent}{key}: {_scalar(item)}"


def _items(values: Iterable[Any], indent: str) -> Iterator[str]:
    for value in values:
        if isinstance(value, Mapping):
            first, *rest = _lines(value)
            yield f"{indent}- {first}"
            yield from (f"{indent}  {line}" for line in rest)
        else:
            yield f"{indent}- {_scalar(value)}"


def _scalar(value: object) -> str:
    """A text is in quotes, in JSON's way, wherever YAML could take it for something else."""
    plain = isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS
    return str(value) if plain else json.dumps(value)
