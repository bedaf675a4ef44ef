"""`longshore cost`, `longshore billing` and `longshore estimate`: what they print, say and return."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from command_line import Run
from fakes_service import FakeService
from longshore import Client
from longshore.cli.cost import summary
from longshore.cli.output import Look
from longshore.costs import forecast, parse_dollars
from longshore.errors import UsageError, WrongType
from longshore.status import BatchStatus
from longshore_api.v1 import billing_service_pb2 as pb

CORE_HOUR = 3_600_000_000


def batch_of(**fields: object) -> BatchStatus:
    now = datetime.now(UTC)
    nothing = dict.fromkeys(("n_pending", "n_ready", "n_running", "n_failed", "n_cancelled", "msec_mcpu"), 0)
    known: dict[str, object] = {
        **nothing, "id": 1, "billing_project": "test", "user": "ann", "state": "running", "complete": False,
        "closed": True, "n_jobs": 100, "n_completed": 50, "n_succeeded": 50, "cost_nanousd": 10 * 10**9,
        "attributes": {}, "created_at": now, "closed_at": now, "completed_at": None, "cancelled_at": None,
        "cancelled_by": "", "cancel_reason": "",
    }  # fmt: skip
    return BatchStatus(**(known | fields))  # type: ignore[arg-type]


def test_a_batch_is_told_apart_by_resource_and_its_sum_is_said(
    run: Run, service: FakeService, client: Client
) -> None:
    builder = client.create_batch(name="align")
    builder.create_job(None, ["true"])
    builder.submit()
    service.billing.costs = [
        pb.Cost(resource="compute", nanousd=10_000_000, mcpu_ms=CORE_HOUR),
        pb.Cost(resource="disk", nanousd=1_454_483, mcpu_ms=CORE_HOUR),
    ]
    ran = run("cost", "last")
    assert [line.split() for line in ran.lines] == [
        ["RESOURCE", "CORE-HOURS", "COST"],
        ["compute", "1", "$0.010000000"],
        ["disk", "1", "$0.001454483"],
    ]
    assert "of complete jobs (" in ran.err
    assert (service.billing.asked.batch_id, list(service.billing.asked.by)) == (1, [pb.COSTS_BY_RESOURCE])
    (first, _) = run("cost", "1", "-o", "json").document["costs"]
    assert (first["resource"], first["cost"], first["core_hours"]) == ("compute", {"usd": 0.01}, 1)
    by_job = run("cost", "1", "--by", "job", "-o", "csv").lines
    assert by_job[0] == "id,name,state,tries,cores,time,cost" and by_job[1].startswith("1/1,")
    assert run("cost", "1", "--by", "attempt").lines[0].split()[:2] == ["ID", "TRY"]
    assert run("cost", "1/1", "-o", "id").code == 0
    assert run("cost", "1/1", "--by", "day").code == 2
    assert run("cost", "7").code == 3


def test_what_is_exact_what_runs_and_a_forecast_are_three_figures() -> None:
    unfinished = batch_of(unfinished_nanousd=10**9)
    assert list(summary(unfinished, Look(tty=True))) == [
        "≥$10.00  of complete jobs (50 of 100 jobs complete)",
        "~$1.00  run up so far by jobs that are not complete",
        "~$20.00  forecast of the whole (if the rest is like what is complete)",
    ]
    few = batch_of(n_completed=2, n_succeeded=2)
    assert forecast(few) == (Decimal(500), "rough")
    assert forecast(batch_of(unfinished_nanousd=90 * 10**9)) == (
        Decimal(100),
        "if the rest is like what is complete",
    )
    for nothing_to_say in (
        batch_of(complete=True),
        batch_of(n_completed=0, n_succeeded=0),
        batch_of(state="cancelled"),
        batch_of(closed=False),
    ):
        assert forecast(nothing_to_say) is None
    (line,) = summary(batch_of(complete=True), Look(tty=True))
    assert line.startswith("$10.00  of complete jobs")


def test_a_project_is_made_limited_closed_and_opened(run: Run, service: FakeService) -> None:
    assert run("billing", "create", "tides").lines[0].split() == ["project", "tides"]
    shown = run("billing", "limit", "tides", "500", "--hard", "-o", "json").document["project"]
    assert (shown["limit"], shown["hard"], shown["state"]) == (500, True, "open")
    service.billing.projects["tides"].spent_nanousd = 400 * 10**9
    title, _, tides = run("billing", "ls").lines
    assert title.split() == ["NAME", "STATE", "SPENT", "RUNNING", "LIMIT", "USED"]
    assert tides.split() == ["tides", "warned", "$400.000000000", "$500.000000000", "hard", "80%"]
    service.billing.projects["tides"].running_nanousd = 100 * 10**9
    assert run("billing", "show", "tides", "-o", "json").document["project"]["state"] == "spent"
    assert run("billing", "limit", "tides", "none").code == 0
    assert not service.billing.projects["tides"].HasField("limit_nanousd")
    ran = run("billing", "close", "tides")
    assert "take it back: longshore billing open tides" in ran.err
    assert service.billing.projects["tides"].closed
    run("billing", "open", "tides")
    assert not service.billing.projects["tides"].closed


def test_members_come_and_go(run: Run, service: FakeService) -> None:
    run("billing", "add", "test", "lin", "--owner")
    run("billing", "add", "test", "ann")
    assert [line.split() for line in run("billing", "members", "test").lines] == [
        ["owner", "lin"],
        ["member", "ann"],
    ]
    run("billing", "remove", "test", "lin")
    assert run("billing", "members", "test", "-o", "json").document["members"] == [
        {"user": "ann", "role": "member"}
    ]


def test_usage_of_a_period_is_a_csv_for_programs(run: Run, service: FakeService) -> None:
    service.billing.costs = [
        pb.Cost(day=20_780, project="tides", nanousd=5, mcpu_ms=CORE_HOUR),
        pb.Cost(day=20_781, project="tides", nanousd=7, mcpu_ms=CORE_HOUR // 2),
    ]
    words = ["--since", "2026-11-01", "--until", "2026-11-30", "--by", "day,project"]
    assert run("billing", "usage", *words, "-o", "csv").lines == [
        "day,project,core-hours,cost",
        "2026-11-23,tides,1,0.000000005",
        "2026-11-24,tides,0.5,0.000000007",
    ]
    asked = service.billing.asked
    assert (asked.since_day, asked.until_day - asked.since_day) == (20_758, 30)
    assert "$0.000000012  together" in run("billing", "usage", *words).err
    assert run("billing", "usage", "--by", "colour").code == 2
    assert run("billing", "usage", "--since", "yesterday").code == 2


def test_prices_are_listed_and_set(run: Run, service: FakeService) -> None:
    (seed,) = run("billing", "rates", "-o", "jsonl").lines
    assert '"disk": "17/11688"' in seed
    _, _, later = run("billing", "set-rates", "--from", "2999-01-01", "compute=0.01", "ip=1/4000").lines
    assert later.split() == ["2999-01-01", "compute=0.01", "ip=1/4000", "$0.010250"]
    for wrong in ("compute", "compute=1/0", "compute=cheap", "compute=-1"):
        assert run("billing", "set-rates", "--from", "2999-01-01", wrong).code == 2


def test_an_estimate_says_what_is_reserved(run: Run, service: FakeService) -> None:
    ran = run("estimate", "--cpu", "1", "--memory", "7G", "--duration", "1h", "--jobs", "100")
    fields = [line.split() for line in ran.lines]
    assert ["reserved", "2", "cores", "each"] in fields and ["cost", "~$4.340896600"] in fields
    shown = run("estimate", "--duration", "90", "-o", "json").document["estimate"]
    assert (shown["reserved_mcpu"], shown["duration_s"], shown["n_jobs"]) == (1000, 90, 1)
    for wrong in (["--duration", "long"], ["--duration", "1h", "--cpu", "many"], ["--cpu", "1"]):
        assert run("estimate", *wrong).code == 2
    assert not service.batches


@pytest.mark.parametrize("wrong", ["", "much", "-1", 0, "1e-10", float("nan"), float("inf"), 10**12])
def test_what_is_no_amount_of_dollars_is_refused(wrong: object) -> None:
    with pytest.raises(UsageError):
        parse_dollars(wrong)
    with pytest.raises(WrongType):
        parse_dollars(True)
