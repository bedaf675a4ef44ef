"""Small pipelines, for every row of what a pipeline and its tasks can be (SPEC 3.1 and 3.2).

Each adds its tasks to a pipeline that it is given, with the folder of the inputs (see `make_inputs` of
the test) and that of its own outputs. None names a backend or an image: where it runs is not its affair.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import longshore as hp

ODD = """it's "a b" (1) $HOME;ü☃ *[x].txt"""
PIPELINES: dict[str, Callable[[hp.Pipeline, Path, Path], None]] = {}
DEFAULTS = {"default_cpu": 0.25, "default_memory": "0.5G", "default_timeout": 300.0}
SIZE = "echo $LONGSHORE_CPU $LONGSHORE_MEMORY_BYTES"


def pipeline(build: Callable[[hp.Pipeline, Path, Path], None]) -> None:
    PIPELINES[build.__name__] = build


@pipeline
def empty(p: hp.Pipeline, inputs: Path, outputs: Path) -> None:
    pass


@pipeline
def defaults_come_first_and_setters_win(p: hp.Pipeline, inputs: Path, outputs: Path) -> None:
    kept, said = p.new_task(), p.new_task().cpu("500m").memory(3)
    kept.command(f"{SIZE} > {kept.out}")
    said.command(f"{SIZE} > {said.out}; cat {kept.out} >> {said.out}")
    p.write_output(said.out, outputs / "sizes")


@pipeline
def names_need_not_differ_and_attributes_stay(p: hp.Pipeline, inputs: Path, outputs: Path) -> None:
    for sample in (ODD, "NA12878"):
        p.new_task(name="same", attributes={"sample": sample, "ü": "'\"\\"})


@pipeline
def an_input_comes_under_its_name_or_with_an_extension(p: hp.Pipeline, inputs: Path, outputs: Path) -> None:
    plain, named = p.read_input(str(inputs / "genome.fa")), p.read_input(inputs / "binary", extension=".gz")
    t = p.new_task()
    t.command(
        f"basename {plain}; basename {named}; cat {plain} {plain} > {t.out}; cksum < {named} >> {t.out}"
    )
    p.write_output(t.out, outputs / "out")


@pipeline
def an_input_may_have_any_name(p: hp.Pipeline, inputs: Path, outputs: Path) -> None:
    t = p.new_task(name=ODD)
    t.command(f"cat {p.read_input(inputs / ODD)} > {t[ODD]}")
    p.write_output(t[ODD], outputs / "a folder (new)" / ODD)


@pipeline
def one_member_of_a_group_brings_the_others(p: hp.Pipeline, inputs: Path, outputs: Path) -> None:
    group = p.read_input_group(**{"fasta": inputs / "genome.fa", "fasta.idx": inputs / "in dex" / "of it"})
    t = p.new_task()
    t.command(f"ls $(dirname {group.fasta}); cat {group}.fasta {group['fasta.idx']} > {t.out}")
    p.write_output(t.out, outputs / "out")
    p.write_output(group, outputs / "straight")


@pipeline
def a_file_goes_to_many_places(p: hp.Pipeline, inputs: Path, outputs: Path) -> None:
    t = p.new_task()
    t.command(f"echo made > {t.out}; chmod 750 {t.out}")
    for dest in ("one", "two/two", "three/../four"):
        p.write_output(t.out, outputs / dest)
    p.write_output(t.out, f"{outputs}/into/")


@pipeline
def an_input_goes_straight_out(p: hp.Pipeline, inputs: Path, outputs: Path) -> None:
    p.write_output(p.read_input(inputs / "fol der"), outputs / "folder")
    p.write_output(p.read_input(inputs / ODD), f"{outputs}/by name/")


@pipeline
def tasks_are_chosen_by_the_start_of_their_names(p: hp.Pipeline, inputs: Path, outputs: Path) -> None:
    for name in ("align 1", "realign", "align 2"):
        t = p.new_task(name=name)
        t.command(f"echo {name} > {t.out}; mkdir -p {t.log}")
    end = p.new_task(name="end").depends_on(*p.select_tasks("align"))
    end.command(f"cat {' '.join(task.out for task in p.select_tasks('align'))} > {end.out}")
    p.write_output(end.out, outputs / "chosen")


@pipeline
def dependencies_run_first_though_made_last(p: hp.Pipeline, inputs: Path, outputs: Path) -> None:
    last, middle, first = (p.new_task(name=name) for name in ("last", "middle", "first"))
    first.command(f"echo 1 > {first.x}")
    middle.command(f"(cat {first.x}; echo 2) > {middle.x}")
    last.depends_on(middle).command(f"(cat {middle.x}; echo 3) > {last.x}")
    p.write_output(last.x, outputs / "order")


