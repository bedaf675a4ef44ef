"""Tasks that end in every way in which tasks end, and what that means for those that depend on them.

outcomes.py INPUTS OUTPUTS
"""

from __future__ import annotations

import sys
from pathlib import Path

import longshore as hp


def main(inputs: Path, outputs: Path) -> None:
    with hp.BatchBackend("test") as backend:
        p = hp.Pipeline(backend=backend, name="outcomes", default_cpu=0.25, default_timeout=300)

        fails = p.new_task(name="fails", attributes={"sample": "NA 12878", "ü": "'\"\\"})
        fails.always_copy_output()
        fails.command(f"echo until here > {fails.partial}; exit 3; echo never > {fails.partial}")
        p.write_output(fails.partial, outputs / "partial")

        keeps = p.new_task(name="keeps its output to itself")
        keeps.command(f"echo nobody sees this > {keeps.kept}; false; echo never")
        p.write_output(keeps.kept, outputs / "kept")

        child = p.new_task(name="child of a failure").depends_on(fails)
        child.command(f"echo never > {child.out}")
        p.write_output(child.out, outputs / "child")
        grandchild = p.new_task(name="grandchild").command(f"cat {child.out}")

        cleans = p.new_task(name="cleans up in any case").always_run()
        cleans.command(f"cat {fails.partial} > {cleans.out}; echo cleaned >> {cleans.out}")
        p.write_output(cleans.out, outputs / "cleaned")
        after = p.new_task(name="after the clean-up").depends_on(cleans)
        after.command(f"cat {cleans.out} {cleans.out} > {after.out}")
        p.write_output(after.out, outputs / "after")
        p.new_task(name="runs after all").always_run().depends_on(grandchild, keeps).command("true")

        sizes = p.new_task(name="knows its size").cpu("500m").memory("1.5Gi").storage("1G").env("MINE", "yes")
        sizes.command(f"echo $LONGSHORE_CPU $LONGSHORE_MEMORY_BYTES $MINE $LONGSHORE_JOB_ID > {sizes.out}")
        p.write_output(sizes.out, outputs / "sizes")
        p.new_task(name="its memory is worth more").cpu(0.1).memory("1.875G").command("true")

        p.new_task(name="says nothing")
        p.new_task(name="fails every time").retries(2).command("exit 255")
        p.new_task(name="takes too long").timeout(1).command("sleep 60; echo never")
        p.new_task(name="killed").command("kill -9 $$")
        breaks = p.new_task(name="breaks its promise").command("true")
        breaks.command(f"# {breaks.promised} is never made")
        p.write_output(breaks.promised, outputs / "promised")
        p.new_task(name="wants what is not there").command(f"cat {p.read_input(inputs / 'not there')}")

        assert [task.name for task in p.select_tasks("clean")] == ["cleans up in any case"]
        assert p.run(check=False) is not None


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
