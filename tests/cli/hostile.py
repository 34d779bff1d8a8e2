"""hostile.py STATE WORKSPACE MESSAGES: clients that misbehave harm neither the daemon nor others."""

import json
import os
import select
import socket
import sys

from client import Client, Failure

state, workspace, messages = sys.argv[1:]
stage = Client(state)
before = os.stat(workspace), sorted(os.listdir(workspace))


def connect(*said):
    """A connection on which this has been said."""
    raw = socket.socket(socket.AF_UNIX)
    raw.connect(state + "/control.sock")
    for line in said:
        raw.sendall(line)
    return raw


def replies(raw):
    """All that the daemon says on it after its hello, up to the end."""
    said = []
    try:
        for line in raw.makefile("rb"):
            said.append(json.loads(line))
    except ConnectionResetError:
        pass  # So it ends where the daemon has closed before it has read all.
    return said[1:]


HELLO = b'{"protocol":1}\n'
STATUS = b'{"status":{}}\n'

# In place of a hello.
for bad in [b"\n", b"\xff\xfe\n", b"{}\n", STATUS, b'{"protocol":"1"}\n', b"[" * 100_000 + b"\n", b"\0" * 9999 + b"\n"]:
    with connect(bad) as raw:
        [reply] = replies(raw)
        assert reply["failure"]["code"] == 2, (bad[:40], reply)

# In place of a request: it is answered, and the next one is carried out.
for bad in [b"\n", b"\xff\xfe\n", b"[" * 100_000 + b"\n", b"\0" * 9999 + b"\n", b'{"step_begin":{"step":"x","y":1}}\n']:
    with connect(HELLO, bad, STATUS) as raw:
        raw.shutdown(socket.SHUT_WR)
        first, second = replies(raw)
        assert first["failure"]["code"] == 2 and "report" in second, (bad[:40], first)
with connect(HELLO) as raw:
    try:
        for _ in range(17):
            raw.sendall(b"x" * (1 << 20))
    except BrokenPipeError:
        pass
    [reply] = replies(raw)
    assert "more than 16 MiB" in reply["failure"]["message"], reply

# A part of a message, and then silence; and one who asks without end and reads nothing. They stay up to the end.
silent = [connect(), connect(HELLO[:5]), connect(HELLO), connect(HELLO, STATUS[:7])]
deaf = connect(HELLO)
deaf.setblocking(False)
try:
    while True:
        deaf.send(STATUS)
except BlockingIOError:
    pass

# Gone in the middle of each request, and before the reply to it.
with open(messages) as file:
    requests = [json.loads(line).get("request") for line in file]
requests = [json.dumps(request).encode() + b"\n" for request in requests if request]
assert len(requests) > 20, requests
for request in requests:
    for part in range(0, len(request), 7):
        connect(HELLO, request[:part]).close()
    if b"unmount" not in request:
        connect(HELLO, request).close()
# Of whole requests some are carried out: let there be nothing left of them.
while True:
    status = stage.ask("status")["data"]
    if not (status["steps"] or status["groups"] or status["snapshots"]):
        break
    for request, found, name in [
        ("step_discard", [step["name"] for step in status["steps"]], "step"),
        ("group_remove", list(status["groups"]), "group"),
        ("snapshot_rm", [snapshot["name"] for snapshot in status["snapshots"]], "name"),
    ]:
        for one in found:
            try:
                stage.ask(request, **{name: one})
            except Failure:
                pass  # It has gone meanwhile, or has not ended yet.
assert (os.stat(workspace).st_mode, sorted(os.listdir(workspace))) == (before[0].st_mode, before[1])

# Another request, or none, while a command runs: it runs on.
with connect(HELLO, b'{"step_run":{"step":"busy"}}\n', STATUS, b"nonsense\n", b'{"step_ended":{"exit_code":0}}\n') as raw:
    lines = raw.makefile("rb")
    kinds = [list(json.loads(lines.readline())) for _ in range(5)][1:]
    assert kinds == [["entered"], ["failure"], ["failure"], ["step_done"]], kinds

# What the command line would not ask for.
for request, fields in [
    ("apply", {"dir": state + "/layers"}),
    ("apply", {"dir": state + "/out", "all": True}),
    ("apply", {"dir": "out"}),
    ("apply", {"dir": workspace + "/out"}),
    ("unmount", {"apply": state + "/layers"}),
    ("unmount", {"apply": state + "/out", "all": True}),
    ("export", {"snapshot": "s", "to": state + "/layers"}),
]:
    try:
        raise AssertionError((request, fields, stage.ask(request, **fields)))
    except Failure as failure:
        assert failure.code == 2, (request, fields, failure)

# Of another protocol only the two that are frozen are carried out, the end of the stage among them.
supervisor = os.pidfd_open(stage.daemon["supervisor"])
with connect(b'{"protocol":99,"version":"far 9"}\n', b'{"step_list":{}}\n', STATUS, b'{"unmount":{}}\n') as raw:
    refused, told, ended = replies(raw)
    assert refused["failure"]["code"] == 1 and "far 9 (protocol 99)" in refused["failure"]["message"], refused
    # Some of the requests whose clients are gone may have been carried out only now.
    assert told["report"]["data"]["mapped"] == [workspace] and ended["report"]["data"]["ended"]["problems"] == [], ended
select.select([supervisor], [], [])
assert not os.path.exists(state)
