"""Count the words of many texts at once, then gather: the ten words that they use most.

python examples/word_count.py [OUTPUT_FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

import longshore as hp

texts = sorted(Path(__file__).with_name("data").glob("*.txt"))
output = Path(sys.argv[1] if len(sys.argv) > 1 else "word_count_output")

with hp.BatchBackend("test") as backend:
    p = hp.Pipeline(backend=backend, name="word count")

    counts = []
    for text in texts:
        count = p.new_task(name=f"count {text.stem}")
        count.command(f"tr -cs A-Za-z '[\\n*]' < {p.read_input(text)} | tr A-Z a-z > {count.list}")
        count.command(f"sed '/^$/d' {count.list} | sort | uniq -c > {count.words}")
        p.write_output(count.words, output / f"{text.stem}.count")
        counts.append(count.words)

    top = p.new_task(name="top ten")
    top.command(
        f"awk '{{ n[$2] += $1 }} END {{ for (w in n) print n[w], w }}' {' '.join(counts)} > {top.sums}"
    )
    top.command(f"sort -k1,1nr -k2 {top.sums} | sed 10q | tee {top.ten}")
    p.write_output(top.ten, output / "top_ten.txt")

    p.run()

print((output / "top_ten.txt").read_text(), end="")
print(f"The ten words and the counts of each text are in {output}.", file=sys.stderr)
