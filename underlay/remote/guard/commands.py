"""The commands of the guard: each returns its answer, or is refused."""

import base64
import gzip
import os
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from underlay.compare.tables import RulesetError, read
from underlay.remote.guard import paths
from underlay.remote.guard.files import load, move, save, sync, wanted_files, write, write_file
from underlay.remote.guard.live import State
from underlay.remote.guard.pending import (
    clock,
    describe,
    entry,
    late,
    mark,
    mutex,
    numbers,
    outcome,
    pending,
    public,
    state_before,
    tables_after,
    tidy,
    times,
    undo,
    wall,
)
from underlay.remote.guard.programs import Refused, run, shell
from underlay.remote.guard.snapshot import difference, restore, snapshot, wait_quiet
from underlay.remote.guard.systemd import APPLY, TIMER, arm, disarm, install, service, timer_lives
from underlay.remote.rules.kernel import native_rules
from underlay.remote.rules.place import put
from underlay.remote.rules.undo import ours

SERVICES = ("ssh.service", "ssh.socket", "systemd-networkd.service", "nginx.service")
"""Those that run at `begin` run again after a rollback."""
LONGEST = 3600
"""Seconds that a change may wait for its confirmation at most."""


def begin(request: dict[str, Any]) -> dict[str, Any]:
    """Snapshot, arm, change. The answer comes when the change waits for its confirmation."""
    token, seconds = request["token"], float(request["seconds"])
    if not re.fullmatch(r"[\w-]{1,64}", token) or not 0 < seconds <= LONGEST:
        raise Refused(f"a request needs a token of letters and digits, and 1 to {LONGEST} seconds")
    if outcome(token) or any(entry(number)["token"] == token for number in numbers()):
        raise Refused("this token was used before")
    if not shutil.which("systemd-run"):
        raise Refused("this host has no systemd-run: nothing could roll back, so nothing was changed")
    paths.HISTORY.mkdir(parents=True, exist_ok=True)
    paths.GUARD.chmod(0o700)
    free()
    with mutex():
        if found := describe():
            raise held(found)
        try:
            prepare(request, token, seconds)
            move(paths.NEXT, paths.PENDING)
        except BaseException:
            disarm()
            shutil.rmtree(paths.NEXT, ignore_errors=True)
            raise
    start(token)
    deadline = time.monotonic() + seconds + 60
    while (meta := pending(token)) and time.monotonic() < deadline:
        if (paths.PENDING / "applied").exists():
            return {"state": "pending", **public(meta)}
        time.sleep(0.1)  # `apply` was killed, so the timer is at work
    undone = outcome(token)
    raise Refused(f"the change was rolled back: {undone['why'] if undone else 'unknown'}", last_rollback=undone)


def start(token: str) -> None:
    """Have systemd run `apply`, to its end."""
    for _ in range(20):
        try:
            service(APPLY, "apply", token, wait=True)
            return
        except Refused as error:
            found = describe()
            if not found or found["token"] != token or found["phase"] != "armed":
                return  # it ran, and failed
            why = str(error)
            time.sleep(0.1)  # the unit of the last change keeps its name for a moment
    rollback(token, f"systemd did not run it: {why}")


def free() -> None:
    """Refused, with who and since when, if a change is pending; one that nobody will undo any more is undone first."""
    found, meta = describe(), pending()
    if found is None or meta is None:
        return
    if not late(meta) or timer_lives():
        raise held(found)
    rollback(meta["token"], "its time was over and nobody had undone it")


def held(found: dict[str, Any]) -> Refused:
    """Why not now."""
    when = f"since {found['since']}, undone at {found['deadline']} unless confirmed"
    return Refused(f"a change of {found['who']} is pending on this host {when}", pending=found)


