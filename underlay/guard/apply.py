"""The operator's side of a guarded change: probe, begin, look at it from outside, then confirm or roll back.

Runs in a process of its own (`worker`), with a deadline for every step: whatever becomes of the connection, it ends by
itself.
"""

import getpass
import json
import os
import socket
import subprocess
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from underlay.access import answers
from underlay.access.answers import FloodError, ShapeError
from underlay.access.login import sudo
from underlay.access.sessions import Links, UnreachableError, last_words
from underlay.access.target import Target, configured
from underlay.desired import traffic
from underlay.desired.traffic import Flow
from underlay.errors import OperatorError
from underlay.guard.change import Change, seconds, soak
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
AT_ONCE = 10
"""Hosts that change at the same time. What all of them need is less than a host's sshd takes over one connection."""
ANEW = threading.Semaphore(3)
"""How many of them may try something with programs of their own at the same time: sshd takes 10 over one connection."""
SETTLE = 60
"""Seconds for what follows a confirmed change."""


class LostError(Exception):
    """A host did not answer in time."""


class _Undone(TypedDict, total=False):
    token: str
    number: int
    problems: list[str] | None


class _Answer(_Undone, total=False):
    """What `remote.guard` answers: of a change, or how it is."""

    error: str
    last: _Undone | None
    last_rollback: _Undone | None


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


def make_all(target: Target, guarded: Sequence["Guarded"]) -> None:
    """Make the changes of some hosts at the same time, see `Guarded.end`.

    What is tried before and after them is tried by the same programs on the hosts, and over the same connections.
    Returns when each change is confirmed or undone, or waits for the timer of its host.
    """
    try:
        # One sample for all: whichever of its masters answers is one that each of them expects.
        plan = traffic.sample(target.plan, SAMPLE, *(each.host for each in guarded))
        expected = traffic.expected(plan, target.outside)
        chosen = {each: _probes(target, expected, each.host, each.change) for each in guarded}
        flows = list(dict.fromkeys(flow for some in chosen.values() for flow in some))
        with closing(_exchange(target, flows)) as exchange:
            outcomes, shared = exchange.run(flows), Shared(exchange)
            for each, some in chosen.items():
                each.begin(shared, [flow for flow in some if judge(flow, outcomes[flow]) is None])
            for each in guarded:
                each.settled.wait()
    except Exception as error:
        for each in guarded:
            if not each.settled.is_set():
                each.fail(error)
        raise


