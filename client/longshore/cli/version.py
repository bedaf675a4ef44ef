"""`longshore version`: of this program, and of the service that it finds."""

from __future__ import annotations

import click

from ..errors import BatchError
from . import own_version
from .connection import connect
from .output import SCHEMA, json_text, output_option, say


@click.command("version")
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
    if output == "json":
        click.echo(json_text({"schema": SCHEMA, "client": own_version(), "service": service}))
        return
    click.echo(f"longshore {own_version()}")
    if service:
        click.echo(f"service   {service['version']} at {service['endpoint']}")
