"""Commands with everything in them that a shell, a runtime or a wire could spoil; run twice over.

commands.py INPUTS OUTPUTS
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import longshore as hp

HARD = """'single' "double" `back` $(dollar) $$ ${x:-y} \\ \\n % {braces} !~ #hash & | ; < > * ? [a] ü☃𝄞\tx"""


def main(inputs: Path, outputs: Path) -> None:
    with hp.BatchBackend("test") as backend:
        p = hp.Pipeline(backend=backend, name=HARD, attributes={HARD: HARD})

        quoted = p.new_task(name=HARD)
        quoted.command(f"printf '%s\\n' {shlex.quote(HARD)} > {shlex.quote(quoted.out)}")
        quoted.command("cat >> " + quoted.out + f" <<'END'\n{HARD}\n  indented, and an empty line:\n\nEND")
        quoted.command(" ".join(["basename", quoted.out, ">>", quoted.out]))
        p.write_output(quoted.out, outputs / "quoted")

        spans = p.new_task(name="one shell")
        spans.command("x=1; cd /tmp; f() { echo $x $PWD; }")
        spans.command(f"x=2\nf > {spans.out}")
        spans.command(f"false || true; if false; then exit 1; fi; wc -l < {quoted.out} >> {spans.out}")
        p.write_output(spans.out, outputs / "one shell")

        long = p.new_task(name="long")
        # Longer together than any one argument of a program may be.
        line = shlex.quote(f"{HARD} {'x' * 60}")
        long.command("\n".join(f"echo {i} {line} >> {long.out}" for i in range(1_000)))
        long.command(f"wc < {long.out} >> {long.out}")
        p.write_output(long.out, outputs / "long")

        assert p.run(dry_run=True) is None
        first = p.run(wait=False)
        assert first is not None and first.wait().state == "success"
        p.write_output(spans.out, outputs / "one shell, of the second run")
        p.run(disable_progress_bar=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
