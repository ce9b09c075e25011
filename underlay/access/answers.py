"""What hosts say is taken with limits: so much of it, for so long, and only in the shape that was asked for.

A host may be broken, or somebody else's by now: then that one was not read, and all others are.
"""

import os
import selectors
import subprocess
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import IO, Annotated, Any, cast

from netaddr import INET_PTON, valid_ipv4
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from underlay.errors import OperatorError
from underlay.text import one_line

MOST = 16_000_000
"""Bytes of one answer; the largest of a site with a thousand hosts has a tenth of them."""
LAST_WORDS = 64_000
"""Bytes of what is said on stderr that are kept: the last ones say why."""
PIECE = 65536
SHOWN = 500
"""Characters of a reason that are shown."""


def _ipv4(text: str) -> str:
    if not valid_ipv4(text, INET_PTON):
        raise ValueError("not an IPv4 address")
    return text


IPv4 = Annotated[str, AfterValidator(_ipv4)]
"""An address, as text."""
Finite = Annotated[float, Field(allow_inf_nan=False)]
"""A number that one can count with."""


class UnreadableError(OperatorError):
    """A part of a host's state that could not be read; `str()` says which and why."""


class ShapeError(ValueError):
    """Text that is not what was asked for; `str()` says where, in one line."""


class FloodError(Exception):
    """More was said than anybody asked for; `str()` is one line."""


def parsed(shape: Any, text: str | bytes) -> Any:
    """JSON of this shape: a type, as pydantic takes them; nothing is taken for another type. Raises ShapeError.

    Text is text: no half of a character, no byte that is no UTF-8; nesting and numbers have limits. An object of a
    dataclass or a TypedDict may have more keys than these; of two equal ones the last counts.
    """
    try:
        return _adapter(shape).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ShapeError(short(f"{where}: {first['msg']}" if where else first["msg"])) from None


@cache
def _adapter(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)


def short(text: object) -> str:
    """As one line that can be shown, and is not too long for that."""
    line = one_line(str(text)[: SHOWN + 1])
    return line if len(line) <= SHOWN else f"{line[:SHOWN]}…"


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Whatever a reader makes of what a host said, it is `WHAT can't be read: …` (UnreadableError)."""
    try:
        yield
    except OperatorError:
        raise
    except Exception as error:  # all that text can do to code is some exception, and only this host is to be left out
        # What has no words of its own says little without its name.
        why = short(repr(error) if isinstance(error, LookupError) or not str(error) else error)
        raise UnreadableError(f"{what} can't be read: {why}") from error


def unpacked(content: bytes, most: int) -> bytes:
    """What gzip packed, if it is no more than that. Raises FloodError; ValueError for anything else."""
    try:
        unpacking = zlib.decompressobj(wbits=31)
        found = unpacking.decompress(content, most + 1)
    except zlib.error as error:
        raise ValueError(f"it is not packed: {error}") from None
    if len(found) > most:
        raise FloodError(f"unpacked it is more than {_size(most)}")
    if not unpacking.eof:
        raise ValueError("it was cut off")
    return found


def run(
    argv: Sequence[str], *, stdin: bytes = b"", seconds: float, most: int = MOST
) -> subprocess.CompletedProcess[bytes]:
    """Run a program that speaks for a host: ssh, say. Of stderr the end is kept.

    Raises subprocess.TimeoutExpired after so many seconds, with what came until then; FloodError after so many bytes;
    OSError. Its end is not waited for then: a connection that is shared holds the pipes while the command runs.
    """
    end = time.monotonic() + seconds
    pipe = subprocess.PIPE
    process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe)
    output, errors = bytearray(), bytearray()
    try:
        _talk(process, stdin, end, most, output, errors)
        code = process.wait(max(end - time.monotonic(), 0))
    except (TimeoutError, subprocess.TimeoutExpired):
        raise subprocess.TimeoutExpired(argv, seconds, bytes(output), bytes(errors)) from None
    finally:
        process.kill()
        process.wait()
        for each in (process.stdin, process.stdout, process.stderr):
            cast(IO[bytes], each).close()
    return subprocess.CompletedProcess(argv, code, bytes(output), bytes(errors))


def rest(process: subprocess.Popen[bytes], seconds: float) -> tuple[bytes, bool]:
    """The last of what a program says on stderr until it ends, and whether it is late; its output is thrown away."""
    assert process.stdout is not None
    assert process.stderr is not None
    words, end = b"", time.monotonic() + seconds
    with selectors.DefaultSelector() as waiting:
        for each in (process.stdout, process.stderr):
            waiting.register(each, selectors.EVENT_READ)
        while waiting.get_map() and time.monotonic() < end:
            for key, _ in waiting.select(max(end - time.monotonic(), 0)):
                piece = os.read(key.fd, PIECE)
                if not piece:
                    waiting.unregister(key.fileobj)
                elif key.fileobj is process.stderr:
                    words = (words + piece)[-LAST_WORDS:]
    try:
        process.wait(max(end - time.monotonic(), 0))
    except subprocess.TimeoutExpired:
        return words, True
    return words, False


def _talk(
    process: subprocess.Popen[bytes], stdin: bytes, end: float, most: int, output: bytearray, errors: bytearray
) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    said = {process.stdout: output, process.stderr: errors}
    left, count = memoryview(stdin), 0
    os.set_blocking(process.stdin.fileno(), False)
    with selectors.DefaultSelector() as waiting:
        waiting.register(process.stdin, selectors.EVENT_WRITE)
        for each in said:
            waiting.register(each, selectors.EVENT_READ)
        while waiting.get_map():
            events = waiting.select(max(end - time.monotonic(), 0))
            if time.monotonic() >= end:
                raise TimeoutError
            for key, _ in events:
                stream = cast(IO[bytes], key.fileobj)
                if stream is process.stdin:
                    try:
                        left = left[os.write(key.fd, left[:PIECE]) :]
                    except BrokenPipeError:  # what it says tells why
                        left = left[:0]
                    if not left:
                        waiting.unregister(stream)
                        with suppress(BrokenPipeError):
                            stream.close()
                    continue
                piece = os.read(key.fd, PIECE)
                if not piece:
                    waiting.unregister(stream)
                said[stream] += piece
                count += len(piece)
                if count > most:
                    raise FloodError(f"it said more than {_size(most)}")
                if stream is process.stderr:
                    del said[stream][:-LAST_WORDS]


def _size(number: int) -> str:
    return f"{number / 1e6:.0f} MB"
