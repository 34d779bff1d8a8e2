"""drive.py STATE WORKSPACE DIRECTORY: drives a stage through client.py, from its status to its end."""

import json
import os
import select
import sys
import threading

from client import Client, Failure

state, workspace, directory = sys.argv[1:]
stage = Client(state)


def shell(step, script, request="step_exec", **fields):
    """Runs a script in a step; its exit code is for the daemon."""
    return stage.run(request, ["sh", "-euc", script], step=step, **fields)


def content(name):
    """What the stage has there, or None."""
    try:
        with open(f"{workspace}/{name}") as file:
            return file.read()
    except FileNotFoundError:
        return None


def failure(request, **fields):
    try:
        return "no failure", stage.ask(request, **fields)
    except Failure as failure:
        return failure.code, failure.data


def cat(layer, name):
    stage.send({"cat": {"layer": layer, "path": f"{workspace}/{name}"}})
    said = b""
    while "content" in (reply := json.loads(stage.lines.readline())):
        said += stage.lines.read(reply["content"]["length"])
    assert "report" in reply, reply
    return said


def steps():
    return {step["name"]: step["state"] for step in stage.ask("step_list")["data"]}


# Who is there.
status = stage.ask("status")["data"]
assert status["mapped"] == [workspace] and status["state_dir"] == state, status
assert stage.daemon["protocol"] == status["daemon"]["protocol"] == 1, stage.daemon
assert stage.daemon["pid"] == status["pid"], stage.daemon

# A step of several commands.
begun = stage.ask("step_begin", step="build")["data"]
assert begun["name"] == "build" and begun["state_dir"] == state, begun
shell("build", 'echo 1 >made; echo "$PWD $HARNESS_FS_STEP $HARNESS_WORKSPACE" >where')
shell("build", f'rm file; [ "$(cat made)" = 1 ]; [ -z "$(ls -A {state})" ]; grep harness-fs:{state} /proc/self/mountinfo >mounts')
assert (content("made"), content("file")) == (None, "base\n"), "the stage sees the step"
assert steps() == {"build": "open"}, steps()
merged = stage.ask("step_merge", steps=["build"])
assert "merged build" in merged["text"] and merged["data"]["steps"] == ["build"], merged
assert content("where") == f"{workspace} build {workspace}\n", content("where")
assert (content("made"), content("file")) == ("1\n", None), "the step is not merged"
assert content("mounts").count("\n") == 1, content("mounts")

# A conflict, and how it is decided.
for step in ["one", "two"]:
    stage.ask("step_begin", step=step)
for step in ["one", "two"]:
    shell(step, f"echo {step} >both")
code, data = failure("step_merge", steps=["one", "two"])
assert code == 4 and data["steps"] == ["one", "two"], (code, data)
[conflict] = data["conflicts"]
assert (conflict["path"], conflict["class"]) == (f"{workspace}/both", "add/add"), conflict
assert (conflict["stage"]["writer"], conflict["step"]["writer"]) == ("one", "two"), conflict
assert content("both") is None and steps() == {"one": "kept", "two": "kept"}, steps()
stage.ask("step_merge", steps=["one", "two"], on_conflict="keep-both")
assert (content("both"), content("both.two")) == ("one\n", "two\n"), os.listdir(workspace)

# Steps that are merged or dropped by how their command ends.
assert shell("good", "echo 2 >good", "step_run")["outcome"] == "merged"
assert content("good") == "2\n"
bad = shell("bad", "rm good; exit 7", "step_run")
assert bad["outcome"] == "discarded" and "exit code 7" in bad["text"], bad
killed = shell("killed", "rm good; kill -KILL $$", "step_run", on_failure="keep")
assert killed["outcome"] == "kept" and "signal 9" in killed["text"], killed
assert content("good") == "2\n" and steps() == {"killed": "kept"}, steps()
looked = shell("killed", "[ ! -e good ]; echo seen >good; sleep 1000 &", "step_shell")
assert len(looked["data"]["survivors"]) == 1 and content("good") == "2\n", looked
stage.ask("step_discard", step="killed")
left = shell("left", "sleep 1000 & echo 3 >left", "step_run")
assert left["outcome"] == "merged" and len(left["survivors"]) == 1, left
assert failure("step_discard", step="left")[0] == 3

