"""SQLite in WAL mode.

    database.py write FILE    moves money until it is told to end
    database.py check FILE    is what is there whole? prints how often it was moved
"""

import random
import signal
import sqlite3
import sys

ACCOUNTS = 1000

doing, path = sys.argv[1:]
database = sqlite3.connect(path, isolation_level=None)
if doing == "check":
    told = database.execute("PRAGMA integrity_check").fetchall()
    assert told == [("ok",)], told
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert database.execute("SELECT count(*), sum(balance) FROM account").fetchone() == (ACCOUNTS, 0)
    moved = database.execute("SELECT count(*), coalesce(max(id), 0) FROM moved").fetchone()
    assert moved[0] == moved[1], moved
    print(moved[0])
    sys.exit()

running = True


def end(*_):
    global running
    running = False


signal.signal(signal.SIGTERM, end)
assert database.execute("PRAGMA journal_mode = wal").fetchone() == ("wal",)
with database:
    database.execute("BEGIN")
    database.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER, text TEXT)")
    database.execute("CREATE TABLE moved (id INTEGER PRIMARY KEY, amount INTEGER)")
    database.executemany("INSERT INTO account VALUES (?, 0, ?)", ((n, "x" * 2000) for n in range(ACCOUNTS)))
    database.execute("COMMIT")
print("ready", flush=True)
while running:
    amount = random.randrange(1, 1000)
    one, two = random.sample(range(ACCOUNTS), 2)
    database.execute("BEGIN IMMEDIATE")
    database.execute("UPDATE account SET balance = balance - ? WHERE id = ?", (amount, one))
    database.execute("UPDATE account SET balance = balance + ? WHERE id = ?", (amount, two))
    database.execute("INSERT INTO moved (amount) VALUES (?)", (amount,))
    database.execute("COMMIT")
