"""Pipelines and tasks: what can be said, and every refusal at the call that deserves it."""

from __future__ import annotations

import copy
import gc
import json
import shlex
from pathlib import Path
from typing import Any

import longshore as hp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from longshore.checks import safe_name
from longshore.resource import mentioned


@pytest.fixture
def p() -> hp.Pipeline:
    return hp.Pipeline(name="p")


# Files are strings.


def test_a_file_is_the_same_object_every_time(p: hp.Pipeline) -> None:
    t = p.new_task()
    assert t.ofile is t.ofile is t["ofile"] is copy.copy(t.ofile) is copy.deepcopy(t.ofile)


def test_a_file_survives_every_way_of_putting_it_into_a_command(p: hp.Pipeline) -> None:
    file = p.new_task().ofile
    ways = [
        f"{file}",
        f"{file!s:>60}",
        f"{file!r}",
        "{}".format(file),  # noqa: UP032
        "%s" % file,  # noqa: UP031
        " ".join([file, file]),
        "cat " + file + ".idx",
        shlex.quote(file),
        shlex.join(["cat", file]),
        json.dumps([file]),
        str(Path("/x") / file),
        f"{file}{file}1",
        str([file]),
    ]
    assert all(list(mentioned(way)) == [file] for way in ways)
    assert shlex.quote(file) == file


def test_names_with_a_leading_underscore_are_no_files(p: hp.Pipeline) -> None:
    t = p.new_task()
    with pytest.raises(AttributeError):
        _ = t._ofile
    with pytest.raises(hp.UsageError, match="underscore"):
        t["_ofile"]
    with pytest.raises(hp.UsageError, match="empty"):
        t[""]
    with pytest.raises(TypeError):
        t[0]  # type: ignore[index]


def test_a_misspelled_method_says_what_was_meant(p: hp.Pipeline) -> None:
    t = p.new_task(name="hello")
    with pytest.raises(TypeError, match="did you mean `command`") as refusal:
        t.comand("echo hello")
    assert isinstance(refusal.value, hp.BatchError)
    with pytest.raises(TypeError, match="methods of a task"):
        t.xyzzy()


def test_names_of_methods_are_files_by_subscript(p: hp.Pipeline) -> None:
    t = p.new_task()
    assert isinstance(t["command"], hp.TaskResourceFile)
    t.command(f"true > {t['command']}")


def test_setting_an_attribute_of_a_task_is_an_error(p: hp.Pipeline) -> None:
    with pytest.raises(AttributeError):
        p.new_task().cpu = 4  # type: ignore[method-assign, assignment]


def test_an_extension_can_be_added_once(p: hp.Pipeline) -> None:
    t = p.new_task()
    assert t.ofile.add_extension(".txt.gz") is t.ofile
    with pytest.raises(hp.UsageError, match=r"has the extension '\.txt\.gz' already"):
        t.ofile.add_extension(".bz2")
    with pytest.raises(hp.UsageError, match="already"):
        p.read_input("a", extension=".txt").add_extension(".txt")
    for bad in ("", ".a b", "/x", ".ü"):
        with pytest.raises(hp.UsageError):
            t.other.add_extension(bad)


# Mentioning.


def test_mentioning_a_file_of_another_task_makes_the_dependency(p: hp.Pipeline) -> None:
    b, a = p.new_task(name="b"), p.new_task(name="a")
    a.command(f"echo hello > {a.x}")
    b.command(f"cat {a.x}")
    assert p._ordered() == [a, b]


@pytest.mark.parametrize("way", ["{}", "cat {} | wc"])
def test_a_task_or_pipeline_in_a_command_is_refused_by_name(p: hp.Pipeline, way: str) -> None:
    t, other = p.new_task(name="t"), p.new_task(name="other")
    with pytest.raises(hp.UsageError, match=r"task 't' mentions task 'other'"):
        t.command(way.format(other))
    with pytest.raises(hp.UsageError, match=r"task 't' mentions pipeline 'p'"):
        t.command(way.format(p))
    with pytest.raises(hp.UsageError, match=r"task 't' mentions task 't'"):
        t.command(way.format(t))


