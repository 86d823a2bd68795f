"""Mutators of SQLite files through SQLite: values of wrong types, tables that are views, triggers, endless queries."""

from __future__ import annotations

import sqlite3
from random import Random

from .mutate_bytes import Mutator, flip

VALUES = (
    "NULL",
    "-1",
    "0",
    "9223372036854775807",
    "1e999",
    "'x'",
    "''",
    "x'00'",
    "x'ff'",
    "zeroblob(3)",
    "'\u202e'",
    "zeroblob(90000000)",
)
ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)"


def rows(data: bytes, rng: Random) -> bytes:
    """Change a column, delete rows, or replace a table."""
    sql = sqlite3.connect(":memory:")
    try:
        sql.deserialize(data)
        sql.execute("PRAGMA ignore_check_constraints = ON")
        tables = [
            row[0]
            for row in sql.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        ]
        table = rng.choice(tables)
        columns = [row[1] for row in sql.execute(f"PRAGMA table_info({table})")]
        sql.executescript(_change(table, columns, rng))
        sql.commit()
        return sql.serialize()
    except sqlite3.Error:
        return flip(data, rng)
    finally:
        sql.close()


def _change(table: str, columns: list[str], rng: Random) -> str:
    column, value = rng.choice(columns), rng.choice(VALUES)
    names = ", ".join(f"x AS {name}" for name in columns)
    return rng.choice(
        (
            *[f"UPDATE {table} SET {column} = {value}"] * 8,
            f"DELETE FROM {table}",
            f"DROP TABLE {table}",
            f"DROP TABLE {table}; CREATE VIEW {table} AS {ENDLESS} SELECT {names} FROM n",
            f"DROP TABLE {table}; CREATE TABLE {table} (x)",
            f"ALTER TABLE {table} RENAME COLUMN {column} TO other",
            f"CREATE TRIGGER t AFTER INSERT ON {table} BEGIN DELETE FROM {table}; END",
            f"ALTER TABLE {table} ADD COLUMN extra TEXT DEFAULT 'x'",
            "PRAGMA writable_schema = ON; "
            f"UPDATE sqlite_master SET sql = 'CREATE TABLE {table} (x' WHERE name = '{table}'",
            "PRAGMA user_version = 99; PRAGMA application_id = 5",
        )
    )


SQLITE: tuple[Mutator, ...] = (rows, rows, rows)