class Shared:
    """An exchange for several threads: what they ask while it is busy is asked together afterwards."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._busy, self._asking = threading.Lock(), threading.Lock()
        self._waiting: list[tuple[list[Flow], Future[dict[Flow, Outcome]]]] = []

    def run(self, flows: Iterable[Flow]) -> dict[Flow, Outcome]:
        """See `Exchange.run`."""
        mine = Future[dict[Flow, Outcome]]()
        with self._asking:
            self._waiting.append((list(flows), mine))
        with self._busy:
            if not mine.done():
                with self._asking:
                    work, self._waiting = self._waiting, []
                try:
                    outcomes = self._exchange.run(dict.fromkeys(flow for some, _ in work for flow in some))
                except Exception as error:  # noqa: BLE001 (each of them has it)
                    for _, asked in work:
                        asked.set_exception(error)
                else:
                    for some, asked in work:
                        asked.set_result({flow: outcomes[flow] for flow in some})
        return mine.result()


NO_WAY = "ssh: connect to host"
"""Begins what ssh says where there was no connection: nothing can have begun."""


class Guarded:
    """A guarded change of a host.

    say: gets each line for people
    end: gets whether it was confirmed, when that is known
    settled: nothing more is tried: it is known, or will be when the host's timer is over
    """

    def __init__(
        self, target: Target, host: str, change: Change, say: Callable[[str], None], end: Callable[[bool], None]
    ) -> None:
        self.target = target
        self.host = host
        self.change = change
        self.say = say
        self.end = end
        self.settled = threading.Event()
        self.thread: threading.Thread | None = None
        self.token = uuid.uuid4().hex
        self.seconds = seconds()
        self.soak = soak()

    def begin(self, exchange: Shared, passed: list[Flow]) -> None:
        """Make it, in a thread of its own."""

        def make() -> None:
            try:
                confirmed = self._make(exchange, passed)
            except Exception as error:  # noqa: BLE001 (whatever it is, somebody waits for it)
                self.fail(error)
            else:
                self.end(confirmed)
                self.settled.set()

        self.thread = threading.Thread(target=make)
        self.thread.start()

    def fail(self, error: Exception) -> None:
        """End it with an error."""
        lines = [f"error: {error}"] if isinstance(error, OperatorError) else traceback.format_exception(error)
        self.say("".join(lines).rstrip())
        self.end(False)
        self.settled.set()

    def _make(self, exchange: Shared, passed: list[Flow]) -> bool:
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
            nothing = str(error).startswith(NO_WAY)
            return self._failed(f"not changed: {error}") if nothing else self._lost(begun, str(error))
        if "error" in answer:
            return self._failed(f"not changed: {answer['error']}")
        with _new_connection(self.target, self.host) as fresh:
            why = self._look(fresh, exchange, passed, begun)
            if not why and self.soak:
                why, begun = self._watch(exchange, passed, begun)
            if why:
                return self._roll_back(fresh, begun, why)
            try:
                answer = self._ask(fresh, ["confirm", self.token], begun)
            except LostError as error:
                return self._lost(begun, str(error), asked=True)
            if "error" in answer:
                return self._failed(f"ROLLED BACK: {answer['error']}")
            self.say(f"confirmed: change {answer.get('number')}, {len(passed)} probes passed before and after it")
            if self.change.settle:
                self._settle(fresh)
        return True

    def _begin(self, request: dict[str, Any]) -> _Answer:
        stdin = f"{send.line(guard).decode()}{json.dumps(request)}"
        return _answer(self._ssh(self.target, send.argv("begin"), stdin, self.seconds + LATE))

    def _ask(self, target: Target, arguments: list[str], begun: float) -> _Answer:
        argv = ["python3", "-IS", str(COPY), *arguments]
        return _answer(self._ssh(target, argv, "", max(begun + self.seconds + LATE - time.monotonic(), 3)))

    def _settle(self, target: Target) -> None:
        # On stdin: one argument of a program is 128 KiB at most.
        try:
            said = self._ssh(target, ["sh"], f"exec 2>&1\n{self.change.settle}\necho settled\n", SETTLE)
        except LostError as error:
            self.say(f"kept, but what follows a change did not come to its end: {error}")
        else:
            for line in filter(None, said.splitlines()[:-1]):
                self.say(line)

    def _ssh(self, target: Target, words: list[str], stdin: str, timeout: float) -> str:
        """What a command prints, as root."""
        root = sudo.root(target, self.host)
        command = root.line(*words)
        if target.vantage is not None and target.vantage.name == self.host:
            argv = ["sh", "-c", command]
        else:
            argv = ["ssh", "-F", str(target.ssh_config), self.host, command]
        try:
            done = answers.run(argv, stdin=root.stdin + stdin.encode(errors="surrogateescape"), seconds=timeout)
        except subprocess.TimeoutExpired:
            raise LostError(f"{self.host} did not answer within {timeout:.0f} s") from None
        except FloodError as error:
            raise LostError(f"{self.host}: {error}") from None
        if done.returncode not in (0, 1) or not done.stdout:
            raise LostError(last_words(done.stderr, f"{self.host} gave no answer"))
        return done.stdout.decode(errors="replace")

    def _look(self, fresh: Target, exchange: Shared, passed: list[Flow], begun: float) -> str:
        """What is wrong from outside, in connections made anew; empty if nothing is."""
        probes = ThreadPoolExecutor().submit(self._probe_again, fresh, exchange, passed, begun)
        links = Links(fresh)
        # The way there is as it was: asked by all that change now, it would refuse some of them.
        links.take(self.target.endpoint(self.host).jump)
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

    def _watch(self, exchange: Shared, passed: list[Flow], begun: float) -> tuple[str, float]:
        """Look at it until its soak time is over: what is wrong, empty if nothing is, and since when the timer runs.

        Before each look the timer begins anew: if this ends, or the way is cut, the host undoes the change by itself.
        """
        end = time.monotonic() + self.soak
        self.say(f"made; it is watched for {self.soak:.0f} s before it is confirmed")
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, self.seconds / 4))
            with _new_connection(self.target, self.host) as fresh:
                try:
                    answer = self._ask(fresh, ["extend", self.token], begun)
                except LostError as error:
                    return str(error), begun
                if "error" in answer:
                    return answer["error"], begun
                begun = time.monotonic()
                if why := self._look(fresh, exchange, passed, begun):
                    return why, begun
        return "", begun

    def _probe_again(self, fresh: Target, exchange: Shared, passed: list[Flow], begun: float) -> list[tuple[str, str]]:
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
            with ANEW, closing(_exchange(fresh, unasked)) as anew:
                wrong = _wrong(anew.run(unasked))
        return list(wrong.values())

    def _roll_back(self, fresh: Target, begun: float, why: str) -> bool:
        for target in (self.target, fresh):
            try:
                answer = self._ask(target, ["rollback", self.token, why], begun)
                return self._failed(_rolled_back(answer.get("error", why), answer))
            except LostError:
                continue
        return self._lost(begun, why)

    def _lost(self, begun: float, why: str, *, asked: bool = False) -> bool:
        """Wait for the host's own timer, and tell what became of the change; `asked`: it may be confirmed."""
        self.settled.set()
        end = begun + self.seconds + LATE
        self.say(f"{why}; waiting for {'the host to tell' if asked else 'the host to roll back by itself'}")
        while time.monotonic() < end:
            with _new_connection(self.target, self.host) as fresh:
                try:
                    status = _answer(self._ssh(fresh, ["python3", str(COPY), "status"], "", 6))
                except LostError:
                    status = {}
            undone, last = status.get("last_rollback") or {}, status.get("last") or {}
            if undone.get("token") == self.token:
                return self._failed(_rolled_back(f"by the host itself: {why}", undone))
            if last.get("token") == self.token:
                self.say(f"confirmed: change {last.get('number')}")
                return True
            time.sleep(0.5)
        became = (
            f"it was asked to confirm the change, and did so or undid it: `invoke history {self.host}` tells"
            if asked
            else "its timer undoes the change"
        )
        return self._failed(f"{self.host} can't be reached: {became} ({why})")

    def _failed(self, line: str) -> bool:
        self.say(line)
        return False


def _rolled_back(why: str, answer: _Undone) -> str:
    """What is said of a rollback; what could not be brought back is not kept quiet."""
    return "\n".join([f"ROLLED BACK: {why}", *(f"NOT AS BEFORE: {each}" for each in answer.get("problems") or ())])


def _answer(text: str) -> _Answer:
    try:
        answer: _Answer = answers.parsed(_Answer, text)
    except ShapeError as error:
        raise LostError(f"an answer that makes no sense ({error}): {text[:200]!r}") from None
    return answer


def _probes(target: Target, flows: list[Flow], host: str, change: Change) -> list[Flow]:
    """Of some flows those that the change of a host can break: those of its own, and for the gateway all of them.

    Of many, some of each kind, with few hosts. On the way back to an earlier state only the ways in count: what else
    works there is another plan's business.
    """
    if host != target.plan.gateway.name:
        flows = [flow for flow in flows if host in flow.hosts]
    if change.restore is not None:
        ways_in = {each.login.port for each in (target.plan.gateway, target.plan.jumphost)}
        return [flow for flow in flows if flow.port in ways_in]
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
        yield configured(target, Path(folder), {host: {"ControlPath": f"{folder}/c", "ControlPersist": "5"}})
