"""The way to the hosts: one ssh connection each, which every check and every agent of a run shares."""

import json
import os
import resource
import select
import shlex
import subprocess
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from types import ModuleType
from typing import Any, Generic, Literal, NotRequired, TypeVar

from typing_extensions import TypedDict  # as pydantic wants it before Python 3.12

from underlay.access import answers
from underlay.access.answers import FloodError, ShapeError
from underlay.access.ssh_config import CONNECT_SECONDS
from underlay.access.target import Target
from underlay.errors import OperatorError
from underlay.remote import probe, send

AT_ONCE = 10
"""Connections that are opened at the same time: sshd refuses more newcomers, and each costs both ends a bit of work."""
FILES = 65536
ROOT_IF_POSSIBLE = (
    "sh",
    "-c",
    'if [ "$(id -u)" != 0 ] && sudo -n true 2>/dev/null; then exec sudo -n "$@"; fi; exec "$@"',
    "sh",
)
"""Before a command: a workstation's user may have no sudo without a password."""
LOGIN_SECONDS = 15
"""Seconds that a host has to let us in. One that does not even greet has CONNECT_SECONDS, by the ssh config."""
TIMED_OUT = 124
"""The exit code of timeout(1)."""
FEW = 64_000
"""Bytes that a login may say."""

T = TypeVar("T")


class UnreachableError(OperatorError):
    """A host that can't be asked; `str()` says why in one line."""


class RefusedError(UnreachableError):
    """A request that a program on a host could not do: what it said, and the host's error number, if it was one."""

    def __init__(self, name: str, said: str, errno: int | None) -> None:
        super().__init__(f"{name}: {said}")
        self.said = said
        self.errno = errno


