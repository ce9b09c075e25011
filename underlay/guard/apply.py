"""The operator's side of a guarded change: probe, begin, look at it from outside, then confirm or roll back.

Runs as a process of its own (`runner.run` starts it), with a deadline for every step: whatever becomes of the
connection, it ends by itself.
"""

import getpass
import json
import os
import pickle
import shlex
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from underlay.access.sessions import Links, UnreachableError
from underlay.access.target import Target, configured
from underlay.desired import traffic
from underlay.desired.traffic import Flow
from underlay.errors import report_and_exit
from underlay.guard.change import SECONDS, SECONDS_VARIABLE, Change
from underlay.observe.exchange import Exchange, Outcome, judge
from underlay.plan import REPO
from underlay.remote import guard, probe, send
from underlay.remote.guard.paths import COPY

PROBES = 60
"""Flows at most that are tried before and after a change."""
SAMPLE = 8
"""Hosts of each role at most that these flows are between."""
LATE = 10
"""Seconds beyond the timer to wait for a host's answer: then it has rolled back, or is gone."""
SETTLE = 60
"""Seconds for what follows a confirmed change."""


class LostError(Exception):
    """A host did not answer in time."""


def seconds() -> float:
    """The rollback timer in force."""
    return float(os.environ.get(SECONDS_VARIABLE) or SECONDS)


def who() -> str:
    """Who makes a change, for the record on the host."""
    return f"{os.environ.get('SUDO_USER') or getpass.getuser()}@{socket.gethostname()}"


