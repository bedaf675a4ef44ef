"""The database: the only place where rows are. Everything that knows peewee is in here."""

from longshore_controller.store.audit import deed
from longshore_controller.store.conditions import item_of
from longshore_controller.store.dialect import Contradiction, StoreUnavailable
from longshore_controller.store.directory import SLIDING_MS, Holder, TokenRow, UserRow, id_of
from longshore_controller.store.pages import DEEP, Found, JobsPage
from longshore_controller.store.rows import JobView
from longshore_controller.store.store import EpochLost, Store, StoreInUse

__all__ = [
    "DEEP",
    "SLIDING_MS",
    "Contradiction",
    "EpochLost",
    "Found",
    "Holder",
    "JobView",
    "JobsPage",
    "Store",
    "StoreInUse",
    "StoreUnavailable",
    "TokenRow",
    "UserRow",
    "deed",
    "id_of",
    "item_of",
]