class Links:
    """Connections to the hosts of a target, opened on first use and tried once.

    `HOST can't be reached` is remembered: whoever asks later gets the same answer at once.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        _many_files()
        self._pool = ThreadPoolExecutor(AT_ONCE)
        self._opened: dict[str, Future[str | None]] = {}

    def open(self, names: Iterable[str]) -> None:
        """Begin to connect to hosts, those that others are reached through before these; those given up stay so."""
        names = set(names)
        jumps = {self.target.endpoint(name).jump for name in names if not self.is_local(name)} - {""}
        # A host that waits for its jump host holds a thread of the pool: the jump hosts have theirs before.
        for name in (*sorted(jumps), *sorted(names - jumps)):
            if name not in self._opened:
                self._opened[name] = self._pool.submit(self._open, name)

    def take(self, name: str, error: str | None = None) -> None:
        """Take a host for one that is connected, or can't be reached for some reason, without trying."""
        self._opened[name] = Future()
        self._opened[name].set_result(error)

    def error(self, name: str) -> str | None:
        """Wait until a host is connected: why it can't be reached, or None."""
        return self._opened[name].result()

    def is_local(self, name: str) -> bool:
        """Whether this process runs on that host."""
        return self.target.vantage is not None and self.target.vantage.name == name

    def check(self, name: str) -> None:
        """Wait until a host is connected. Raises UnreachableError."""
        if error := self.error(name):
            raise UnreachableError(error)

    def _open(self, name: str) -> str | None:
        if self.is_local(name):
            return None
        endpoint = self.target.endpoint(name)
        if endpoint.jump and self._opened[endpoint.jump].result():
            return f"{name} can't be reached: the jump host {endpoint.jump} in between can't"
        where = f"{name} can't be reached at {endpoint.address}"
        options: list[str] = []
        # A connection that an earlier command left may lead nowhere by now: that is found out soon, or it is dropped.
        if self._ssh(name, [], ["-O", "check"], 1) == "":
            if self._ssh(name, ["true"], [], 2) == "":
                return None
            self._ssh(name, [], ["-O", "exit"], 1)
            options = ["-o", f"ConnectTimeout={CONNECT_SECONDS - 2}"]  # two of its seconds are over
        error = self._ssh(name, ["true"], options, LOGIN_SECONDS)
        return f"{where}: {error}" if error else None

    def _ssh(self, name: str, command: list[str], options: list[str], seconds: float) -> str:
        """The error of a short command, empty if there is none."""
        argv = ["ssh", "-n", "-F", str(self.target.ssh_config), *options, name, *command]
        try:
            done = answers.run(argv, seconds=seconds, most=FEW)
        except subprocess.TimeoutExpired:
            return f"no answer within {seconds:.0f} s"
        except FloodError as error:
            return str(error)
        except OSError as error:
            return f"can't run ssh: {error.strerror}"
        return "" if done.returncode == 0 else last_words(done.stderr, "ssh failed")

    def log_in_anew(self, name: str) -> str:
        """Why a new connection to a host fails, whatever connection there is already; empty if it does not."""
        if self.is_local(name):
            return ""
        return self._ssh(name, ["true"], ["-o", "ControlPath=none"], LOGIN_SECONDS)

    def host(self, name: str) -> Any:
        """testinfra's host, as root. Raises UnreachableError."""
        import testinfra  # noqa: PLC0415 (a guarded change does without it, and waits for each import)

        self.check(name)
        if self.is_local(name):
            return testinfra.get_host("local://", sudo=True)
        return testinfra.get_host(f"ssh://{name}", ssh_config=str(self.target.ssh_config), sudo=True)

    def argv(self, name: str, command: str, options: Iterable[str] = ()) -> list[str]:
        """The program that runs a shell command on a host, as root; `options` are for ssh."""
        root = ["sudo", "-n", "sh", "-c", command]
        if self.is_local(name):
            return root
        return ["ssh", "-F", str(self.target.ssh_config), *options, name, shlex.join(root)]

    def run(
        self, name: str, command: str, *, seconds: float, stdin: bytes = b"", most: int = answers.MOST
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a shell command on a host, as root; after so many seconds it is ended there.

        Its exit code is then 124. Raises UnreachableError, also if the connection breaks meanwhile, or it says more
        than `most` bytes.
        """
        self.check(name)
        argv = self.argv(name, f"exec timeout --kill-after=2 {seconds} sh -c {shlex.quote(command)}")
        try:
            done = answers.run(argv, stdin=stdin, seconds=seconds + CONNECT_SECONDS, most=most)
        except subprocess.TimeoutExpired:
            raise UnreachableError(f"{name} was reached, but gave no answer within {seconds:.0f} s") from None
        except FloodError as error:
            raise UnreachableError(f"{name} was reached, but not read: {error}") from None
        if done.returncode == 255 and not self.is_local(name):
            words = last_words(done.stderr, "ssh says nothing")
            raise UnreachableError(f"{name} was reached, but the connection broke: {words}")
        return done

    def ask(
        self,
        name: str,
        command: str,
        shape: Any,
        *,
        seconds: float,
        stdin: bytes = b"",
        unpack: int = 0,
    ) -> Any:
        """What a shell command says in JSON of this shape (see `answers.parsed`), as root. Raises UnreachableError.

        unpack: bytes at most of what it packed with gzip; 0: it did not
        """
        done = self.run(name, command, seconds=seconds, stdin=stdin)
        if done.returncode or not done.stdout:
            late = done.returncode == TIMED_OUT
            words = f"no answer within {seconds:.0f} s" if late else last_words(done.stderr, "it gave no answer")
            raise UnreachableError(f"{name} was reached, but not read: {words}")
        try:
            return answers.parsed(shape, answers.unpacked(done.stdout, unpack) if unpack else done.stdout)
        except (FloodError, ValueError) as error:
            raise UnreachableError(f"{name} was reached, but not read: {answers.short(error)}") from None

    def agent(self, name: str, seconds: int = probe.DEADLINE, *, root: bool = False) -> "Agent":
        """A new agent on a host, which ends when it was not asked for so long. Raises UnreachableError.

        root: it is root's, where the operator may have that without a password
        """
        argv = send.argv(name, str(seconds))
        if name == self.target.plan.gateway.name:
            argv = ["sudo", "-n", *argv]  # the connection table is root's
        elif root:
            argv = [*ROOT_IF_POSSIBLE, *argv]
        return Agent(name, self.command(name, argv), probe, dict[Literal["port"], int])

    def command(self, name: str, argv: list[str]) -> list[str]:
        """The command here that runs `argv` on a host, as the operator. Raises UnreachableError."""
        self.check(name)
        return self.shell(name, shlex.join(argv))

    def shell(self, name: str, command: str) -> list[str]:
        """The program here that runs a shell command on a host, as the operator; whether it is reached is not asked."""
        if self.is_local(name):
            return ["sh", "-c", command]
        return ["ssh", "-F", str(self.target.ssh_config), name, command]


def _many_files() -> None:
    """Let this process, and the ssh that carries all connections through the jump host, have a few files a host."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = FILES if hard == resource.RLIM_INFINITY else min(hard, FILES)
    if soft != resource.RLIM_INFINITY and soft < enough:
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))


