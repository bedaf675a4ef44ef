"""What the database tells when all is over: rows and log, and whether they keep what the service promises."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from faults.cluster import Cluster, Ran
from longshore_controller.core import events as ev
from longshore_controller.core.model import AttemptState, EndReason, JobState
from longshore_controller.core.money import cost_nanousd
from longshore_controller.core.rows import AttemptRow, BatchRow, JobRow
from longshore_controller.core.state import State, fold
from longshore_controller.store import Store
from longshore_controller.wire import records

Key = tuple[int, int]
"""Batch id, job id."""


class History:
    """Of a cluster whose controller has ended."""

    def __init__(self, cluster: Cluster) -> None:
        store = Store(
            cluster.database,
            encode_events=records.encode_events,
            decode_events=records.decode_events,
            encode_containers=records.encode_containers,
            decode_containers=records.decode_containers,
        )
        store.open()
        try:
            self.state, self.last_seq = store.load()
            self.commits = store.events_after(0, 1_000_000) or []
            self.batches: dict[int, BatchRow] = {b.batch_id: b for b in store.batches("ann", limit=100_000)}
            self.jobs: dict[Key, JobRow] = {}
            self.attempts: dict[Key, list[AttemptRow]] = {}
            for batch_id in self.batches:
                for view in store.jobs(batch_id, limit=100_000):
                    key = batch_id, view.row.job_id
                    self.jobs[key] = view.row
                    self.attempts[key] = store.attempts(*key) if view.row.n_attempts else []
            self._columns = {batch_id: store.columns(batch_id) for batch_id in self.batches}
        finally:
            store.close()

    @property
    def events(self) -> list[ev.Event]:
        return [event for _, events in self.commits for event in events]

    def reasons(self, key: Key) -> list[EndReason | None]:
        """Why each attempt of the job ended."""
        return [attempt.reason for attempt in self.attempts[key]]

    def check(self) -> None:
        """All is over; each job completed once; attempts ended, one after the other; the bill is exact; the
        log has no gap and tells the same as the rows."""
        self._check_log()
        self._check_jobs()
        self._check_bill()

    def check_runs(self, mains: Iterable[Ran]) -> None:
        """By what really ran: every attempt at most once, and of each job one at a time."""
        ran = list(mains)
        twice = [attempt_id for attempt_id, n in Counter(r.attempt_id for r in ran).items() if n > 1]
        assert not twice, f"attempts whose main container started twice: {twice}"
        by_attempt = {r.attempt_id: r for r in ran}
        for key, attempts in self.attempts.items():
            runs = [by_attempt[a.attempt_id] for a in attempts if a.attempt_id in by_attempt]
            runs.sort(key=lambda run: run.began_ms)
            for one, next_one in zip(runs, runs[1:], strict=False):
                assert one.ended_ms <= next_one.began_ms, f"two runs of job {key} overlap: {one}, {next_one}"

    def _check_log(self) -> None:
        before = 0
        for last_seq, events in self.commits:
            assert last_seq == before + len(events), f"the log has a gap between {before} and {last_seq}"
            before = last_seq
        assert before == self.last_seq, f"the log ends at {before}, not at {self.last_seq}"
        self.state.check()
        events = [self._with_jobs(e) if isinstance(e, ev.BatchClosed) else e for e in self.events]
        assert fold(State(), events) == self.state, "the log tells something else than the rows"

    def _with_jobs(self, closed: ev.BatchClosed) -> ev.BatchClosed:
        """The log does not repeat what is in rows that never change."""
        return ev.BatchClosed(closed.batch_id, closed.at_ms, self._columns[closed.batch_id])

    def _check_jobs(self) -> None:
        for batch in self.batches.values():
            assert batch.completed_at_ms is not None, f"batch {batch.batch_id} is not complete: {batch}"
        completed: Counter[Key] = Counter()
        live: dict[Key, str] = {}
        for event in self.events:
            if isinstance(event, ev.AttemptAssigned):
                key = event.batch_id, event.job_id
                assert key not in live, f"job {key} was given away while attempt {live[key]} was live"
                live[key] = event.attempt_id
            elif isinstance(event, ev.AttemptEnded):
                key = event.batch_id, event.job_id
                assert live.pop(key, None) == event.attempt_id, f"an end of what was not live: {event}"
                completed[key] += event.job_state.is_complete
            elif isinstance(event, ev.JobsCancelled):
                completed.update(
                    (event.batch_id, i) for first, last in event.jobs for i in range(first, last + 1)
                )
        assert not live, f"attempts without an end: {live}"
        assert completed == dict.fromkeys(self.jobs, 1), "each job completes once"
        for key, job in self.jobs.items():
            attempts = self.attempts[key]
            assert job.state.is_complete and job.n_attempts == len(attempts), job
            assert [a.number for a in attempts] == list(range(1, len(attempts) + 1)), attempts
            assert all(a.state is AttemptState.ENDED and a.reason is not None for a in attempts), attempts
            for one, next_one in zip(attempts, attempts[1:], strict=False):
                assert one.ended_at_ms is not None and one.ended_at_ms <= next_one.assigned_at_ms, attempts

    def _check_bill(self) -> None:
        for key, job in self.jobs.items():
            attempts = self.attempts[key]
            for a in attempts:
                cost = cost_nanousd(a.mcpu, a.started_at_ms, a.main_ms) if a.started_at_ms else 0
                assert a.cost_nanousd == cost, a
            assert job.cost_nanousd == sum(a.cost_nanousd for a in attempts), job
            assert job.duration_ms == sum(a.main_ms for a in attempts), job
            assert job.msec_mcpu == sum(a.mcpu * a.main_ms for a in attempts), job
        for batch in self.batches.values():
            jobs = [job for (batch_id, _), job in self.jobs.items() if batch_id == batch.batch_id]
            assert batch.cost_nanousd == sum(job.cost_nanousd for job in jobs), batch
            assert batch.msec_mcpu == sum(job.msec_mcpu for job in jobs), batch
            states = Counter(job.state for job in jobs)
            failed = states[JobState.FAILURE] + states[JobState.ERROR]
            counted = batch.n_jobs, batch.n_succeeded, batch.n_failed, batch.n_cancelled
            assert counted == (len(jobs), states[JobState.SUCCESS], failed, states[JobState.CANCELLED]), batch
