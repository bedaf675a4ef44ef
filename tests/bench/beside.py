"""Goal 2 beside other schedulers: `python -m bench.beside VENV [PEER ...] [--quick]`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import postgres
from bench import goal2
from bench.measure import Result, Size, table
from bench.peers import SLURM_PROGRAMS
from bench.service import servers, service

_PACKAGES = {
    "hyperqueue": "hyperqueue",
    "procrastinate": "procrastinate",
    "dask": "distributed",
    "ray": "ray",
}
_LONGEST_S = 600
_MANY = {"process": "processes", "function": "functions"}
_MOST = {"slurm": 500}
"""Tasks of a peer that would take longer than we wait."""


def main(venv: Path, peers: list[str], size: Size) -> int:
    """0 whatever is missing: what cannot be measured is said."""
    n = size.of(5_000, 500, 10)
    python = venv / "bin" / "python"
    results: list[Result] = []
    with servers() as server:
        for peer in peers or (*_PACKAGES, "slurm"):
            if why := _installed(python, peer):
                print(f"-     {peer}: not measured: {why}", flush=True)
                continue
            try:
                result = _beside(server, python, peer, min(n, _MOST.get(peer, n)))
            except (subprocess.SubprocessError, RuntimeError) as error:
                print(f"-     {peer}: not measured: {error}", flush=True)
                continue
            results.append(result)
            print(table([result]), flush=True)
    return 0


def _installed(python: Path, peer: str) -> str:
    """Why it is not there; empty when it is."""
    if peer == "slurm":
        missing = [program for program in SLURM_PROGRAMS if not shutil.which(program)]
        return (
            f"{', '.join(missing)} not on this machine (apt-get install slurm-wlm munge)" if missing else ""
        )
    package = _PACKAGES[peer]
    if subprocess.run([python, "-c", f"import {package}"], capture_output=True, check=False).returncode == 0:
        return ""
    install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    extra = "psycopg[binary]" if package == "procrastinate" else ""
    done = subprocess.run(
        [*install, package, *filter(None, [extra])], capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 else f"pip cannot install it: {done.stderr.strip().splitlines()[-1]}"


def _beside(server: postgres.Cluster, python: Path, peer: str, n: int) -> Result:
    program = Path(__file__).with_name("peers.py")
    command = [str(python), str(program), peer, str(n), server.new_database()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_S, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise RuntimeError(
            f"it ended with {done.returncode}: {(done.stderr.strip() or '-').splitlines()[-1]}"
        )
    theirs = json.loads(lines[-1].removeprefix("RESULT "))
    rates = [float(rate) for rate in theirs["rates"]]
    runtime, cores = ("process", goal2.PROCESS_CORES) if theirs["kind"] == "process" else ("fake", 2000)
    with service(server) as made, made.client as client:
        made.worker(runtime, cores=cores)
        goal2.run(made, client, 20)
        ours = [goal2.run(made, client, n) for _ in rates]
    tasks = _MANY[theirs["kind"]]
    note = f"{peer}: one task, submit → result p50 {theirs['single_ms']:.1f} ms; its tasks are {tasks}"
    return Result(
        "2", f"{n:,} no-op jobs, {runtime} runtime", "jobs/s", ours, rates, f"tasks/s of {peer}", note=note
    )


if __name__ == "__main__":
    named = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    size = Size(quick="--quick" in sys.argv, tiny="--tiny" in sys.argv)
    sys.exit(main(Path(named[0]), named[1:], size))
