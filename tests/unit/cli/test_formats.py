"""The same list for people and for programs."""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal

import pytest
import yaml
from command_line import Run
from fakes_service import FakeService
from hypothesis import given
from hypothesis import strategies as st
from longshore import Client
from longshore.cli.formats import json_line, json_text, yaml_text

NAME = 'a "b", c\n=1+1 日本'


@pytest.fixture
def batches(service: FakeService, client: Client) -> FakeService:
    for name in (NAME, "two"):
        builder = client.create_batch(name=name)
        builder.create_job(None, ["true"], name="only")
        builder.submit()
    service.batches[1].jobs[1].duration_ms = 1_234_567
    service.finish(1, 1)
    return service


def test_csv_is_read_back_whole_and_can_be_calculated_with(run: Run, batches: FakeService) -> None:
    rows = list(csv.DictReader(io.StringIO(run("ls", "-o", "csv").out.decode(), newline="")))
    assert [row["name"] for row in rows] == ["two", NAME]
    assert [Decimal(row["cost"]) for row in rows] == [0, Decimal("0.007407402")]
    (job,) = csv.DictReader(io.StringIO(run("jobs", "1", "-o", "csv").out.decode()))
    assert float(job["duration"]) == 1234.567


def test_lines_of_json_are_documents(run: Run, batches: FakeService) -> None:
    documents = [json.loads(line) for line in run("ls", "-o", "jsonl").lines]
    assert [each["batch"]["id"] for each in documents] == [2, 1]
    assert {each["schema"] for each in documents} == {"longshore/v1"}


def test_yaml_says_what_json_says(run: Run, batches: FakeService) -> None:
    for command in (["ls"], ["jobs", "1"], ["get", "1"], ["get", "1/1"], ["spec", "1/1"], ["tree", "1"]):
        read = yaml.safe_load(run(*command, "-o", "yaml").out)
        assert read == run(*command, "-o", "json").document, command


def test_ids_are_what_other_commands_take(run: Run, batches: FakeService) -> None:
    assert run("ls", "-o", "id").lines == ["2", "1"]
    assert run("jobs", "1", "-o", "id").lines == ["1/1"]
    assert run("get", run("jobs", "1", "-o", "id").lines[0]).code == 0


def test_wide_has_more_columns_and_columns_can_be_chosen(run: Run, batches: FakeService) -> None:
    titles = run("ls").lines[0].split()
    wide = run("ls", "-o", "wide").lines[0].split()
    assert set(titles) < set(wide) and "USER" in wide
    assert run("ls", "--columns", "user,id").lines == ["USER  ID", "ada    2", "ada    1"]


def test_a_column_that_there_is_not_is_refused_before_anything_is_asked(
    run: Run, batches: FakeService
) -> None:
    batches.faults.calls.clear()
    ran = run("ls", "--columns", "id,colour")
    assert ran.code == 2 and "there are: id, name" in ran.err and ran.out == b""
    assert "ListBatches" not in batches.faults.calls
    assert run("ls", "-o", "json", "--columns", "id").code == 2


def test_an_empty_list_is_one_in_every_format(run: Run, service: FakeService) -> None:
    assert yaml.safe_load(run("ls", "-o", "yaml").out) == {"schema": "longshore/v1", "batches": []}
    assert run("ls", "-o", "jsonl").out == b"" == run("ls", "-o", "id").out
    assert len(run("ls", "-o", "csv").lines) == 1


def test_the_format_can_be_set_once_for_all(
    run: Run, batches: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGSHORE_OUTPUT", "json")
    assert run("ls").document["batches"]
    assert json.loads(run("get", "77").err)["error"]["code"] == "not_found"
    assert run("ls", "-o", "id").lines == ["2", "1"]
    monkeypatch.setenv("LONGSHORE_OUTPUT", "csv")
    assert run("get", "1").lines[0].startswith("batch"), "what it cannot be written as, it is not"


def test_an_error_leaves_no_half_document(run: Run, batches: FakeService) -> None:
    for output in ("json", "jsonl", "yaml", "csv", "table"):
        ran = run("jobs", "77", "-o", output)
        assert (ran.code, ran.out) == (3, b""), output


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


DOCUMENTS = st.recursive(
    TEXTS | st.integers() | st.booleans() | st.none(),
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    max_leaves=10,
)


@given(DOCUMENTS)
def test_every_document_is_read_back_and_is_printable(document: object) -> None:
    for text in (json_text(document), json_line(document), yaml_text(document)):
        assert set(text) <= {chr(each) for each in range(32, 127)} | {"\n"}
    assert json.loads(json_text(document)) == json.loads(json_line(document)) == document
    assert yaml.safe_load(yaml_text(document)) == document
