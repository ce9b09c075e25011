"""The way to the hosts: one ssh connection each, which every check and every agent of a run shares."""

import json
import os
import re
import resource
import select
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from types import ModuleType
from typing import Any, Generic, Literal, NotRequired, TypeVar

from typing_extensions import TypedDict  # as pydantic wants it before Python 3.12

from underlay.access import answers
from underlay.access.answers import FloodError, ShapeError
from underlay.access.login import key, sudo
from underlay.access.login.sudo import Root
from underlay.access.ssh_config import CONNECT_SECONDS
from underlay.access.target import Target
from underlay.errors import OperatorError
from underlay.remote import Pace, probe, send

AT_ONCE = 16
"""Hosts that are logged in on, or asked something, at the same time, to begin with: each costs both ends some work."""
MOST_AT_ONCE = 64
QUICK = 1.0
"""Seconds in which a host that is not busy lets in, or answers."""
THREADS = 256
CHANCES = 3
"""Hosts that are asked once more at the same time; when so many gave no answer again, no further one is."""
FILES = 65536
ROOT_IF_POSSIBLE = (
    "sh",
    "-c",
    'if [ "$(id -u)" != 0 ] && sudo -n true 2>/dev/null; then exec sudo -n "$@"; fi; exec "$@"',
    "sh",
)
"""Before a command: a workstation's user may have no sudo without a password."""
LOGIN_SECONDS = 8
"""Seconds that a host has to let us in. One that does not even greet has CONNECT_SECONDS, by the ssh config."""
ANSWER = 6
"""Seconds that a program on a host has for an answer, if it needs not wait for others."""
TIMED_OUT = 124
"""The exit code of timeout(1)."""
KILLED = 2
"""Seconds that a command on a host has to end after its time, before it is killed."""
LATE = KILLED + 1
"""Seconds that the answer of a command may come after its time."""
NO_ANSWER = "no answer within {:.0f} s"
NO_PYTHON = "underlay: there is no Python 3.10 or later"
LATE_WORDS = ("no answer within", "banner exchange")
"""Of ssh, about a host that takes the connection and then says nothing: maybe it is busy."""
FEW = 64_000
"""Bytes that a login may say."""
READY = (
    "sh",
    "-c",
    "python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { echo \"$0\" >&2; exit 1; }",
    NO_PYTHON,
)
"""What a host must be able to run, as root, before anything is changed on it."""
TALK = re.compile(
    r"debug\d: |Transferred: |Bytes per second: |Authenticated (?:to|using) |Connection to \S+ port \d+ timed out"
)
"""What ssh says of its own accord where it is asked to tell more: no reason for anything."""

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

    patience: seconds that a host has to let us in
    options: further ones of ssh while it logs in, `-o LogLevel=DEBUG1` say
    ready: a host that can't be changed counts as one that can't be reached: without root, or Python
    said: host → the lines that ssh, sshd and the shell there said when a login failed
    pace: of what hosts are asked
    """

    def __init__(
        self, target: Target, patience: float = LOGIN_SECONDS, options: Sequence[str] = (), *, ready: bool = False
    ) -> None:
        self.target = target
        # Somebody touches a security key: one login after the other.
        self.patience = key.TOUCH_SECONDS if target.touch else patience
        self.options = options
        self.ready = ready
        self._asking = sudo.asking(target).keys()
        self.said: dict[str, list[str]] = {}
        self.pace = Pace(AT_ONCE, MOST_AT_ONCE, QUICK)
        _many_files()
        # Those that wait for their turn, or for a jump host, hold a thread.
        self._pool = ThreadPoolExecutor(min(THREADS, len(target.endpoints) + 2))
        at_once = (1, 1) if target.touch else (AT_ONCE, MOST_AT_ONCE)
        self._logins = Pace(*at_once, quick=self.patience if target.touch else QUICK)
        self._alone = threading.Semaphore(CHANCES)
        self._chances = CHANCES
        self._opened: dict[str, Future[str | None]] = {}

    def open(self, names: Iterable[str]) -> None:
        """Begin to connect to hosts, those that others are reached through before these; those given up stay so."""
        names = set(names)
        for name in sorted((names & self._asking) - self._opened.keys()):
            self.root(name)  # it is asked for now, and not by one of many threads
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
        error = self.once_more(lambda: self._log_in(name), lambda said: any(word in said for word in LATE_WORDS))
        if error:
            return f"{name} can't be reached at {endpoint.address}: {error}"
        return self._not_ready(name) or None

    def _not_ready(self, name: str) -> str:
        """Why nothing can be done as root on a host that is connected; a wrong password is tried once."""
        host = next((each for each in self.target.plan.hosts if each.name == name), None)
        if host is None or not (self.ready or name in self._asking):
            return ""
        root = self.root(name)
        command = shlex.join(["env", "LC_ALL=C", *root.words, *(READY if self.ready else ("true",))])
        # What comes behind a wrong password sudo would take for another one.
        error = self._ssh(name, [command], [], self.patience, root.stdin.removesuffix(sudo.END))
        if NO_PYTHON in error:
            install = shlex.quote(f"{'sudo ' if host.login.sudo else ''}apt-get install -y python3")
            return f"{name}: {error.removeprefix('underlay: ')}: ./inv ssh {name} {install}"
        said = "\n".join(self.said.get(name, []))
        return error and (sudo.refusal(host, said) or f"{name} was reached, and runs nothing as root: {error}")

    def _log_in(self, name: str) -> str:
        options: list[str] = []
        begun, error = self._logins.begin(), "it was not tried"
        try:
            # A connection that an earlier command left may lead nowhere by now: that is found out soon, or dropped.
            there = self._ssh(name, [], ["-O", "check"], 1)
            if there == "":
                if self._ssh(name, ["true"], [], 2) == "":
                    error = ""
                    return error
                self._leave(name)
                options = ["-o", f"ConnectTimeout={CONNECT_SECONDS - 2}"]  # two of its seconds are over
            elif there == NO_ANSWER.format(1):
                self._leave(name)
            error = self._ssh(name, ["true"], [*options, *self.options], self.patience)
            return error
        finally:
            # One that was not in when its time was over was slow; what ssh gave up by itself is another matter.
            self._logins.end(begun, not error or error == NO_ANSWER.format(self.patience))

    def once_more(self, ask: Callable[[], T], late: Callable[[T], bool] = lambda _: False) -> T:
        """What `ask` finds; if that is an error, or too late, where others were late as well: what it finds alone.

        A host that is silent while others are quick is not asked again, and of many only a few are.
        """
        good, result = _tried(ask, late)
        if not good and (self.pace.late or self._logins.late):
            with self._alone:
                if self._chances > 0:
                    good, result = _tried(ask, late)
                    self._chances -= not good
        return result()

    def _ssh(self, name: str, command: list[str], options: list[str], seconds: float, stdin: bytes = b"") -> str:
        """The error of a short command, empty if there is none."""
        nothing = [] if stdin else ["-n"]
        argv = ["ssh", *nothing, "-F", str(self.target.ssh_config), *options, name, *command]
        try:
            done = answers.run(argv, stdin=stdin, seconds=seconds, most=FEW)
        except subprocess.TimeoutExpired as error:
            # How far it got tells a host that is silent from one that lets in and does nothing.
            said = (error.stderr or b"").decode(errors="replace").splitlines()
            self.said[name] = [*filter(None, map(str.strip, said)), NO_ANSWER.format(seconds)]
            return NO_ANSWER.format(seconds)
        except FloodError as error:
            return str(error)
        except OSError as error:
            return f"can't run ssh: {error.strerror}"
        if done.returncode == 0:
            return ""
        # A shell that lets nobody in says so on stdout, after all that greets people.
        last = done.stdout.strip().splitlines()[-1:]
        said = b"\n".join([done.stderr, *last]).decode(errors="replace").splitlines()
        self.said[name] = [line.strip() for line in said if line.strip()]
        plain = [line for line in self.said[name] if not TALK.match(line)]
        # What kept a key from being used is told before its refusal.
        why = next((line for line in plain if "signing failed" in line), plain[-1] if plain else "ssh failed")
        return answers.short(why)

    def _leave(self, name: str) -> None:
        """Let nobody take the connection that is shared any more, also if the process that has it hangs."""
        if self._ssh(name, [], ["-O", "exit"], 1) == NO_ANSWER.format(1):
            argv = ["ssh", "-G", "-F", str(self.target.ssh_config), name]
            with suppress(OSError, subprocess.TimeoutExpired, FloodError, StopIteration):
                lines = answers.run(argv, seconds=1, most=FEW).stdout.decode().splitlines()
                os.unlink(next(line.split(" ", 1)[1] for line in lines if line.startswith("controlpath ")))

    def log_in_anew(self, name: str) -> str:
        """Why a new connection to a host fails, whatever connection there is already; empty if it does not."""
        if self.is_local(name):
            return ""
        return self._ssh(name, ["true"], ["-o", "ControlPath=none"], self.patience)

    def root(self, name: str) -> Root:
        """How a command becomes root's on a host."""
        return sudo.root(self.target, name)

    def root_if_possible(self, name: str) -> Root:
        """The same, where the account may have no right to it: a workstation's, say."""
        if name in self._asking:
            return self.root(name)
        return Root(ROOT_IF_POSSIBLE)

    def run(
        self, name: str, command: str, *, seconds: float, stdin: bytes = b"", most: int = answers.MOST
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a shell command on a host, as root; after so many seconds it is ended there.

        Its exit code is then 124, and its output what came until then. Raises UnreachableError, also if the connection
        breaks meanwhile, or it says more than `most` bytes.
        """
        self.check(name)
        root = self.root(name)
        line = f"exec timeout --kill-after={KILLED} {seconds} sh -c {shlex.quote(command)}"
        argv = self.shell(name, root.line("sh", "-c", line))
        begun, told = self.pace.begin(), False
        try:
            done = answers.run(argv, stdin=root.stdin + stdin, seconds=seconds + LATE, most=most)
            told = True
        except subprocess.TimeoutExpired as error:
            told = True
            # What can't be killed there holds the connection; all else may have been said.
            done = subprocess.CompletedProcess(argv, TIMED_OUT, error.output, error.stderr)
        except FloodError as error:
            raise UnreachableError(f"{name} was reached, but not read: {error}") from None
        finally:
            self.pace.end(begun, told)
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
        late = done.returncode == TIMED_OUT
        if (done.returncode and not late) or not done.stdout:
            words = NO_ANSWER.format(seconds) if late else last_words(done.stderr, "it gave no answer")
            raise UnreachableError(f"{name} was reached, but not read: {words}")
        try:
            return answers.parsed(shape, answers.unpacked(done.stdout, unpack) if unpack else done.stdout)
        except (FloodError, ValueError) as error:
            words = NO_ANSWER.format(seconds) if late else answers.short(error)
            raise UnreachableError(f"{name} was reached, but not read: {words}") from None

    def agent(self, name: str, seconds: int = probe.DEADLINE, *, root: bool = False) -> "Agent":
        """A new agent on a host, which ends when it was not asked for so long. Raises UnreachableError.

        root: it is root's, where the operator may have that without a password
        """
        before = Root(())
        if name == self.target.plan.gateway.name:
            before = self.root(name)  # the connection table is root's
        elif root:
            before = self.root_if_possible(name)
        command = self.command(name, [*before.words, *send.argv(name, str(seconds))])
        with self.pace.turn():
            return Agent(name, command, probe, dict[Literal["port"], int], before.stdin)

    def command(self, name: str, argv: list[str]) -> list[str]:
        """The command here that runs `argv` on a host, as the operator. Raises UnreachableError."""
        self.check(name)
        return self.shell(name, shlex.join(argv))

    def shell(self, name: str, command: str) -> list[str]:
        """The program here that runs a shell command on a host, as the operator; whether it is reached is not asked."""
        if self.is_local(name):
            return ["sh", "-c", command]
        return ["ssh", "-F", str(self.target.ssh_config), name, command]


def _tried(ask: Callable[[], T], late: Callable[[T], bool]) -> tuple[bool, Callable[[], T]]:
    """Whether it went well, and what gives or raises what it came to."""

    def failed(error: UnreachableError) -> T:
        raise error

    try:
        found = ask()
    except UnreachableError as error:
        return False, partial(failed, error)
    return not late(found), lambda: found


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
    before: what goes before the program on its stdin (see `Root`)
    """

    def __init__(
        self,
        name: str,
        argv: list[str],
        program: ModuleType = probe,
        hello: Any = dict[str, Any],
        before: bytes = b"",
    ) -> None:
        self.name = name
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self._rest = bytearray()
        self._given_up = ""
        self.hello = self._exchange(before + send.line(program), hello, ANSWER)

    @property
    def port(self) -> int:
        """The port of the probe's listener."""
        return int(self.hello["port"])

    def ask(self, key: str, value: object, shape: Any = Any, seconds: float = ANSWER) -> Any:
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

    @property
    def lost(self) -> bool:
        """Whether it gave no answer once: it is not asked again."""
        return bool(self._given_up)

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
