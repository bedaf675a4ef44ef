"""`longshore version`: of this program, and of the service that it finds."""

from __future__ import annotations

import click

from .. import __version__
from ..errors import BatchError
from ..terminal import clean
from .connection import connect
from .formats import SCHEMA, json_text, output_option, yaml_text
from .output import say


@click.command("version", epilog="Example: longshore version -o json")
@output_option
def command(output: str) -> None:
    """Show the version of this program and, where one answers, of the service."""
    service = None
    try:
        with connect(retry_s=1) as client:
            service = {"endpoint": client.endpoint, "version": client.session().version}
    except BatchError as error:
        if output == "table":
            say(f"no service: {error.message}")
    document = {"schema": SCHEMA, "client": __version__, "service": service}
    if output != "table":
        click.echo(json_text(document) if output == "json" else yaml_text(document), nl=output == "json")
        return
    click.echo(f"longshore {__version__}")
    if service:
        click.echo(f"service   {clean(service['version'])} at {clean(service['endpoint'])}")