def test_a_file_of_another_pipeline_is_refused_naming_both(p: hp.Pipeline) -> None:
    foreign = hp.Pipeline(name="foreign").new_task(name="f")
    foreign.command(f"> {foreign.x}")
    with pytest.raises(hp.UsageError, match=r"task 't' of pipeline 'p'.*'x' of task 'f'.*pipeline 'foreign'"):
        p.new_task(name="t").command(f"cat {foreign.x}")
    with pytest.raises(hp.UsageError, match="pipeline 'foreign'"):
        p.new_task(name="t").command(f"cat {foreign._pipeline.read_input('a')}")


def test_a_file_that_its_task_never_made_is_refused_naming_both(p: hp.Pipeline) -> None:
    maker, reader = p.new_task(name="maker"), p.new_task(name="reader")
    with pytest.raises(hp.UsageError, match=r"task 'reader' mentions file 'x' of task 'maker'"):
        reader.command(f"cat {maker.x}")


def test_a_refused_command_leaves_the_task_as_it_was(p: hp.Pipeline) -> None:
    a, b, t = p.new_task(), p.new_task(), p.new_task(name="t")
    a.command(f"> {a.x}")
    with pytest.raises(hp.UsageError):
        t.command(f"cat {a.x} {t.own} {b.never}")
    declared = t._declaration
    assert not declared.inputs and not declared.parents and not declared.commands
    with pytest.raises(hp.UsageError, match="'own'"):
        p.write_output(t.own, "/tmp/own")


def test_a_file_of_a_pipeline_that_is_gone_is_refused(p: hp.Pipeline) -> None:
    text = f"cat {hp.Pipeline().read_input('a')}"
    gc.collect()
    with pytest.raises(hp.UsageError, match="no longer exists"):
        p.new_task().command(text)


def test_an_input_that_nobody_holds_can_still_be_mentioned(p: hp.Pipeline) -> None:
    text = f"cat {p.read_input('a')} {p.read_input_group(x='b').x} {p.new_task()['x']}"
    gc.collect()
    p.new_task(name="t").command(text.rpartition(" ")[0])


def test_an_environment_variable_may_mention_a_file(p: hp.Pipeline) -> None:
    a, b = p.new_task(), p.new_task()
    a.command(f"> {a.x}")
    b.env("X", a.x)
    assert b._declaration.parents == {0}


# Resource groups.


def test_a_declared_group_has_its_members_and_no_others(p: hp.Pipeline) -> None:
    t = p.new_task(name="t")
    t.declare_resource_group(out={"bed": "{root}.bed", "log.gz": "{root}.log.gz"})
    assert t.out.bed is t.out["bed"] and t.out["log.gz"] != t.out.bed
    with pytest.raises(AttributeError, match="no member 'bim'"):
        _ = t.out.bim
    with pytest.raises(hp.UsageError, match="no member 'bim'; it has bed, log.gz"):
        t.out["bim"]
    with pytest.raises(hp.UsageError, match="its group names it"):
        t.out.bed.add_extension(".x")


def test_words_that_strings_have_for_methods_can_be_members(p: hp.Pipeline) -> None:
    group = p.read_input_group(index="a.idx", count="a.count", format="a.format")
    assert isinstance(group.index, hp.InputResourceFile)
    assert isinstance(group.format, hp.InputResourceFile)


@pytest.mark.parametrize(
    "template",
    ["out.bed", "", "{root}", "{root}.{bed}", "{root}{root}", "{root}.{0.__class__}", "x{root}",
     "{root} .bed", "{root}/../x", "{root}.ü", "{root}\0", "{{root}}.bed", "{root}/", 3, None],
)  # fmt: skip
def test_a_template_is_root_and_then_a_plain_name(p: hp.Pipeline, template: Any) -> None:
    with pytest.raises(hp.UsageError):
        p.new_task().declare_resource_group(out={"bed": template})


@pytest.mark.parametrize("templates", [{}, None, "x", {"": "{root}.x"}, {"_x": "{root}.x"}, {3: "{root}.x"},
                                       {"a b": "{root}.x"}, {"..": "{root}.x"}])  # fmt: skip
def test_a_group_of_a_wrong_shape_is_refused(p: hp.Pipeline, templates: Any) -> None:
    with pytest.raises(hp.UsageError):
        p.new_task().declare_resource_group(out=templates)


