"""The change that waits for its confirmation, what became of the last one, and those that were confirmed."""

import fcntl
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from underlay.remote.guard import paths
from underlay.remote.guard.files import load, move, put_files, save, write
from underlay.remote.guard.live import State
from underlay.remote.guard.programs import Refused
from underlay.remote.guard.snapshot import restore
from underlay.remote.rules.kernel import Tables, read_tables
from underlay.remote.rules.undo import lost, with_edits

KEPT = 50
"""Confirmed changes in the history."""
MARGIN = 10
"""Seconds after its deadline when a pending change that nobody undid is stale."""
PATIENCE = 10
"""Seconds to wait for another run of this program."""


@contextmanager
def mutex(when_held: Callable[[], None] | None = None) -> Iterator[None]:
    """Keep every other run of this program from moving the pending change.

    `when_held` is called as long as another run has it, which then is waited for without end.
    """
    deadline = time.monotonic() + PATIENCE
    with paths.MUTEX.open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if when_held:
                    when_held()
                elif time.monotonic() > deadline:
                    raise Refused("another run of the guard is busy on this host: try again") from None
            time.sleep(0.02)
        yield


def clock() -> float:
    """Seconds since the host was started, whatever somebody does to its clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Differs from boot to boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def wall(after: float = 0) -> str:
    """The time of day, for people."""
    return (datetime.now(timezone.utc) + timedelta(seconds=after)).isoformat(timespec="seconds")  # noqa: UP017


def times(seconds: float) -> dict[str, Any]:
    """When a change that begins now ends: for people, and for `late`."""
    told = {"since": wall(), "deadline": wall(seconds), "seconds": seconds}
    return {**told, "expires": clock() + seconds, "boot": boot_id()}


def late(meta: dict[str, Any]) -> bool:
    """Whether a pending change should have been undone by now."""
    return bool(meta["boot"] != boot_id() or clock() > meta["expires"] + MARGIN)


def pending(token: str | None = None) -> dict[str, Any] | None:
    """The change that waits for its confirmation, if there is one (with this token)."""
    meta: dict[str, Any] | None = load(paths.PENDING / "meta.json")
    return meta if meta and token in (None, meta["token"]) else None


def outcome(token: str | None = None) -> dict[str, Any] | None:
    """The last change that was undone, and why, if it was the one with this token."""
    meta: dict[str, Any] | None = load(paths.UNDONE / "outcome.json")
    return meta if meta and token in (None, meta["token"]) else None


def public(meta: dict[str, Any]) -> dict[str, Any]:
    """What of a change is told."""
    return {key: meta[key] for key in ("token", "who", "commit", "what", "since", "deadline", "seconds", "restore")}


def describe() -> dict[str, Any] | None:
    """The pending change as it is told, with its phase: armed, applying or applied."""
    meta = pending()
    if meta is None:
        return None
    phase = next((name for name in ("applied", "applying") if (paths.PENDING / name).exists()), "armed")
    return {**public(meta), "phase": phase, "left": round(max(0.0, meta["expires"] - clock()), 1)}


def mark(name: str) -> None:
    """Remember, durably, how far the pending change is."""
    write(paths.PENDING / name, b"")


def tables_after(change: dict[str, Any], meta: dict[str, Any]) -> Tables:
    """The iptables tables as a change has left them; without commands its own rules are all that it can have edited,
    whatever others do meanwhile."""
    if change.get("live") or change["past"]:
        return read_tables()
    return with_edits(load(paths.PENDING / "before.json.gz")["tables"], meta["ours"])


def undo(meta: dict[str, Any], why: str, live: bool = True) -> None:
    """Bring everything back to what it was and let go of the pending change. The mutex is held.

    live: False at boot: what was live is gone.
    """
    (paths.PENDING / "reserve").unlink(missing_ok=True)
    problems: list[str] = []
    if (paths.PENDING / "applying").exists():
        before = load(paths.PENDING / "before.json.gz")
        if live:
            after = load(paths.PENDING / "after.json.gz")
            # One that did not come to its end has made what there is now.
            found = after["tables"] if after else tables_after(load(paths.PENDING / "change.json.gz"), meta)
            tables, native = before["tables"], before.get("native", {})
            before["tables"] = [(tables, found, meta["ours"], native)]
            problems = restore(before, meta["changed"]) + lost(read_tables(), tables, native)
        else:
            problems = put_files(before)
    save(paths.PENDING / "outcome.json", {**public(meta), "why": why, "time": wall(), "problems": problems})
    if paths.UNDONE.exists():
        shutil.rmtree(paths.UNDONE)
    move(paths.PENDING, paths.UNDONE)


def numbers() -> list[int]:
    """The confirmed changes, the oldest first."""
    return sorted(int(path.parent.name) for path in paths.HISTORY.glob("*/entry.json"))


def entry(number: int) -> dict[str, Any]:
    """A confirmed change. Refused if it is not kept."""
    meta: dict[str, Any] | None = load(paths.HISTORY / str(number) / "entry.json")
    if meta is None:
        kept = numbers()
        raise Refused(f"no confirmed change {number} here: there are {f'{kept[0]} to {kept[-1]}' if kept else 'none'}")
    return meta


def state_before(number: int) -> State:
    """The state before a confirmed change. Of files and sysctls that only later changes touched, it is the earliest; of
    the iptables tables it is the changes since then."""
    entry(number)
    state: State = {}
    tables = []
    for later in (each for each in reversed(numbers()) if each >= number):
        found: State = load(paths.HISTORY / str(later) / "before.json.gz")
        after = load(paths.HISTORY / str(later) / "after.json.gz")
        if after is None:
            raise Refused(f"change {later} was kept by an earlier version: there is no way back over it")
        tables.append((found["tables"], after["tables"], after["ours"], found.get("native", {})))
        joined = {key: {**state.get(key, {}), **found.get(key, {})} for key in ("files", "sysctls", "masters")}
        folders = [*found["folders"], *(each for each in state.get("folders", []) if each not in found["folders"])]
        state = {**found, **joined, "folders": sorted(folders, key=len, reverse=True)}
    return {**state, "tables": tables}


def tidy(folder: Path) -> None:
    """Leave of the last change what the history needs, and of the oldest ones nothing."""
    shutil.rmtree(folder / "stage", ignore_errors=True)
    for name in ("change.json.gz", "meta.json", "applying", "applied", "why"):
        (folder / name).unlink(missing_ok=True)
    kept = {str(number) for number in numbers()[-KEPT:]}
    for old in paths.HISTORY.iterdir():
        if old.name not in kept:
            shutil.rmtree(old, ignore_errors=True)
