"""Every way for a file to enter a pipeline, to flow through it and to leave it.

files.py INPUTS OUTPUTS
"""

from __future__ import annotations

import sys
from pathlib import Path

import longshore as hp


def main(inputs: Path, outputs: Path) -> None:
    with hp.BatchBackend("test") as backend:
        p = hp.Pipeline(backend=backend, name="files", attributes={"what": "ways of a file"})
        odd = p.read_input(inputs / """it's "a b" (1) $HOME;ü☃ *[x].txt""")
        genome = p.read_input_group(
            **{"fasta": inputs / "genome.fa", "fasta.idx": inputs / "in dex" / "of it"},
        )

        # An extension is seen by the command alone.
        named = p.read_input(inputs / "binary", extension=".vcf.gz")
        look = p.new_task(name="look", attributes={"stage": "1"})
        look.command(f"case {named} in *.vcf.gz) echo as named ;; *) exit 9 ;; esac > {look.seen}")
        look.command(f"cat {odd} >> {look.seen}; cksum < {named} >> {look['seen']}")
        look.seen.add_extension(".txt")
        look.command(f"case {look.seen} in *.txt) ;; *) exit 8 ;; esac")
        p.write_output(look.seen, outputs / "seen")
        p.write_output(look.seen, outputs / "a copy of it's (own)" / 'ü "☃".txt')

        # One member of a group brings the others; the group itself is what their names have in common.
        index = p.new_task(name="index")
        index.command(f"cd $(dirname {genome.fasta}); ls > {index.beside}")
        index.command(f"cat {genome}.fasta {genome['fasta.idx']} > {index.both}")
        p.write_output(index.beside, outputs / "beside")
        p.write_output(index.both, outputs / "both")

        split = p.new_task(name="split").declare_resource_group(
            parts={"head": "{root}.head", "tail": "{root}/deep/er.tail"}
        )
        split.command(f"head -n 1 {index.both} > {split.parts.head}; mkdir -p {split.parts}/deep")
        split.command(f"tail -n +2 {index.both} > {split.parts['tail']}")
        p.write_output(split.parts, outputs / "parts")
        p.write_output(split.parts.tail, outputs / "the tail alone")

        join = p.new_task(name="join").depends_on(look)
        join.env("TAIL", f"{split.parts.tail}").env("GREETING", """it's $HOME "ü" \\n""")
        join.command(f'test -e {split.parts.head}; tac "$TAIL" > {join.result}')
        join.command(f'printf "%s" "$GREETING" >> {join.result}')
        p.write_output(join.result, outputs / "folder" / "joined")

        # Folders and wildcards, in and out.
        folder, some = p.read_input(inputs / "fol der"), p.read_input(inputs / "many" / "*.tx?")
        walk = p.new_task(name="walk")
        walk.command(f"mkdir -p {walk.tree}/'a b'; cp -r {folder} {walk.tree}/'a b'/whole")
        walk.command(f"cat {some}/* > {walk.tree}/cat; ls {some} > {walk.tree}/ls")
        p.write_output(walk.tree, outputs / "tree")
        again = p.new_task(name="a folder of a task")
        again.command(f"find {walk.tree} -type f | sed 's,.*/tree,,' | LC_ALL=C sort > {again.found}")
        p.write_output(again.found, outputs / "found")

        # Out as they came in, with no task between.
        p.write_output(odd, f"{outputs}/into a folder/")
        p.write_output(genome, outputs / "straight" / "genome")
        p.write_output(folder, outputs / "straight" / "folder")

        p.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
