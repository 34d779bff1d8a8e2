"""A client of the control socket, as docs/protocol.md describes it, with the standard library alone."""

import ctypes
import json
import os
import socket
import subprocess

CLONE_NEWNS, MS_RDONLY, MS_BIND, MS_REC, MS_SLAVE, MNT_DETACH = 0x20000, 0x1, 0x1000, 0x4000, 0x80000, 0x2
libc = ctypes.CDLL(None, use_errno=True)


class Failure(Exception):
    def __init__(self, code, message, data):
        super().__init__(message)
        self.code, self.data = code, data


class Client:
    def __init__(self, state_dir):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(state_dir + "/control.sock")
        self.lines = self.socket.makefile("rb")
        self.send({"protocol": 1})
        self.daemon = json.loads(self.lines.readline())

    def send(self, message):
        self.socket.sendall(json.dumps(message).encode() + b"\n")

    def ask(self, request, **fields):
        self.send({request: fields})
        [(kind, reply)] = json.loads(self.lines.readline()).items()
        if kind == "failure":
            raise Failure(**reply)
        return reply

    def run(self, request, command, **fields):
        view = self.ask(request, **fields)["view"]
        names = {"HARNESS_FS_STEP": view["name"], "HARNESS_WORKSPACE": view["mapped"][0]}
        code = subprocess.call(command, env={**os.environ, **names}, preexec_fn=lambda: enter(view))
        signal = -code if code < 0 else None
        return self.ask("step_ended", exit_code=128 + signal if signal else code, signal=signal)


def enter(view):
    done = libc.unshare(CLONE_NEWNS) | libc.mount(None, b"/", None, MS_REC | MS_SLAVE, None)
    for number, path in enumerate(view["mapped"]):
        if path not in view["live"]:
            libc.umount2(os.fsencode(path), MNT_DETACH)
            done |= libc.mount(os.fsencode(f"{view['mount']}/{number}"), os.fsencode(path), None, MS_BIND, None)
    for mount in [view["mount"], *view["other_mounts"]]:
        libc.umount2(os.fsencode(mount), MNT_DETACH)
    options = b"size=4k,nr_inodes=2,mode=0555"
    source, state_dir = map(os.fsencode, [view["hidden_by"], view["state_dir"]])
    done |= libc.mount(source, state_dir, b"tmpfs", MS_RDONLY, options)
    if done != 0:
        raise OSError(ctypes.get_errno(), "the view cannot be entered")
    os.chdir(view["mapped"][0])
