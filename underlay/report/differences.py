"""Drift and history as tables for people."""

from collections.abc import Mapping, Sequence

from rich.table import Table

from underlay.access.sessions import UnreachableError
from underlay.console import console
from underlay.guard.history import Entries
from underlay.observe.drift import Line
from underlay.text import one_line


def show_drift(differences: Sequence[Line], unread: Sequence[str]) -> None:
    """Print what differs, one line each, and which hosts could not be read."""
    page = console()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("host", "kind", "where", "what", "plan"):
        table.add_column(column, overflow="fold")
    for each in differences:
        table.add_row(each.host, each.kind, each.where, each.what, each.plan)
    if differences:
        page.print(table, highlight=False, markup=False)
    for reason in unread:
        page.print(f"not read: {reason}", style="bold red", highlight=False, markup=False)
    drifted = sum(each.kind != "unmanaged" for each in differences)
    page.print(f"{drifted} differences from the plan" if drifted else "no difference from the plan", highlight=False)


def show_history(found: Mapping[str, Entries | UnreachableError]) -> None:
    """Print the confirmed changes of hosts; those that can't be asked are left out."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("host", "change", "time", "who", "commit", "what"):
        table.add_column(column, overflow="fold")
    for host, entries in found.items():
        if isinstance(entries, Exception):
            continue
        for entry in entries:
            what = [line for line in entry["what"] if line.strip()]
            first = (what or ["nothing"])[0] + (f" (and {len(what) - 1} more lines)" if len(what) > 1 else "")
            table.add_row(
                *map(one_line, (host, str(entry["number"]), entry["time"], entry["who"], entry["commit"], first))
            )
        if not entries:
            table.add_row(host, "-", "", "", "", "no confirmed change yet")
    console().print(table, highlight=False, markup=False)