def test_a_reused_name_is_refused_and_nothing_is_declared(p: hp.Pipeline) -> None:
    t = p.new_task()
    t.command(f"> {t.used}")
    with pytest.raises(hp.UsageError, match="'used' already"):
        t.declare_resource_group(fresh={"a": "{root}.a"}, used={"a": "{root}.a"})
    t.declare_resource_group(fresh={"a": "{root}.a"})
    with pytest.raises(hp.UsageError, match="'fresh' already"):
        t.declare_resource_group(fresh={"a": "{root}.a"})
    with pytest.raises(hp.UsageError, match="one template"):
        t.declare_resource_group(twice={"a": "{root}.a", "b": "{root}.a"})


# Inputs and outputs.


@pytest.mark.parametrize("path", [None, 3, b"x", "", "a\0b", "\udcff", "s3://bucket/x", "http://x/y"])
def test_a_path_that_is_none_is_refused(p: hp.Pipeline, path: Any) -> None:
    t = p.new_task()
    t.command(f"> {t.x}")
    for call in (
        lambda: p.read_input(path),
        lambda: p.read_input_group(a=path),
        lambda: p.write_output(t.x, path),
    ):
        with pytest.raises(hp.UsageError):
            call()


def test_path_objects_and_google_storage_are_accepted_at_the_call(p: hp.Pipeline) -> None:
    p.write_output(p.read_input(Path("a b.txt")), Path("/tmp") / "ü (1).txt")
    p.write_output(p.read_input("gs://bucket/a b"), "gs://bucket/c")


def test_only_files_of_this_pipeline_that_are_made_can_be_written_out(p: hp.Pipeline) -> None:
    t = p.new_task(name="t")
    t.command(f"> {t.x}")
    foreign = hp.Pipeline().new_task()
    foreign.command(f"> {foreign.x}")
    for nothing in ("a string", None, t, p, str(t.x)):
        with pytest.raises(hp.WrongType, match="not a file of a pipeline"):
            p.write_output(nothing, "/tmp/x")  # type: ignore[arg-type]
    with pytest.raises(hp.UsageError, match="another pipeline"):
        p.write_output(foreign.x, "/tmp/x")
    with pytest.raises(hp.UsageError, match="no command of task 't' mentions file 'mispelled' of task 't'"):
        p.write_output(t.mispelled, "/tmp/x")
    with pytest.raises(hp.UsageError, match=r"dest \+ '.' \+ identifier"):
        p.write_output(p.read_input_group(a="a"), "/tmp/")


def test_a_group_of_inputs_needs_members(p: hp.Pipeline) -> None:
    with pytest.raises(hp.UsageError, match="needs members"):
        p.read_input_group()


# Setters.


def test_every_setter_returns_the_task(p: hp.Pipeline) -> None:
    t, first = p.new_task(), p.new_task()
    assert (
        t.command("true")
        .declare_resource_group(g={"a": "{root}.a"})
        .depends_on(first)
        .image("ubuntu:22.04")
        .cpu("500m")
        .memory("1Gi")
        .storage(10)
        .env("A", "b")
        .always_run()
        .timeout(1.5)
        .retries(2)
        .always_copy_output()
        is t
    )


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("command", (None,)), ("command", (["echo", "hello"],)), ("command", ("a\0b",)),
        ("command", ("\ud800",)),
        ("image", ("",)), ("image", (None,)), ("image", ("a b",)),
        ("cpu", (0,)), ("cpu", (True,)), ("memory", ("4X",)), ("storage", (-1,)),
        ("env", ("", "x")), ("env", ("A=B", "x")), ("env", ("A", 3)), ("env", ("A", "\0")),
        ("env", (3, "x")), ("always_run", ("yes",)), ("always_copy_output", (1,)),
        ("timeout", (0,)), ("timeout", ("10",)), ("retries", (-1,)), ("retries", (1.5,)),
        ("depends_on", ("t",)), ("depends_on", (None,)),
    ],
)  # fmt: skip
def test_a_bad_value_is_refused_at_the_call(p: hp.Pipeline, method: str, arguments: tuple[Any, ...]) -> None:
    t = p.new_task()
    with pytest.raises(hp.UsageError) as refusal:
        getattr(t, method)(*arguments)
    assert isinstance(refusal.value, ValueError)
    assert t._declaration == p.new_task()._declaration


