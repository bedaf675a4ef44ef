"""Longshore: run pipelines of containers from Python.

>>> import longshore as hp
>>> p = hp.Pipeline(name='hello')            # backend=hp.BatchBackend('my-project')
>>> t = p.new_task(name='hello')
>>> t.command('echo "hello world"')
<Task 'hello' of pipeline 'hello'>

Nothing is imported before it is used: `import longshore` is fast, and only what talks to a service
loads gRPC.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .admin import Admin as Admin
    from .admin import AsyncAdmin as AsyncAdmin
    from .aio import AsyncBatch as AsyncBatch
    from .aio import AsyncBatchBuilder as AsyncBatchBuilder
    from .aio import AsyncClient as AsyncClient
    from .aio import AsyncJob as AsyncJob
    from .aio import AsyncLog as AsyncLog
    from .aio import AsyncUpdate as AsyncUpdate
    from .backend import BatchBackend as BatchBackend
    from .billing import AsyncBilling as AsyncBilling
    from .billing import Billing as Billing
    from .builder import BatchBuilder as BatchBuilder
    from .builder import Update as Update
    from .costs import BillingProject as BillingProject
    from .costs import Cost as Cost
    from .costs import Estimate as Estimate
    from .costs import Member as Member
    from .costs import RateCard as RateCard
    from .errors import AuthError as AuthError
    from .errors import BatchError as BatchError
    from .errors import BatchFailedError as BatchFailedError
    from .errors import Conflict as Conflict
    from .errors import NotFound as NotFound
    from .errors import NotSubmitted as NotSubmitted
    from .errors import PermissionDenied as PermissionDenied
    from .errors import QuotaExceeded as QuotaExceeded
    from .errors import Unavailable as Unavailable
    from .errors import UsageError as UsageError
    from .errors import WaitTimeout as WaitTimeout
    from .errors import WrongType as WrongType
    from .handles import Batch as Batch
    from .handles import Job as Job
    from .handles import Log as Log
    from .local.backend import LocalBackend as LocalBackend
    from .local.backend import LocalFailedError as LocalFailedError
    from .people import AsyncPeople as AsyncPeople
    from .people import People as People
    from .pipeline import Pipeline as Pipeline
    from .pipeline import Task as Task
    from .resource import InputResourceFile as InputResourceFile
    from .resource import ResourceFile as ResourceFile
    from .resource import ResourceGroup as ResourceGroup
    from .resource import TaskResourceFile as TaskResourceFile
    from .service import Client as Client
    from .status import AttemptStatus as AttemptStatus
    from .status import AuditEntry as AuditEntry
    from .status import BatchDeed as BatchDeed
    from .status import BatchStatus as BatchStatus
    from .status import ContainerStatus as ContainerStatus
    from .status import Event as Event
    from .status import Events as Events
    from .status import FailureCount as FailureCount
    from .status import FailureCounts as FailureCounts
    from .status import JobSpec as JobSpec
    from .status import JobStatus as JobStatus
    from .status import LogChunk as LogChunk
    from .status import Membership as Membership
    from .status import Page as Page
    from .status import Pause as Pause
    from .status import QueryCompletion as QueryCompletion
    from .status import QueryCompletions as QueryCompletions
    from .status import Reason as Reason
    from .status import RunningAttempt as RunningAttempt
    from .status import ServiceStatus as ServiceStatus
    from .status import Session as Session
    from .status import TokenStatus as TokenStatus
    from .status import UserStatus as UserStatus
    from .status import WorkerStatus as WorkerStatus

_MODULES = {
    "admin": "Admin AsyncAdmin",
    "aio": "AsyncBatch AsyncBatchBuilder AsyncClient AsyncJob AsyncLog AsyncUpdate",
    "billing": "AsyncBilling Billing",
    "costs": "BillingProject Cost Estimate Member RateCard",
    "backend": "BatchBackend",
    "builder": "BatchBuilder Update",
    "errors": "AuthError BatchError BatchFailedError Conflict NotFound NotSubmitted PermissionDenied"
    " QuotaExceeded Unavailable UsageError WaitTimeout WrongType",
    "handles": "Batch Job Log",
    "local.backend": "LocalBackend LocalFailedError",
    "people": "AsyncPeople People",
    "pipeline": "Pipeline Task",
    "resource": "InputResourceFile ResourceFile ResourceGroup TaskResourceFile",
    "service": "Client",
    "status": "AttemptStatus AuditEntry BatchDeed BatchStatus ContainerStatus Event Events FailureCount"
    " FailureCounts JobSpec JobStatus LogChunk Membership Page Pause QueryCompletion QueryCompletions Reason"
    " RunningAttempt ServiceStatus Session TokenStatus UserStatus WorkerStatus",
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names.split()}
__all__ = sorted(_MODULE_OF)  # noqa: PLE0605  # What `import *` brings; told to type checkers above.


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
