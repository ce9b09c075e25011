"""The repo's templates: they only loop over values that were prepared in Python."""

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from underlay.plan import REPO

_environment = Environment(
    loader=FileSystemLoader(REPO / "templates"), undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
)


def render(template: str, **values: object) -> str:
    """Fill a template of `templates/`, e.g. `network/link.network.j2`."""
    return _environment.get_template(template).render(**values)