def commit() -> str:
    """The commit of this repo that a change comes from; empty where there is none."""
    argv = ["git", "-C", str(REPO), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def main(sent: bytes) -> int:
    """Make the change that `runner.run` sent; 0 if it was confirmed."""
    target, host, change = pickle.loads(sent)  # noqa: S301 (our own parent process sent it)
    with report_and_exit():
        return _Guarded(target, host, change).make()


class _Guarded:
    def __init__(self, target: Target, host: str, change: Change) -> None:
        self.target = target
        self.host = host
        self.change = change
        self.token = uuid.uuid4().hex
        self.seconds = seconds()

    def make(self) -> int:
        flows = _probes(self.target, self.host, self.change)
        with closing(_exchange(self.target, flows)) as exchange:
            passed = [flow for flow, outcome in exchange.run(flows).items() if judge(flow, outcome) is None]
            return self._make(exchange, passed)

    def _make(self, exchange: Exchange, passed: list[Flow]) -> int:
        request = {
            "token": self.token,
            "who": who(),
            "commit": commit(),
            "seconds": self.seconds,
            **self.change.request(),
        }
        begun = time.monotonic()
        try:
            answer = self._begin(request)
        except LostError as error:
            return self._lost(begun, str(error))
        if "error" in answer:
            return _failed(f"not changed: {answer['error']}")
        with _new_connection(self.target, self.host) as fresh:
            why = self._look(fresh, exchange, passed, begun)
            if why:
                return self._roll_back(fresh, begun, why)
            try:
                answer = self._ask(fresh, ["confirm", self.token], begun)
            except LostError as error:
                return self._lost(begun, str(error))
            if "error" in answer:
                return _failed(f"ROLLED BACK: {answer['error']}")
            print(f"confirmed: change {answer['number']}, {len(passed)} probes passed before and after it", flush=True)
            if self.change.settle:
                self._settle(fresh)
        return 0

    def _begin(self, request: dict[str, Any]) -> dict[str, Any]:
        command = shlex.join(["sudo", "-n", *send.argv("begin")])
        stdin = f"{send.line(guard).decode()}{json.dumps(request)}"
        return _answer(self._ssh(self.target, command, stdin, self.seconds + LATE))

    def _ask(self, target: Target, arguments: list[str], begun: float) -> dict[str, Any]:
        command = shlex.join(["sudo", "-n", "python3", "-IS", str(COPY), *arguments])
        return _answer(self._ssh(target, command, "", max(begun + self.seconds + LATE - time.monotonic(), 3)))

    def _settle(self, target: Target) -> None:
        # On stdin: one argument of a program is 128 KiB at most.
        try:
            said = self._ssh(target, "sudo -n sh", f"exec 2>&1\n{self.change.settle}\necho settled\n", SETTLE)
        except LostError as error:
            print(f"kept, but what follows a change did not come to its end: {error}", flush=True)
        else:
            for line in said.splitlines()[:-1]:
                print(line, flush=True)

    def _ssh(self, target: Target, command: str, stdin: str, timeout: float) -> str:
        if target.vantage is not None and target.vantage.name == self.host:
            argv = ["sh", "-c", command]
        else:
            argv = ["ssh", "-F", str(target.ssh_config), self.host, command]
        try:
            done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired:
            raise LostError(f"{self.host} did not answer within {timeout:.0f} s") from None
        if done.returncode not in (0, 1) or not done.stdout:
            raise LostError((done.stderr.strip().splitlines() or [f"{self.host} gave no answer"])[-1])
        return done.stdout

    def _look(self, fresh: Target, exchange: Exchange, passed: list[Flow], begun: float) -> str:
        """What is wrong from outside, in connections made anew; empty if nothing is."""
        probes = ThreadPoolExecutor().submit(self._probe_again, fresh, exchange, passed, begun)
        links = Links(fresh)
        links.open([self.host])
        try:
            links.check(self.host)
            # When the timer is over it does not matter any more.
            wrong = probes.result(max(begun + self.seconds - time.monotonic(), 0))
        except UnreachableError as error:
            return str(error)
        except TimeoutError:
            return "the probes did not come to their end in time"
        if not wrong:
            return ""
        expected, seen = wrong[0]
        more = f" (and {len(wrong) - 1} more of {len(passed)} probes)" if len(wrong) > 1 else ""
        return f"a probe that passed before fails now{more}: expected {expected}; seen: {seen}"

    def _probe_again(
        self, fresh: Target, exchange: Exchange, passed: list[Flow], begun: float
    ) -> list[tuple[str, str]]:
        # The agents that made the packets before make them anew, unless they are about to end by themselves.
        old = time.monotonic() - begun > probe.DEADLINE / 2
        outcomes = {} if old else exchange.run(passed)
        unasked = [flow for flow in passed if flow not in outcomes or outcomes[flow].unasked]
        wrong = _wrong({flow: outcome for flow, outcome in outcomes.items() if not outcome.unasked})
        if wrong:
            # Twice: one packet that a busy host lost is no reason to undo a good change.
            wrong = _wrong(exchange.run(wrong))
        if unasked and not wrong:
            # A change may end the connections to them.
            with closing(_exchange(fresh, unasked)) as anew:
                wrong = _wrong(anew.run(unasked))
        return list(wrong.values())

    def _roll_back(self, fresh: Target, begun: float, why: str) -> int:
        for target in (self.target, fresh):
            try:
                answer = self._ask(target, ["rollback", self.token, why], begun)
                return _failed(_rolled_back(answer.get("error", why), answer))
            except LostError:
                continue
        return self._lost(begun, why)

    def _lost(self, begun: float, why: str) -> int:
        """Wait for the host's own timer, and tell what became of the change."""
        end = begun + self.seconds + LATE
        print(f"{why}; waiting for the host to roll back by itself", flush=True)
        while time.monotonic() < end:
            with _new_connection(self.target, self.host) as fresh:
                try:
                    status = _answer(self._ssh(fresh, f"sudo -n python3 {COPY} status", "", 6))
                except LostError:
                    status = {}
            last = status.get("last_rollback") or {}
            if last.get("token") == self.token:
                return _failed(_rolled_back(f"by the host itself: {why}", last))
            if (status.get("last") or {}).get("token") == self.token:
                print(f"confirmed: change {status['last']['number']}", flush=True)
                return 0
            time.sleep(0.5)
        return _failed(f"{self.host} can't be reached: its timer undoes the change ({why})")


def _rolled_back(why: str, answer: dict[str, Any]) -> str:
    """What is said of a rollback; what could not be brought back is not kept quiet."""
    return "\n".join([f"ROLLED BACK: {why}", *(f"NOT AS BEFORE: {each}" for each in answer.get("problems") or ())])


def _failed(line: str) -> int:
    print(line, flush=True)
    return 1


def _answer(text: str) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = json.loads(text)
    except ValueError:
        raise LostError(f"an answer that makes no sense: {text[:200]!r}") from None
    return answer


def _probes(target: Target, host: str, change: Change) -> list[Flow]:
    """Flows that the change of a host can break: those of its own, and for the gateway those of everybody.

    Of many, some of each kind, with few hosts. On the way back to an earlier state only the ways in count: what else
    works there is another plan's business.
    """
    flows = traffic.expected(traffic.sample(target.plan, SAMPLE, host), target.outside)
    if host != target.plan.gateway.name:
        flows = [flow for flow in flows if host in flow.hosts]
    if change.restore is not None:
        return [flow for flow in flows if flow.port == traffic.SSH_PORT]
    by_row: dict[str, list[Flow]] = {}
    for flow in flows:
        by_row.setdefault(flow.row, []).append(flow)
    share = max(PROBES // max(len(by_row), 1), 1)
    chosen: list[Flow] = []
    # Each host that takes part costs a connection before the change and work after it: the fewest will do.
    asked = {host, target.plan.gateway.name, target.plan.jumphost.name}
    asked |= {target.vantage.name} if target.vantage else set()
    for row in sorted(by_row.values(), key=len):
        row.sort(key=lambda flow: len(flow.hosts - asked))
        fewest = row[0].hosts | asked
        kept = [flow for flow in row if flow.hosts <= fewest]
        chosen += kept[:: -(-len(kept) // share)]
        asked |= fewest
    return chosen


def _exchange(target: Target, flows: list[Flow]) -> Exchange:
    links = Links(target)
    gateway = target.plan.gateway.name
    links.open({name for flow in flows for name in flow.hosts} | {gateway})
    return Exchange(flows, links, gateway)


def _wrong(outcomes: dict[Flow, Outcome]) -> dict[Flow, tuple[str, str]]:
    return {flow: judged for flow, outcome in outcomes.items() if (judged := judge(flow, outcome))}


@contextmanager
def _new_connection(target: Target, host: str) -> Iterator[Target]:
    """The same target, but with a connection to one host that is made anew, whichever are open already."""
    with tempfile.TemporaryDirectory(dir=target.ssh_config.parent) as folder:
        yield configured(target, Path(folder), {host: {"ControlPath": f"{folder}/%C", "ControlPersist": "5"}})


if __name__ == "__main__":
    _code = main(sys.stdin.buffer.read())
    # At once: threads that still ask somebody would be waited for.
    os._exit(_code)
