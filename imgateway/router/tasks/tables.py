"""The tables of push tasks, and what differs between SQLite, PostgreSQL and MySQL.

Rows go in and out in batches that are one statement each: a JSON array of arrays which the database itself
takes apart (`rows_of`). In SQLite that matters most: every step of a statement gives the interpreter's lock
away, and beside a busy reactor getting it back takes up to 5 ms, so a row must not be a step of its own. On
the other two it saves a round trip for each row.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
)
from sqlalchemy.dialects import mysql

__all__ = (
    "OWNER_CHARACTERS",
    "SCHEMA_VERSION",
    "ItemState",
    "clock_sql",
    "insert_sql",
    "items",
    "metadata",
    "rows_of",
    "tasks",
    "update_sql",
    "versions",
)

SCHEMA_VERSION = 1
# Its longest written form: device:USER/DEVICE, 64 bytes each, every one of them escaped.
ADDRESS_CHARACTERS = 400
OWNER_CHARACTERS = 64


class ItemState(IntEnum):
    """Where one address of a task stands."""

    UNSENT = 0
    """Not pushed yet, or pushed and not written down yet, which comes to the same: it will be again."""
    TAKEN = 1
    """Its log has it; nobody has acknowledged it yet, as far as was looked."""
    REFUSED = 2
    """Refused for good, with an `OutcomeCode`."""
    DELIVERED = 3
    """A device of the user has acknowledged it."""
    GONE = 4
    """The mailbox lost it, to age or quota, before anybody had it."""
    UNKNOWN = 5
    """It was taken where nobody acknowledges (a room, an area, all, a topic), or its log was replaced."""


# One kind of table for each database: utf8mb4, and rows that many may change at once.
_OPTIONS: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4"}
_Number = BigInteger().with_variant(Integer, "sqlite")  # only INTEGER counts up by itself there
_Long = Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
_Bytes = LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")

metadata = MetaData()

versions = Table("push_schema", metadata, Column("version", Integer, nullable=False), **_OPTIONS)

tasks = Table(
    "push_task",
    metadata,
    Column("number", _Number, primary_key=True, autoincrement=True),
    Column("id", String(32), nullable=False, unique=True),
    Column("name", String(200), nullable=False),
    Column("sender", String(80), nullable=False),
    Column("message", _Bytes, nullable=False),
    Column("rate", Float, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("state", String(12), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("started_ms", BigInteger, nullable=False, default=0),
    Column("finished_ms", BigInteger, nullable=False, default=0),
    Column("total", Integer, nullable=False, default=0),
    Column("unsent", Integer, nullable=False, default=0),
    Column("refused", Integer, nullable=False, default=0),
    Column("bad", Integer, nullable=False, default=0),
    Column("bad_lines", _Long, nullable=False, default="[]"),
    # The lease: who runs the task, in the how-manieth tenure, and until when nobody else may.
    Column("owner", String(OWNER_CHARACTERS), nullable=False, default=""),
    Column("tenure", Integer, nullable=False, default=0),
    Column("until_ms", BigInteger, nullable=False, default=0),
    sqlite_autoincrement=True,  # the number of a task that was deleted is not used again
    **_OPTIONS,
)

items = Table(
    "push_item",
    metadata,
    Column("task", _Number, ForeignKey("push_task.number"), primary_key=True, autoincrement=False),
    Column("n", Integer, primary_key=True, autoincrement=False),
    Column("address", String(ADDRESS_CHARACTERS), nullable=False),
    Column("own", _Long, nullable=True),
    Column("attempt", SmallInteger, nullable=False, default=0),
    Column("state", SmallInteger, nullable=False, default=0),
    Column("code", SmallInteger, nullable=False, default=0),
    Column("epoch", BigInteger, nullable=False, default=0),
    Column("seq", BigInteger, nullable=False, default=0),
    sqlite_with_rowid=False,
    **_OPTIONS,
)

_NUMBER, _TEXT = "number", "text"
_COLUMNS = {
    "n": _NUMBER,
    "address": _TEXT,
    "own": _TEXT,
    "state": _NUMBER,
    "code": _NUMBER,
    "epoch": _NUMBER,
    "seq": _NUMBER,
}


def clock_sql(dialect: str) -> str:
    """The database's own clock in Unix milliseconds; "" for SQLite, whose clock is this machine's."""
    if dialect == "postgresql":
        return "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)"
    if dialect in ("mysql", "mariadb"):
        return "SELECT CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED)"
    return ""


def rows_of(dialect: str, *names: str) -> str:
    """The parameter ``:rows``, a JSON array of arrays, as a table j with these columns."""
    if dialect in ("mysql", "mariadb"):
        kinds = {_NUMBER: "BIGINT", _TEXT: "LONGTEXT CHARACTER SET utf8mb4"}
        columns = ", ".join(
            f"{name} {kinds[_COLUMNS[name]]} PATH '$[{place}]'" for place, name in enumerate(names)
        )
        return f"JSON_TABLE(:rows, '$[*]' COLUMNS ({columns})) AS j"
    if dialect == "postgresql":
        kinds = {_NUMBER: "BIGINT", _TEXT: "TEXT"}
        columns = ", ".join(
            f"CAST(value->>{place} AS {kinds[_COLUMNS[name]]}) AS {name}" for place, name in enumerate(names)
        )
        return f"(SELECT {columns} FROM jsonb_array_elements(CAST(:rows AS jsonb))) AS j"
    columns = ", ".join(f"json_extract(value, '$[{place}]') AS {name}" for place, name in enumerate(names))
    return f"(SELECT {columns} FROM json_each(:rows)) AS j"


def insert_sql(dialect: str) -> str:
    """New items of a task, from rows of n, address, own."""
    rows = rows_of(dialect, "n", "address", "own")
    return (
        "INSERT INTO push_item (task, n, address, own, attempt, state, code, epoch, seq) "
        f"SELECT :task, j.n, j.address, j.own, 0, 0, 0, 0, 0 FROM {rows}"
    )


def update_sql(dialect: str, *names: str, when: str) -> str:
    """Set these columns of a task's items, from rows of n and the columns, where `when` holds as well.

    ``:low`` and ``:high`` bound n: without them PostgreSQL, which has no statistics of a task that is new,
    reads all of it each time (500 rows of 100,000: 20 ms; with them 7).
    """
    rows = rows_of(dialect, "n", *names)
    where = f"push_item.task = :task AND push_item.n = j.n AND push_item.n BETWEEN :low AND :high AND {when}"
    if dialect in ("mysql", "mariadb"):
        sets = ", ".join(f"push_item.{name} = j.{name}" for name in names)
        return f"UPDATE {rows} STRAIGHT_JOIN push_item SET {sets} WHERE {where}"
    if dialect == "postgresql":
        sets = ", ".join(f"{name} = j.{name}" for name in names)
        return f"UPDATE push_item SET {sets} FROM {rows} WHERE {where}"
    # SQLite's UPDATE FROM goes through all the rows for each item, and nothing can tell it not to: 250 times
    # as long. CROSS JOIN keeps its order of tables, and the conflict is the row to change.
    columns = ("task", "n", "address", "own", "attempt", "state", "code", "epoch", "seq")
    new = ", ".join(f"j.{name}" if name in names else f"push_item.{name}" for name in columns)
    sets = ", ".join(f"{name} = excluded.{name}" for name in names)
    return (
        f"INSERT INTO push_item ({', '.join(columns)}) SELECT {new} FROM {rows} CROSS JOIN push_item "
        f"WHERE {where} ON CONFLICT (task, n) DO UPDATE SET {sets}"
    )