# A group.
stage.ask("group_declare", group="pair", members=["left", "right"])
right = shell("right", "echo r >pair; [ ! -e l ]", "step_run", group="pair")
assert (right["outcome"], right["waiting_for"]) == ("waiting-for-group", ["left"]), right
left = shell("left", "echo l >l; [ ! -e pair ]", "step_run", group="pair")
assert left["outcome"] == "merged" and (content("l"), content("pair")) == ("l\n", "r\n"), left
stage.ask("group_declare", group="later", members=["a", "b"])
assert stage.ask("group_close", group="later")["data"]["steps"] == []
assert failure("group_remove", group="later")[0] == 3

# Back and forth.
assert stage.ask("snapshot_create", name="tested")["data"]["name"] == "tested"
os.remove(f"{workspace}/good")
stage.ask("snapshot_restore", name="tested")
assert content("good") == "2\n", os.listdir(workspace)
assert stage.ask("diff", of="tested")["data"] == stage.ask("diff")["data"]
added = {line["path"] for line in stage.ask("diff")["data"] if line["change"] == "added"}
assert f"{workspace}/both.two" in added, added
assert [snapshot["name"] for snapshot in stage.ask("snapshot_list")["data"]] == ["tested"]
assert stage.ask("export", snapshot="tested", to=f"{directory}/layout")["data"]["name"] == "tested"
stage.ask("snapshot_rm", name="tested")
assert stage.ask("apply", dir=f"{directory}/out")["data"]["removed"] == 0
assert sorted(os.listdir(f"{directory}/out")) == sorted(os.listdir(workspace))

# What was.
stage.ask("step_begin", step="aside")
shell("aside", "echo 5 >good; : >empty; head -c 300000 /dev/zero >long")
aside = stage.ask("step_keep", step="aside")["data"]
assert aside["entries"] == 3 and steps() == {"aside": "kept"}, aside
for name, bytes in [("good", b"5\n"), ("empty", b""), ("long", bytes(300000))]:
    assert cat("aside", name) == bytes, name
assert cat("base", "file") == b"base\n" and cat("good", "good") == b"2\n"
assert failure("cat", layer="base", path=f"{workspace}/good")[0] == 3
assert stage.ask("step_merge", steps=["aside"])["data"]["steps"] == ["aside"]
writers = [line["step"] for line in stage.ask("blame", path=f"{workspace}/good")["data"]]
assert writers[0] == "aside" and writers[-1] == "good", writers
top = stage.ask("log")["data"][0]
assert top["step"] == "aside" and stage.ask("show", layer=top["id"])["data"]["layer"] == top, top
assert len(stage.ask("diff", of="good..")["data"]) > 2
stage.ask("rollback", layer="good")
assert content("good") == "2\n" and content("long") is None

# A connection that is lost while a command runs: of step_run the step goes, of step_exec nothing happens.
stage.ask("step_begin", step="open")
for request, step in [("step_exec", "open"), ("step_run", "lost")]:
    other = Client(state)
    other.ask(request, step=step)
    other.socket.shutdown(2)
while "lost" in steps():
    pass
shell("open", "echo 4 >open")
while True:
    # The command on the lost connection counts until the daemon has seen that it is lost.
    code, data = failure("step_merge", steps=["open"])
    if code == "no failure":
        break
    assert code == 1, (code, data)
assert content("open") == "4\n"

# A service in the stage view, which sees what is merged.
other = Client(state)
service = threading.Thread(target=other.run, args=("step_background", ["sh", "-c", "until [ -e told ]; do :; done; echo 6 >answer; sleep 1000"]), kwargs={"step": "service"})
service.start()
while steps().get("service") != "open":
    pass
shell("tell", "touch told", "step_run")
while content("answer") is None:
    pass
assert [step["kind"] for step in stage.ask("step_list")["data"] if step["name"] == "service"] == ["background"]
stopped = stage.ask("step_stop", step="service")["data"]["survivors"]
assert len(stopped) >= 1, stopped
service.join()
assert "service" not in steps() and failure("step_stop", step="service")[0] == 3
stage.ask("group_declare", group="given-up", members=["a", "b"], if_one_fails="abort")
assert stage.ask("group_abort", group="given-up")["data"] == {"ended": []}
assert failure("step_run", step="a", group="given-up")[0] == 2

# The end: the daemon is gone when its supervisor is.
supervisor = os.pidfd_open(stage.daemon["supervisor"])
ended = stage.ask("unmount")["data"]
assert ended["applied"] is None and ended["ended"]["problems"] == [], ended
select.select([supervisor], [], [])
assert (content("file"), content("good")) == ("base\n", None) and not os.path.exists(state)
