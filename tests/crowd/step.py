"""One round of one step of the crowd: run in its view."""

import hashlib
import os
import random
import sys
from pathlib import Path

sys.dont_write_bytecode = True
from model import Model


def main():
    workspace, models, name, serial, seed, outcome = sys.argv[1:]
    workspace, models, serial, chance = Path(workspace), Path(models), int(serial), random.Random(int(seed))
    model = Model.load(models / f"{name}.{serial}")
    model.place = workspace / name
    model.check()
    for path in (workspace / "common").iterdir():
        found = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        assert found == path.name.split("-")[1], f"{path} is {found}"
    operations = chance.randrange(20, 200)
    for _ in range(operations):
        model.operate(chance)
    model.close()
    data = chance.randbytes(chance.randrange(1, 5000))
    (workspace / "common" / f"{name}{serial % 10}-{hashlib.sha256(data).hexdigest()[:16]}").write_bytes(data)
    model.write_whole("serial", str(serial + 1).encode())
    model.check()
    model.save(models / f"{name}.{serial + 1}")
    print(operations)
    return 7 if outcome == "fail" else 0


sys.exit(main())