def prepare(request: dict[str, Any], token: str, seconds: float) -> None:
    """Everything that can go wrong before anything changes: all that a rollback needs is on disk, the timer armed."""
    shutil.rmtree(paths.NEXT, ignore_errors=True)
    paths.NEXT.mkdir()
    change = request["change"]
    number = change.get("restore")
    past = state_before(number) if number else None
    files = {**change.get("files", {}), **(past["files"] if past else {})}
    sysctls = [*request.get("sysctls", []), *(past["sysctls"] if past else [])]
    services = [*SERVICES, *request.get("services", [])]
    links = [*request.get("links", []), *(past.get("masters", ()) if past else ())]
    before = snapshot([*files, *request.get("touches", [])], sysctls, services, links)
    # Only commands of others' making can take a rule of others away.
    before["native"] = native_rules() if change.get("live") else {}
    wanted = past["files"] if past else wanted_files(files, before["files"])
    changed = [path for path in before["files"] if path not in wanted or wanted[path] != before["files"][path]]
    stage = paths.NEXT / "stage"
    for path, file in wanted.items():
        if file and "content" in file:
            staged = stage / path.lstrip("/")
            staged.parent.mkdir(parents=True, exist_ok=True)
            write(staged, base64.b64decode(file["content"]))
    if change.get("check"):
        shell(change["check"], "the check of the new files", STAGE=str(stage))
    save(paths.NEXT / "before.json.gz", before)
    save(paths.NEXT / "change.json.gz", {**change, "files": wanted, "past": past})
    # Room for the way back: files, their outcome, an entry of the history.
    with (paths.NEXT / "reserve").open("wb") as reserve:
        os.posix_fallocate(reserve.fileno(), 0, 2**20 + sum(len(str(file)) for file in before["files"].values()))
    install()
    arm(token, seconds)
    known = {key: request[key] for key in ("token", "who", "commit", "what")}
    known |= {"changed": changed, "restore": number, "ours": own_rules(change, past)}
    save(paths.NEXT / "meta.json", {**known, **times(seconds)})


def own_rules(change: dict[str, Any], past: State | None) -> dict[str, dict[str, list[str]]]:
    """Table → chain → the rules that a change edits, as far as it says so."""
    found = ours(change.get("rules", ""))
    for _, _, each, _ in past["tables"] if past else ():
        for table, chains in each.items():
            for chain, specs in chains.items():
                there = found.setdefault(table, {}).setdefault(chain, [])
                there += (spec for spec in specs if spec not in there)
    return found


def apply(token: str) -> dict[str, Any]:
    """Make the pending change. What fails is undone at once."""
    with mutex():
        meta = pending(token)
        if meta is None:
            raise Refused("the change is not pending any more")
        change = load(paths.PENDING / "change.json.gz")
        mark("applying")
        try:
            make(change, meta)
            wait_quiet(meta["seconds"] / 4)
            save(paths.PENDING / "after.json.gz", {"tables": tables_after(change, meta), "ours": meta["ours"]})
        except (Refused, RulesetError, OSError) as error:
            undo(meta, str(error))
            disarm("timer")
            raise
        mark("applied")
    return {"state": "applied"}


def make(change: dict[str, Any], meta: dict[str, Any]) -> None:
    """The change itself."""
    if change["past"]:
        if problems := restore(change["past"], meta["changed"]):
            raise Refused(f"the host can't be what it was: {'; '.join(problems)}")
        return
    if change.get("live"):
        shell(change["live"], "the live change")
    if change.get("rules"):
        put(read(change["rules"]))
    for path, file in change["files"].items():
        write_file(path, file)
    if change.get("activate"):
        shell(change["activate"], "the activation")


def extend(token: str) -> dict[str, Any]:
    """Begin the time of the pending change anew: it is looked at still. `expire` waits for the new end."""
    with mutex():
        meta = pending(token)
        if meta is None:
            return confirmed(token)
        save(paths.PENDING / "meta.json", {**meta, **times(meta["seconds"]), "since": meta["since"], "extended": True})
    return {"state": "pending", **public(meta)}


