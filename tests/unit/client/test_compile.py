"""From tasks to jobs: where files lie, what moves, and that any name survives the way."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import longshore as hp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from longshore.compile import compile_pipeline, plan, script_of

SAFE_PATH = re.compile(r"/io(/[A-Za-z0-9._-]+)+")


@pytest.fixture
def p() -> hp.Pipeline:
    return hp.Pipeline(name="p")


def jobs_of(p: hp.Pipeline) -> list[hp.JobSpec]:
    return compile_pipeline(p, scratch="/tmp/run", folder="/home/me")


def test_the_documentations_hello_is_one_bash(p: hp.Pipeline) -> None:
    p.new_task(name="hello").command('echo "hello world"')
    assert jobs_of(p) == [hp.JobSpec(command=("bash", "-c", 'set -e\necho "hello world"'), name="hello")]


def test_a_task_without_commands_is_legal(p: hp.Pipeline) -> None:
    p.new_task()
    assert script_of(jobs_of(p)[0]) == "set -e\n"


def test_what_was_said_about_a_task_is_in_its_job(p: hp.Pipeline) -> None:
    t = p.new_task(name="t", attributes={"stage": "one"}).image("i").cpu(2).memory("1G").storage("2G")
    t.env("A", "b").always_run().timeout(3).retries(4).always_copy_output()
    (job,) = jobs_of(p)
    assert (job.image, job.cpu_mcpu, job.memory_bytes, job.storage_bytes) == ("i", 2000, 10**9, 2 * 10**9)
    assert (job.env, job.always_run, job.timeout_ms, job.retries) == ({"A": "b"}, True, 3000, 4)
    assert (job.attributes, job.always_copy_output) == ({"stage": "one"}, True)


def test_cpu_alone_leaves_the_memory_to_the_service(p: hp.Pipeline) -> None:
    p.new_task().cpu(4)
    assert jobs_of(p)[0].memory_bytes == 0


def test_an_intermediate_file_goes_out_here_and_in_there(p: hp.Pipeline) -> None:
    a, b = p.new_task(name="a"), p.new_task(name="b")
    a.command(f"echo hello > {a.words.add_extension('.txt')}")
    b.command(f"wc {a.words}")
    first, second = jobs_of(p)
    assert script_of(first) == "set -e\necho hello > /io/words.txt"
    assert first.output_files == (("/io/words.txt", "/tmp/run/1/words.txt"),)
    assert second.input_files == (("/tmp/run/1/words.txt", "/io/inputs/1/words.txt"),)
    assert script_of(second) == "set -e\nwc /io/inputs/1/words.txt"
    assert second.parents == (1,)


def test_files_that_nobody_else_mentions_do_not_move(p: hp.Pipeline) -> None:
    a = p.new_task()
    a.command(f"> {a.x}").command(f"cat {a.x}")
    b = p.new_task().depends_on(a)
    b.command("true")
    assert [(job.input_files, job.output_files) for job in jobs_of(p)] == [((), ()), ((), ())]


def test_mentioning_one_member_brings_the_whole_group(p: hp.Pipeline) -> None:
    a, b = p.new_task(), p.new_task()
    a.declare_resource_group(out={"bed": "{root}.bed", "dir": "{root}/x.txt"}).command(f"plink --out {a.out}")
    b.command(f"cat {a.out.bed}; ls {a.out}*")
    first, second = jobs_of(p)
    assert script_of(first).endswith("plink --out /io/out")
    assert first.output_files == (
        ("/io/out.bed", "/tmp/run/1/out.bed"),
        ("/io/out/x.txt", "/tmp/run/1/out/x.txt"),
    )
    assert [destination for _, destination in second.input_files] == [
        "/io/inputs/1/out.bed",
        "/io/inputs/1/out/x.txt",
    ]
    assert script_of(second).endswith("cat /io/inputs/1/out.bed; ls /io/inputs/1/out*")


def test_members_of_an_input_group_share_a_root_and_end_in_their_identifiers(p: hp.Pipeline) -> None:
    group = p.read_input_group(**{"fasta": "/ref/hg 38.fa", "fasta.idx": "other/name"})
    p.new_task().command(f"use {group} {group['fasta.idx']}")
    (job,) = jobs_of(p)
    assert job.input_files == (
        ("/ref/hg 38.fa", "/io/inputs/1/hg_38.fasta"),
        ("/home/me/other/name", "/io/inputs/1/hg_38.fasta.idx"),
    )
    assert script_of(job).endswith("use /io/inputs/1/hg_38 /io/inputs/1/hg_38.fasta.idx")


def test_an_input_keeps_its_name_as_far_as_it_is_safe(p: hp.Pipeline) -> None:
    a = p.read_input("data/über (1).txt.gz")
    b = p.read_input("plain", extension=".vcf")
    c = p.read_input("x.vcf", extension=".vcf")
    p.new_task().command(f"{a} {b} {c}")
    assert jobs_of(p)[0].input_files == (
        ("/home/me/data/über (1).txt.gz", "/io/inputs/1/_ber__1_.txt.gz"),
        ("/home/me/plain", "/io/inputs/2/plain.vcf"),
        ("/home/me/x.vcf", "/io/inputs/3/x.vcf"),
    )


def test_names_that_are_equal_once_safe_stay_different_files(p: hp.Pipeline) -> None:
    t = p.new_task()
    t.declare_resource_group(a={"b": "{root}.b"})
    names = ["ä", "ö", "?", "inputs", "a.b", "..", "/"]
    for name in names:
        t.command(f"> {t[name]}")
        p.write_output(t[name], f"/out/{names.index(name)}")
    p.write_output(t.a, "/out/group")
    sources = [source for source, _ in jobs_of(p)[0].output_files]
    assert len(set(sources)) == len(names) + 1
    assert all(SAFE_PATH.fullmatch(source) for source in sources)
    assert "/io/inputs" not in sources


def test_outputs_go_where_they_were_told_relative_to_the_folder_of_run(p: hp.Pipeline) -> None:
    t = p.new_task().declare_resource_group(g={"a": "{root}.a", "b": "{root}.b"})
    t.command(f"> {t.x}")
    for dest in ("out.txt", "../out.txt", "/abs/ü 'x'.txt", "dir/", "gs://bucket/x"):
        p.write_output(t.x, dest)
    p.write_output(t.g, "all")
    p.write_output(t.g["a"], "one")
    assert [dest for _, dest in jobs_of(p)[0].output_files] == [
        "/home/me/out.txt", "/home/out.txt", "/abs/ü 'x'.txt", "/home/me/dir/", "gs://bucket/x",
        "/home/me/all.a", "/home/me/all.b", "/home/me/one",
    ]  # fmt: skip


def test_an_input_written_straight_out_is_a_job_of_its_own(p: hp.Pipeline) -> None:
    p.write_output(p.read_input("a b"), "copy")
    p.write_output(p.read_input("a b"), "folder/")
    p.write_output(p.read_input_group(x="g.x", y="g.y"), "group")
    one, into, group = jobs_of(p)
    assert (one.input_files, one.output_files) == (
        (("/home/me/a b", "/io/inputs/1/a_b"),),
        (("/io/inputs/1/a_b", "/home/me/copy"),),
    )
    assert into.output_files == (("/io/inputs/1/a_b", "/home/me/folder/a b"),)
    assert [dest for _, dest in group.output_files] == ["/home/me/group.x", "/home/me/group.y"]
    assert one.command == ("true",)


def test_writing_out_a_member_of_an_input_group_copies_that_member(p: hp.Pipeline) -> None:
    p.write_output(p.read_input_group(x="g.x", y="g.y").y, "only-y")
    (job,) = jobs_of(p)
    assert job.output_files == (("/io/inputs/1/g.y", "/home/me/only-y"),)


def test_environment_variables_get_their_paths(p: hp.Pipeline) -> None:
    a, b = p.new_task(), p.new_task()
    a.command(f"> {a.x}")
    b.env("FILES", f"{a.x}:{b.own}")
    assert jobs_of(p)[1].env == {"FILES": "/io/inputs/1/x:/io/own"}


def test_parents_have_smaller_ids_whatever_the_order_of_creation(p: hp.Pipeline) -> None:
    tasks = [p.new_task(name=str(i)) for i in range(5)]
    tasks[0].depends_on(tasks[4], tasks[2])
    tasks[2].depends_on(tasks[3])
    jobs = jobs_of(p)
    assert [job.name for job in jobs] == ["1", "3", "2", "4", "0"]
    assert [job.parents for job in jobs] == [(), (), (2,), (), (3, 4)]


def test_compiling_twice_gives_the_same(p: hp.Pipeline) -> None:
    a = p.new_task()
    a.command(f"> {a.x}")
    p.new_task().command(f"cat {a.x}")
    assert jobs_of(p) == jobs_of(p)


@pytest.mark.parametrize("n", [100, 10_000, 40_000])
def test_a_long_script_arrives_whole(n: int, p: hp.Pipeline, tmp_path: Path) -> None:
    """Also one that is longer than Linux lets one argument be."""
    t = p.new_task()
    t.command(f"printf '%s\\n' {' '.join(f'wörd{i}' for i in range(n))}").command("cat <<'E'\n  x\n\nE")
    t.command('echo "$# $IFS" | tr -d " \\t\\n"; (exit 3)').command("echo never")
    done = subprocess.run(jobs_of(p)[0].command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stdout == "".join(f"wörd{i}\n" for i in range(n)) + "  x\n\n0"
    assert (done.stderr, done.returncode) == ("", 3)


def test_a_long_script_is_cut_between_words(p: hp.Pipeline) -> None:
    """A worker without mount namespaces replaces paths argument by argument."""
    p.new_task().command("ls " + " ".join(p.read_input("x") for _ in range(5000)))
    pieces = jobs_of(p)[0].command[4:]
    assert len(pieces) > 2 and all(piece[-1].isspace() for piece in pieces[:-1])


def test_a_script_that_no_machine_can_start_is_refused_by_the_name_of_its_task(p: hp.Pipeline) -> None:
    p.new_task(name="endless").command("true " * 400_000)
    with pytest.raises(hp.UsageError, match="task 'endless'"):
        jobs_of(p)


def test_ten_thousand_tasks_and_their_gathering_compile_quickly(p: hp.Pipeline) -> None:
    started = time.process_time()
    for _ in range(10_000):
        t = p.new_task(name="scatter").cpu(1)
        t.command(f"echo {p.read_input('x')} > {t.out}")
    gather = p.new_task(name="gather")
    gather.command(f"cat {' '.join(t.out for t in p.select_tasks('scatter'))}")
    jobs = jobs_of(p)
    assert len(jobs[-1].input_files) == len(jobs[-1].parents) == 10_000
    assert time.process_time() - started < 5  # It takes some 0.5 s.


def test_a_plan_shows_jobs_files_and_scripts(p: hp.Pipeline) -> None:
    a = p.new_task(name="a").image("ubuntu")
    a.command(f"cat {p.read_input('in')} > {a.x}")
    p.write_output(a.x, "out")
    assert plan(jobs_of(p)).splitlines() == [
        "job 1 'a' in ubuntu",
        "    in   /home/me/in → /io/inputs/1/in",
        "    | set -e",
        "    | cat /io/inputs/1/in > /io/x",
        "    out  /io/x → /home/me/out",
    ]


names = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1)


@settings(max_examples=200)
@given(st.lists(names.filter(lambda name: not name.startswith("_")), min_size=1, unique=True), names)
def test_any_names_make_safe_and_distinct_paths(files: list[str], source: str) -> None:
    p = hp.Pipeline()
    maker, reader = p.new_task(name=source), p.new_task()
    for name in files:
        maker.command(f"> {maker[name]}")
        reader.command(f"cat {maker[name]}")
    reader.command(f"cat {p.read_input('/data/' + source)}")
    first, second = compile_pipeline(p, scratch="/tmp/run", folder="/")
    inside = [source for source, _ in first.output_files]
    there = [destination for _, destination in second.input_files]
    assert len(set(inside)) == len(files) and len(set(there)) == len(files) + 1
    assert all(SAFE_PATH.fullmatch(path) for path in inside + there)
    assert all(path.startswith("/io/inputs/") for path in there)
    assert script_of(second) == "\n".join(["set -e", *(f"cat {path}" for path in there)])
