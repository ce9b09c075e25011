"""Packets of a host as a pcap on this machine, with a live summary; nothing stays on the host."""

import os
import re
import select
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from underlay.access import answers
from underlay.access.sessions import Links
from underlay.access.ssh_config import CONNECT_SECONDS
from underlay.access.target import Target
from underlay.errors import OperatorError
from underlay.oncall.pcap import Stream, Summary

CTRL_C = "Ctrl-C"
CHATTER = ("listening on", "data link type", "verbose output suppressed", "WARNING")
"""What tcpdump says on stderr although nothing is wrong."""
TOP = 8
"""Conversations that are shown."""
# The packets of the connection that carries the capture are left out, else each would make further ones. tcpdump ends
# after its time, and earlier when the operator's end of the connection goes: then `cat` ends, too. It writes no file,
# and leaves the mode of the NIC as it is (-p). `timeout` makes a process group of the two, which is what is ended: a
# signal that comes at its very beginning ends itself alone.
SCRIPT = """\
nic=$1; seconds=$2; filter=$3; set -- $4
if [ $# = 4 ]; then
    filter="${filter:+($filter) and }not (tcp and host $1 and port $2 and host $3 and port $4)"
fi
command -v tcpdump >/dev/null || { echo "there is no tcpdump" >&2; exit 1; }
exec 3<&0
timeout --kill-after=2 "$seconds" tcpdump -i "$nic" -p -n -U -w - -- ${filter:+"$filter"} </dev/null 3<&- &
job=$!
{ cat <&3; kill -TERM -$job || kill $job; } >/dev/null 2>&1 &
watch=$!
wait $job
code=$?
kill $watch 2>/dev/null
exit $code
"""


class CaptureError(OperatorError):
    """A capture that could not be made; `str()` is one line for a person."""


@dataclass
class Capture:
    """What became of a capture.

    file: where the pcap is; empty if it went to stdout
    dropped: packets that the kernel could not keep; None if the host did not say
    interrupted: why it ended before its time; empty if it did not
    """

    host: str
    nic: str
    file: str
    seconds: float = 0.0
    dropped: int | None = None
    interrupted: str = ""
    summary: Summary = field(default_factory=Summary)

    @property
    def broken(self) -> bool:
        """Whether it ended before its time, and nobody wanted that."""
        return self.interrupted not in ("", CTRL_C)

    def document(self) -> dict[str, Any]:
        """For programs."""
        conversations = [
            {"protocol": key[0], "ends": [key[1], key[2]], "packets": packets, "bytes": size}
            for key, packets, size in self.summary.top(TOP)
        ]
        return {
            **{name: getattr(self, name) for name in ("host", "nic", "file", "seconds", "dropped", "interrupted")},
            "packets": self.summary.packets,
            "bytes": self.summary.bytes,
            "conversations": conversations,
        }


def default_file(host: str) -> Path:
    """`gateway-20261123-043000.pcap`, here."""
    return Path(f"{host}-{datetime.now():%Y%m%d-%H%M%S}.pcap")


def run(
    target: Target, host: str, *, nic: str, filter_: str, seconds: int, output: Path | None, console: Console
) -> Capture:
    """Capture on a host for some seconds; `output` None is stdout. Raises UnreachableError, CaptureError.

    Ctrl-C ends it before its time; what came until then is kept.
    """
    if output is not None and output.exists():
        raise CaptureError(f"{output} is there already: name another file with --output")
    links = Links(target)
    links.open([host])
    links.check(host)
    root = links.root(host)
    script = root.line("sh", "-c", SCRIPT, "capture", nic, seconds, filter_)
    argv = ["sh", "-c", f"{script} ''"]
    if not links.is_local(host):
        # The shell of the host knows the connection; sudo would not pass it on.
        argv = ["ssh", "-F", str(target.ssh_config), host, f'{script} "$SSH_CONNECTION"']
    found = Capture(host, nic, str(output) if output else "")
    with subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for this process: the host shall end it, and say what it dropped
    ) as process:
        try:
            _send(process, root.stdin)
            _take(process, found, output, seconds, console)
        except KeyboardInterrupt:
            found.interrupted = CTRL_C
        finally:
            words = _end(process)
    _judge(found, process.returncode, words)
    return found


def _send(process: subprocess.Popen[bytes], first: bytes) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # then it says why
        process.stdin.write(first)
        process.stdin.flush()


