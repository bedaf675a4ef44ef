"""`longshore spec`: what a job was asked to do."""

from __future__ import annotations

import click

from .connection import connect
from .formats import json_text, plain, yaml_text
from .targets import Target, TargetType, find_job


@click.command("spec", epilog="Example: longshore spec last/1 -o json")
@click.argument(
    "job",
    type=TargetType(
        no_batch="which job of batch {batch}? Write {batch}/JOB; they are listed by: longshore jobs {batch}"
    ),
)
@click.option(
    "-o", "--output", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True,
    help="How to write it.",
)  # fmt: skip
def command(job: Target, output: str) -> None:
    """Show what a JOB (8120/4705) was asked to do: command, image, files, resources.

    What nobody said is left out; the service's defaults count then (see: longshore get JOB).
    """
    with connect() as client:
        status = find_job(client, job).status()
    said = {key: value for key, value in plain(status.spec).items() if value}
    for key in {"input_files", "output_files"} & said.keys():
        said[key] = [{"source": source, "destination": destination} for source, destination in said[key]]
    document = {"schema": "longshore/v1", "spec": said}
    click.echo(json_text(document) if output == "json" else yaml_text(document), nl=output == "json")