def confirm(token: str) -> dict[str, Any]:
    """Keep the pending change: from here on it is what the host boots into."""
    with mutex():
        meta = pending(token)
        if meta is None:
            return confirmed(token)
        if not (paths.PENDING / "applied").exists():
            raise Refused("the change is not made yet, or could not be", pending=describe())
        (paths.PENDING / "reserve").unlink(missing_ok=True)
        before = load(paths.PENDING / "before.json.gz")
        services = (*SERVICES, *before["services"])
        after = snapshot(before["files"], before["sysctls"], services, before.get("masters", ()))
        for path in before["files"]:  # also what the commands wrote
            with suppress(FileNotFoundError):
                sync(Path(path))
                sync(Path(path).parent)
        write(paths.PENDING / "diff.gz", gzip.compress(difference(before, after).encode()))
        number = max(numbers(), default=0) + 1
        save(paths.PENDING / "entry.json", {"number": number, "time": wall(), **public(meta)})
        move(paths.PENDING, paths.HISTORY / str(number))
        disarm()
        tidy(paths.HISTORY / str(number))
    return {"state": "confirmed", **entry(number)}


def confirmed(token: str) -> dict[str, Any]:
    """The answer to somebody who asks again. Refused with what became of the change if it was not confirmed."""
    if (kept := numbers()) and (last := entry(kept[-1]))["token"] == token:
        return {"state": "confirmed", **last}
    if undone := outcome(token):
        raise Refused(f"rolled back at {undone['time']}: {undone['why']}", last_rollback=undone)
    raise Refused("no such change is pending on this host", pending=describe())


def rollback(token: str, why: str) -> dict[str, Any]:
    """Undo the pending change now, by what the timer would run; a connection that it cuts does not stop it."""
    if pending(token):
        with suppress(OSError):  # the timer was quicker
            write(paths.PENDING / "why", why.encode())
        try:
            run(["systemctl", "start", f"{TIMER}.service"], timeout=300)
        except Refused:
            with suppress(Refused):  # that one may be at work already
                service(TIMER, "expire", token)
    deadline = time.monotonic() + 60
    while pending(token) and time.monotonic() < deadline:
        time.sleep(0.1)
    if undone := outcome(token):
        return {"state": "rolled back", **undone}
    raise Refused(f"no such change is pending on this host: {token}", **status())


def expire(token: str) -> dict[str, Any]:
    """What the timer runs: undo the change if it is still pending, even in the middle of being made."""

    def stop_apply() -> None:
        if pending(token):
            with suppress(Refused):
                run(["systemctl", "stop", f"{APPLY}.service"])

    # The timer ran at the first end. Killed here, systemd runs this again.
    while (meta := pending(token)) and meta.get("extended") and clock() < meta["expires"]:
        if (paths.PENDING / "why").exists():
            break
        time.sleep(0.2)
    with mutex(stop_apply):
        meta = pending(token)
        if meta is None:
            return {"state": "nothing to undo"}
        why = paths.PENDING / "why"
        undo(meta, why.read_text() if why.exists() else f"not confirmed within {meta['seconds']:g} s")
        disarm("timer")
    return {"state": "rolled back"}


def boot() -> dict[str, Any]:
    """After a power cut: the files of the last confirmed state, before anything reads them."""
    with mutex():
        meta = pending()
        if meta is None:
            return {"state": "nothing to undo"}
        undo(meta, "the host was switched off or booted before the change was confirmed", live=False)
    return {"state": "rolled back"}


def status() -> dict[str, Any]:
    """What is pending, what was confirmed last, what was undone last."""
    kept = numbers()
    return {"pending": describe(), "last": entry(kept[-1]) if kept else None, "last_rollback": outcome()}


def history(number: str | None = None) -> dict[str, Any]:
    """All confirmed changes that are kept, the latest first, or one of them with its diff."""
    if number is None:
        return {"history": [entry(each) for each in reversed(numbers())]}
    found = entry(int(number))
    return {**found, "diff": gzip.decompress((paths.HISTORY / number / "diff.gz").read_bytes()).decode()}