def _take(
    process: subprocess.Popen[bytes], found: Capture, output: Path | None, seconds: int, console: Console
) -> None:
    """Pass on what comes until it ends, or should have."""
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    stream = Stream()
    rates: deque[tuple[float, int, int]] = deque(maxlen=5)
    begin = time.monotonic()
    with ExitStack() as stack:
        file: BinaryIO | None = None
        live: Live | None = None
        while (left := begin + seconds + CONNECT_SECONDS - time.monotonic()) > 0:
            if select.select([descriptor], [], [], min(0.25, left))[0]:
                piece = os.read(descriptor, 1 << 20)
                if not piece:
                    return
                if file is None:
                    # Its header comes as soon as tcpdump listens.
                    begin = time.monotonic()
                    file = stack.enter_context(_open(output))
                    print(f"capturing on {found.nic} of {found.host} for {seconds} s", file=sys.stderr, flush=True)
                    if console.is_terminal:
                        live = stack.enter_context(Live(console=console, auto_refresh=False, transient=True))
                file.write(piece)
                for packet in stream.feed(piece):
                    found.summary.add(packet)
            if file is not None:
                found.seconds = round(time.monotonic() - begin, 1)
            if live is not None and (not rates or time.monotonic() - rates[-1][0] > 0.25):
                rates.append((time.monotonic(), found.summary.packets, found.summary.bytes))
                live.update(Group(_rate(rates), table(found)), refresh=True)
        found.interrupted = "it did not end in time"


def _open(output: Path | None) -> BinaryIO:
    """Only its owner may read what was captured."""
    if output is None:
        return os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    try:
        return os.fdopen(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb", buffering=0)
    except OSError as error:
        raise CaptureError(f"{output} can't be written: {error.strerror}") from error


def _end(process: subprocess.Popen[bytes]) -> list[str]:
    """End it on the host too: that sees that nobody is there any more. What was said on stderr."""
    assert process.stdin is not None
    assert process.stderr is not None
    with suppress(OSError):
        process.stdin.close()
    process.stdin = None
    words, late = answers.rest(process, CONNECT_SECONDS)
    if late:
        process.kill()
        process.wait()
    return [line.strip() for line in words.decode(errors="replace").splitlines() if line.strip()]


def _judge(found: Capture, code: int, words: list[str]) -> None:
    for line in words:
        if match := re.match(r"(\d+) packets? dropped by kernel", line):
            found.dropped = int(match[1])
    if found.interrupted or found.dropped is not None:
        return
    # It ends with a count of what it dropped, unless something went wrong.
    errors = [line for line in words if not any(each in line for each in CHATTER)]
    # Its own words are the first line of an error, what the library adds the next.
    errors.sort(key=lambda line: not line.startswith("tcpdump: "))
    why = next(iter(errors), f"it ended with {code}")
    if not found.seconds:
        raise CaptureError(f"{found.host}: {why}")
    found.interrupted = f"the connection to {found.host} broke: {why}"


def _rate(rates: Sequence[tuple[float, int, int]]) -> Text:
    (then, packets, size), (now, all_packets, all_bytes) = rates[0], rates[-1]
    seconds = max(now - then, 0.01)
    return Text(
        f"{all_packets} packets, {all_bytes} bytes; now {(all_packets - packets) / seconds:.0f} packets/s, "
        f"{(all_bytes - size) / seconds:.0f} bytes/s (Ctrl-C ends it)",
        style="bold",
    )


def table(found: Capture) -> Table:
    """The conversations with the most bytes."""
    rows = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("protocol", "one end", "other end", "packets", "bytes"):
        rows.add_column(column, overflow="fold", justify="right" if column in ("packets", "bytes") else "left")
    for key, packets, size in found.summary.top(TOP):
        rows.add_row(*key, str(packets), str(size))
    return rows


def show(found: Capture, console: Console) -> None:
    """Print what was captured, and where it is."""
    console.print(table(found), highlight=False, markup=False)
    summary = found.summary
    more = len(summary.conversations) - TOP
    seconds = found.seconds or 1
    parts = [
        f"{summary.packets} packets, {summary.bytes} bytes in {found.seconds} s",
        f"{summary.packets / seconds:.0f} packets/s, {summary.bytes / seconds:.0f} bytes/s",
        *([f"{more} more conversations"] if more > 0 else []),
        *([f"{found.dropped} packets dropped by the kernel of {found.host}"] if found.dropped else []),
    ]
    console.print("; ".join(parts), highlight=False, markup=False)
    if found.interrupted:
        console.print(f"ended early: {found.interrupted}", style="yellow", highlight=False, markup=False)
    if found.file:
        console.print(f"in {found.file}", highlight=False, markup=False)