@pipeline
def a_file_is_a_string_of_any_making(p: hp.Pipeline, inputs: Path, outputs: Path) -> None:
    t = p.new_task()
    t.command("echo f-string > {}; echo join >> {}".format(t.out, " ".join([t["out"]])))
    t.command("echo plus >> " + t.out + "; echo quoted >> " + shlex.quote(t.out) + f' && cp "{t.out}" {t.b}')
    p.write_output(t.b, outputs / "b")


@pipeline
def commands_run_in_one_bash_to_the_first_that_fails(p: hp.Pipeline, inputs: Path, outputs: Path) -> None:
    t = p.new_task(name="fails").always_copy_output()
    t.command("x=1; f() { echo $x; }").command(f"x=2\nf > {t.out}").command("cd /; (exit 3)").command(
        f"echo never >> {t.out}"
    )
    p.write_output(t.out, outputs / "until then")
    p.new_task(name="nothing to do").depends_on(t)
    p.new_task(name="nothing to do, always").depends_on(t).always_run()


@pipeline
def a_tasks_group_has_one_root(p: hp.Pipeline, inputs: Path, outputs: Path) -> None:
    a, b = p.new_task(), p.new_task()
    a.declare_resource_group(out={"bed": "{root}.bed", "log": "{root}/deep/x.log"})
    a.command(f"mkdir -p {a.out}/deep; echo bed > {a.out}.bed; echo log > {a.out.log}; cat {a.out['bed']}")
    b.command(f"cat {a.out.bed} {a.out}/deep/x.log > {b.out}")
    p.write_output(a.out, outputs / "group")
    p.write_output(b.out, outputs / "both")


@pipeline
def every_setter_is_heeded(p: hp.Pipeline, inputs: Path, outputs: Path) -> None:
    t = p.new_task(name="set").cpu(0.5).memory("1Gi").storage("1G").env("A", ODD).timeout(60).retries(1)
    t.command(f'{SIZE} > {t.out}; echo "$A" >> {t.out}')
    p.write_output(t.out, outputs / "set")
    p.new_task(name="fails twice").retries(1).command("exit 4")
    p.new_task(name="takes too long").timeout(0.3).command("sleep 60")
    killed = p.new_task(name="killed").command("kill -KILL $$")
    child = p.new_task(name="child").depends_on(killed).command("true")
    always = p.new_task(name="always").depends_on(child).always_run()
    always.command(f"echo ran > {always.out}")
    p.write_output(always.out, outputs / "always")


@pipeline
def units_are_cores_and_gigabytes(p: hp.Pipeline, inputs: Path, outputs: Path) -> None:
    p.new_task(name="7.5 GB are two cores").cpu(0.25).memory("7.5G").command(SIZE)
    p.new_task(name="bare numbers").cpu("0.5").memory(1.5).storage(0.1).command(SIZE)


@pipeline
def what_is_missing_is_named(p: hp.Pipeline, inputs: Path, outputs: Path) -> None:
    p.new_task(name="input").command(f"cat {p.read_input(inputs / 'not there')}")
    p.new_task(name="wildcard").command(f"ls {p.read_input(inputs / 'many' / 'no*thing')}")
    t = p.new_task(name="output")
    t.command(f"true {t.never}")
    p.write_output(t.never, outputs / "never")
    away = p.new_task(name="leads away")
    away.command(f"ln -s /etc/hostname {away.link}")
    p.write_output(away.link, outputs / "away")


@pipeline
def folders_and_wildcards_flow(p: hp.Pipeline, inputs: Path, outputs: Path) -> None:
    some, make, use = p.read_input(inputs / "many" / "*.tx?"), p.new_task(), p.new_task()
    make.command(f"mkdir {make.tree}; cp -r {some} {make.tree}/d; ln -s d {make.tree}/again")
    use.command(f"(cd {make.tree} && find . -type f | LC_ALL=C sort) > {use.seen}; rm -r {make.tree}/d")
    p.write_output(use.seen, outputs / "seen")
    p.write_output(make.tree, outputs / "tree")


@pipeline
def an_extension_is_seen_by_all_who_see_the_file(p: hp.Pipeline, inputs: Path, outputs: Path) -> None:
    a, b = p.new_task(), p.new_task()
    a.command(f"basename {a.out} > {a.out}")
    a.out.add_extension(".txt")
    b.command(f"(cat {a.out}; basename {a.out}) > {b['a b']}")
    p.write_output(b["a b"], outputs / "seen")
