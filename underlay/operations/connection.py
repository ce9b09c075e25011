"""pyinfra's way to the hosts: the one ssh connection to each that all commands of ours share.

pyinfra's own opens a connection for each host and one more to the jump host for each of them, all at once, and speaks
ssh in one thread of Python.
"""

import shlex
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from io import IOBase
from typing import Any, NamedTuple

from pyinfra.api import Host, QuoteString, StringCommand, inventory
from pyinfra.api.connectors import get_execution_connectors
from pyinfra.api.exceptions import ConnectError
from pyinfra.api.facts import FactBase
from pyinfra.api.output import echo
from pyinfra.api.util import get_file_io
from pyinfra.connectors.base import BaseConnector
from pyinfra.connectors.util import (
    CommandOutput,
    OutputLine,
    extract_control_arguments,
    make_unix_command_for_host,
)

from underlay.access.sessions import UnreachableError
from underlay.access.target import Target, current
from underlay.errors import OperatorError
from underlay.guard import runner

AHEAD = 10
"""Seconds of a fact that is read ahead and does not say how long it may take."""
SECONDS = 25
"""A command has so long that does not say how long it may take: a silent connection must not hang a deploy."""
LONGEST = 100_000
"""Characters of a command that can be an argument of a program: Linux takes 128 KiB for each."""
FRESH = 60
"""Seconds that what was read ahead is good for."""

_READ = "underlay: read ahead"
_COLLECTED = "underlay: to read ahead"

Fact = tuple[type[FactBase[Any]], dict[str, Any]]
"""A fact and its arguments."""


class Done(NamedTuple):
    """What became of a command."""

    code: int
    output: bytes
    errors: bytes


def install(target: Target, hosts: Iterable[str]) -> None:
    """Let pyinfra reach the hosts of an inventory in this way: it takes connectors from installed packages only.

    hosts: connected to while pyinfra starts
    """
    runner.worker(target).open(hosts)
    inventory.get_execution_connectors = lambda: {**get_execution_connectors(), "ssh": Connector}  # type: ignore[no-untyped-call]


