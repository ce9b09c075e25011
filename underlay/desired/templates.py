"""The repo's templates: they only loop over values that were prepared in Python."""

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from underlay.plan import REPO


def _environment(autoescape: bool) -> Environment:
    return Environment(
        loader=FileSystemLoader(REPO / "templates"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=autoescape,
        lstrip_blocks=autoescape,
        autoescape=autoescape,  # noqa: S701 (configuration files are no pages)
    )


_text, _html = _environment(autoescape=False), _environment(autoescape=True)


def render(template: str, **values: object) -> str:
    """Fill a template of `templates/`, e.g. `network/link.network.j2`."""
    return _text.get_template(template).render(**values)


def render_html(template: str, **values: object) -> str:
    """Fill a template of a page: values that are not `Markup` are escaped, wherever they come from."""
    return _html.get_template(template).render(**values)
