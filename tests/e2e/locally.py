"""Runs a program that asks for a service on a LocalBackend, and writes down what became of its last jobs.

locally.py JOBS_FILE IMAGE PROGRAM ARGUMENTS…      IMAGE, which may be empty, is of tasks without one
"""

from __future__ import annotations

import functools
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import longshore as hp


class Noting(hp.LocalBackend):
    """Keeps the handle of its last run."""

    last: hp.Batch | None = None

    def _run(self, pipeline: hp.Pipeline, **options: Any) -> hp.Batch | None:
        batch = super()._run(pipeline, **options)
        Noting.last = batch or Noting.last
        return batch


def main(jobs_file: str, image: str, *program: str) -> None:
    hp.BatchBackend = lambda project: Noting(cores=4)  # type: ignore[misc,assignment]
    if image:
        hp.Pipeline = functools.partial(hp.Pipeline, default_image=image)  # type: ignore[misc,assignment]
    sys.argv = list(program)
    runpy.run_path(program[0], run_name="__main__")
    assert Noting.last is not None
    jobs = [job.last_status.as_dict() for job in Noting.last.jobs() if job.last_status]
    Path(jobs_file).write_text(json.dumps(jobs))


if __name__ == "__main__":
    main(*sys.argv[1:])