class Connector(BaseConnector):
    """The connection to one host of the plan."""

    handles_execution = True

    @staticmethod
    def make_names_data(name: str) -> Any:
        """As pyinfra wants it; names of the inventory come without `@ssh/`."""
        yield name, {}, []

    def connect(self) -> None:
        """Connect, through the jump host's one connection. Raises ConnectError."""
        try:
            error = runner.worker(current()).connect(self.host.name)
        except OperatorError as lost:
            error = str(lost)
        if error:
            raise ConnectError(error)

    def run_shell_command(
        self, command: StringCommand | str, print_output: bool = False, print_input: bool = False, **arguments: Any
    ) -> tuple[bool, CommandOutput]:
        """Run a command; whether it succeeded, and what it printed. Raises OSError."""
        control = extract_control_arguments(arguments)  # type: ignore[arg-type] # a TypedDict of them
        stdin, seconds = _bytes(control.get("_stdin")), control.get("_timeout") or SECONDS
        kept = self.host.connector_data
        command = StringCommand(command)  # a fact's may be text
        text = self._unix(command, arguments)
        if _COLLECTED in kept:
            kept[_COLLECTED][text] = (command, arguments, control.get("_timeout") or AHEAD)
            return True, CommandOutput([])
        known, read_at = kept.get(_READ, ({}, 0))
        if not stdin and text in known and time.monotonic() < read_at + FRESH:
            return True, CommandOutput([OutputLine("stdout", line) for line in known[text]])
        forget(self.host)
        if print_input:
            echo(f"{self.host.print_prefix}>>> {command}", err=True)
        if len(text) > LONGEST and not stdin:
            # All of it is read before its first command is run, which could take stdin for its own.
            stdin = b"{\n%s\n} </dev/null\n" % command.get_raw_value().encode()
            text = self._unix(StringCommand("sh"), arguments)
        done = self._run(text, stdin, seconds)
        lines = [
            OutputLine(name, line)
            for name, output in (("stdout", done.output), ("stderr", done.errors))
            for line in _lines(output.decode(errors="replace"))
        ]
        if print_output:
            for line in lines:
                echo(f"{self.host.print_prefix}{line.line}", err=True)
        return done.code in (control.get("_success_exit_codes") or [0]), CommandOutput(lines)

    def put_file(
        self,
        filename_or_io: str | IOBase,
        remote_filename: str,
        remote_temp_filename: str | None = None,  # noqa: ARG002 (its name can be guessed, and it is in /tmp)
        print_output: bool = False,  # noqa: ARG002
        print_input: bool = False,  # noqa: ARG002
        **arguments: Any,
    ) -> bool:
        """Write a file, all of it or nothing: a connection that breaks ends what is sent as its end would.

        Whoever can write in its folder, too, can neither read it nor have another one written: it is made under a name
        that nobody knows, for its owner only, and takes the place of what is there, a link, say.
        """
        with get_file_io(filename_or_io) as file:  # type: ignore[arg-type]
            content = file.read()
        forget(self.host)
        there = shlex.quote(remote_filename)
        command = (
            f"new=$(mktemp {there}.XXXXXXXXXX) || exit 1; trap 'rm -f \"$new\"' EXIT; "
            f'cat > "$new" && [ "$(wc -c < "$new")" = {len(content)} ] && mv -fT "$new" {there}'
        )
        seconds = extract_control_arguments(arguments).get("_timeout") or SECONDS  # type: ignore[arg-type]
        return self._run(self._unix(StringCommand(command), arguments), content, seconds).code == 0

    def get_file(
        self,
        remote_filename: str,
        filename_or_io: str | IOBase,
        remote_temp_filename: str | None = None,  # noqa: ARG002
        print_output: bool = False,  # noqa: ARG002
        print_input: bool = False,  # noqa: ARG002
        **arguments: Any,
    ) -> bool:
        """Read a file."""
        seconds = extract_control_arguments(arguments).get("_timeout") or SECONDS  # type: ignore[arg-type]
        command = StringCommand("cat", QuoteString(remote_filename))
        done = self._run(self._unix(command, arguments), b"", seconds)
        if done.code == 0:
            with get_file_io(filename_or_io, "wb") as file:  # type: ignore[arg-type]
                file.write(done.output)
        return done.code == 0

    def read_ahead(self, wanted: Iterable[Fact], seconds: float) -> None:
        """Read facts in one round trip: who asks for one of them before anything else is done here has it at once."""
        kept = self.host.connector_data
        collected = kept[_COLLECTED] = {}
        try:
            for fact, arguments in wanted:
                self.host.get_fact(fact, **arguments)
        finally:
            del kept[_COLLECTED]
        arguments = next(iter(collected.values()))[1]
        # No output can be taken for the end of its own: nobody knows the word beforehand.
        end = uuid.uuid4().hex
        # What can't be ended there keeps its pipe open: it is not waited for, and the others will be the same.
        script = "".join(
            f"{{ timeout -k 2 {limit} sh -c {shlex.quote(command.get_raw_value())} 2>/dev/null </dev/null\n"
            f"printf '\\n{end} %s\\n' $?; }} | timeout {limit + 3} cat || exit 0\n"
            for command, _, limit in collected.values()
        )
        left = self._run(self._unix(StringCommand(script), arguments), b"", seconds).output.decode(errors="replace")
        good: dict[str, list[str]] = {}
        for text in collected:
            output, _, left = left.partition(f"\n{end} ")
            code, _, left = left.partition("\n")
            # One that failed is asked again by itself, and says why.
            if code == "0":
                good[text] = _lines(output)
        kept[_READ] = (good, time.monotonic())

    def _unix(self, command: StringCommand, arguments: Any) -> str:
        return make_unix_command_for_host(self.state, self.host, command, **arguments).get_raw_value()

    def _run(self, text: str, stdin: bytes, seconds: float) -> Done:
        try:
            return Done(*runner.worker(current()).shell(self.host.name, text, stdin, seconds))
        except TimeoutError:
            raise OSError(f"no answer within {seconds:.0f} s") from None
        except UnreachableError as error:
            raise OSError(str(error)) from None


def read_ahead(host: Host, wanted: Iterable[Fact], seconds: float = SECONDS) -> None:
    """See `Connector.read_ahead`; nothing for hosts that are reached in another way.

    seconds: what all of it may take
    """
    if isinstance(host.connector, Connector):
        with suppress(OSError):  # each of them is asked by itself then, and says why
            host.connector.read_ahead(wanted, seconds)


def forget(host: Host) -> None:
    """What was read ahead may not be so any more."""
    host.connector_data.pop(_READ, None)


def _lines(output: str) -> list[str]:
    return output.removesuffix("\n").split("\n") if output else []


def _bytes(stdin: Any) -> bytes:
    """pyinfra's `_stdin`: text, or lines of it."""
    lines = [] if stdin is None else [stdin] if isinstance(stdin, str) else [*stdin]
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines).encode()