def test_a_task_cannot_depend_on_itself_or_on_another_pipelines(p: hp.Pipeline) -> None:
    t = p.new_task(name="t")
    with pytest.raises(hp.UsageError, match="itself"):
        t.depends_on(t)
    with pytest.raises(hp.UsageError, match="another pipeline"):
        t.depends_on(hp.Pipeline().new_task())


def test_defaults_are_applied_by_new_task_and_later_setters_win() -> None:
    p = hp.Pipeline(
        default_image="a", default_cpu=2, default_memory=1, default_storage="5G", default_timeout=60
    )
    plain, changed = p.new_task()._declaration, p.new_task().cpu(4).image("b")._declaration
    assert (plain.image, plain.cpu_mcpu, plain.memory_bytes) == ("a", 2000, 10**9)
    assert (plain.storage_bytes, plain.timeout_ms) == (5 * 10**9, 60_000)
    assert (changed.image, changed.cpu_mcpu, changed.memory_bytes) == ("b", 4000, 10**9)


@pytest.mark.parametrize("default", [{"default_cpu": 0}, {"default_memory": "x"}, {"default_image": ""}])
def test_defaults_that_no_task_could_have_are_refused_by_the_pipeline(default: dict[str, Any]) -> None:
    with pytest.raises(hp.UsageError):
        hp.Pipeline(**default)


@pytest.mark.parametrize("attributes", [{"name": "x"}, {"a": 1}, {1: "a"}, {"a": None}, ["a"], "a"])
def test_attributes_map_text_to_text_and_hold_no_name(p: hp.Pipeline, attributes: Any) -> None:
    with pytest.raises(hp.UsageError):
        hp.Pipeline(attributes=attributes)
    with pytest.raises(hp.UsageError):
        p.new_task(attributes=attributes)


def test_the_attribute_name_is_refused_with_a_hint() -> None:
    with pytest.raises(hp.UsageError, match="use name='x'"):
        hp.Pipeline(attributes={"name": "x"})


# The pipeline as a whole.


def test_select_tasks_matches_at_the_start_in_creation_order(p: hp.Pipeline) -> None:
    names = ["align-2", "merge", "align-1", "realign"]
    tasks = [p.new_task(name=name) for name in names] + [p.new_task()]
    assert p.select_tasks("align") == [tasks[0], tasks[2]]
    assert p.select_tasks("") == tasks
    with pytest.raises(hp.UsageError, match="not a regular expression"):
        p.select_tasks("(")


def test_dependencies_come_first_otherwise_creation_order(p: hp.Pipeline) -> None:
    a, b, c, d = (p.new_task(name=name) for name in "abcd")
    a.depends_on(c)
    assert p._ordered() == [b, c, a, d]


def test_a_cycle_is_refused_by_the_names_on_it(p: hp.Pipeline) -> None:
    a, b, c, d = (p.new_task(name=name) for name in "abcd")
    a.depends_on(b)
    b.depends_on(c)
    c.depends_on(a)
    d.depends_on(c)
    with pytest.raises(hp.UsageError, match="in a circle: 'a' → 'c' → 'b' → 'a'"):
        p._ordered()


def test_a_chain_of_many_tasks_is_no_recursion(p: hp.Pipeline) -> None:
    tasks = [p.new_task() for _ in range(20_000)]
    for one, next_one in zip(tasks, tasks[1:], strict=False):
        one.depends_on(next_one)
    assert p._ordered() == tasks[::-1]
    tasks[-1].depends_on(tasks[0])
    with pytest.raises(hp.UsageError, match="circle"):
        p._ordered()


def test_something_else_for_a_backend_is_refused() -> None:
    with pytest.raises(hp.WrongType, match="BatchBackend"):
        hp.Pipeline(backend="test")  # type: ignore[arg-type]


@given(st.text())
def test_a_safe_name_is_a_plain_file_name(text: str) -> None:
    name = safe_name(text)
    assert 0 < len(name) <= 101
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert name not in (".", "..")


@given(st.text(min_size=1))
def test_any_other_text_in_a_command_mentions_nothing(text: str) -> None:
    assert list(mentioned(text)) == []
