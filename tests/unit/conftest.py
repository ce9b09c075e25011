"""What several of the unit tests need."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from underlay.plan import REPO, Plan, load

Planned = Callable[..., Plan]
settings.register_profile("long")  # for `invoke test --long`


@pytest.fixture
def planned(tmp_path: Path) -> Planned:
    """The repo's plan with texts changed: `planned(("old", "new"), …)`; it is in tmp_path."""

    def change(*edits: tuple[str, str]) -> Plan:
        text = (REPO / "group_data/all.py").read_text()
        for old, new in edits:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        path = tmp_path / "plan.py"
        path.write_text(text)
        return load(path)

    return change
