"""`./inv topology`."""

from invoke import Context, task

from underlay.commands import parameters
from underlay.errors import report_and_exit
from underlay.plan import load


@task(help={"format": "one of svg, mermaid, plantuml; default svg. The other two are text, for documents of your own"})
@report_and_exit()
def topology(_: Context, format: str = "svg") -> None:
    """Print the picture of the site, drawn from the plan: `./inv topology > docs/site.svg`; contacts no host.

    Exit code: 0 drawn; 1 the plan has errors.
    """
    from underlay.report import diagram, diagram_text

    pictures = {"svg": diagram.svg, "mermaid": diagram_text.mermaid, "plantuml": diagram_text.plantuml}
    draw = pictures[parameters.one_of("format", format, pictures)]
    print(draw(load()), end="")