def last_words(said: bytes, otherwise: str) -> str:
    """The last line of what a program said on stderr, fit to be shown."""
    lines = said.decode(errors="replace").strip().splitlines()
    return answers.short(lines[-1]) if lines else otherwise


def _ready(descriptor: int, what: int, deadline: float) -> bool:
    """Wait for a file until then; whether something can be read or written."""
    waiting = select.poll()  # with many hosts there are more files than `select` takes
    waiting.register(descriptor, what)
    left = deadline - time.monotonic()
    return left > 0 and bool(waiting.poll(left * 1000))


class _Reply(TypedDict, Generic[T]):
    """See `remote.serve`."""

    answer: NotRequired[T]
    error: NotRequired[str]
    errno: NotRequired[int | None]


class Agent:
    """A program of ours at work on a host, until it is closed.

    argv: the command here that runs it there, see `send.argv`
    program: `probe`, or another that makes use of `remote.serve`
    hello: what it said first, of this shape
    """

    def __init__(self, name: str, argv: list[str], program: ModuleType = probe, hello: Any = dict[str, Any]) -> None:
        self.name = name
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self._rest = bytearray()
        self._given_up = ""
        self.hello = self._exchange(send.line(program), hello, 10)

    @property
    def port(self) -> int:
        """The port of the probe's listener."""
        return int(self.hello["port"])

    def ask(self, key: str, value: object, shape: Any = Any, seconds: float = 10) -> Any:
        """The answer to a request, see `remote.serve`, of this shape. Raises RefusedError.

        UnreachableError if none comes in time, or another one: it is not asked again then.
        """
        request = json.dumps({key: value}).encode() + b"\n"
        reply: _Reply[Any] = self._exchange(request, _Reply[shape], seconds)
        if "error" in reply:
            raise RefusedError(self.name, answers.short(reply["error"]), reply.get("errno"))
        if "answer" not in reply:
            raise self._lost("it gave no answer")
        return reply["answer"]

    def _lost(self, why: str) -> UnreachableError:
        self._given_up = f"{self.name}: the probe does not work there: {why}"
        return UnreachableError(self._given_up)

    def _exchange(self, request: bytes, shape: Any, seconds: float) -> Any:
        if self._given_up:
            raise UnreachableError(self._given_up)
        deadline = time.monotonic() + seconds
        self._send(request, deadline)
        line = self._line(deadline)
        try:
            return answers.parsed(shape, line)
        except ShapeError as error:
            raise self._lost(self._last_words(line, error)) from None

    def _send(self, request: bytes, deadline: float) -> None:
        assert self._process.stdin is not None
        descriptor, left = self._process.stdin.fileno(), memoryview(request)
        os.set_blocking(descriptor, False)
        # Who does not read gives no answer either; nor does who is gone, and stderr says why.
        with suppress(BrokenPipeError):
            while left and _ready(descriptor, select.POLLOUT, deadline):
                left = left[os.write(descriptor, left[: answers.PIECE]) :]

    def _line(self, deadline: float) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        chunk = bytes(self._rest)
        while b"\n" not in chunk:
            if not _ready(descriptor, select.POLLIN, deadline):
                return b"no answer in time"
            if len(self._rest) > answers.MOST:
                return b"it said more than %d MB" % (answers.MOST // 1_000_000)
            chunk = os.read(descriptor, answers.PIECE)
            if not chunk:
                break
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return bytes(line)

    def _last_words(self, line: bytes, error: ShapeError) -> str:
        assert self._process.stderr is not None
        self._process.kill()
        descriptor, words, end = self._process.stderr.fileno(), b"", time.monotonic() + 1
        # The connection that is shared holds stderr for as long as the program on the host runs.
        while _ready(descriptor, select.POLLIN, end) and (piece := os.read(descriptor, answers.PIECE)):
            words = (words + piece)[-answers.LAST_WORDS :]
        told = line.decode(errors="replace").strip()
        return last_words(
            words, str(error) if told.startswith(("{", "[")) else last_words(line, "it ended without a word")
        )

    def close(self) -> None:
        """End the agent: it goes when its stdin does."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._process.stderr.close()
