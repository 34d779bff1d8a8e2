"""manifests.py FILE…: checks Kubernetes manifests; `check` beside this file runs it with what it needs.

Each is valid in the oldest version that starts sidecars unasked and in the newest one known, and a field with a slip in its
name is not. In each pod a place in a slot is bound to the path that it is the place of, and the containers of steps get
nothing but their slot.
"""

import copy
import sys

import kubernetes_validate
import yaml

VERSIONS = ["1.29", "1.37"]


def valid(manifest, version):
    try:
        kubernetes_validate.validate(manifest, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        path = ".".join(map(str, error.path)) or "at the top"
        return f"{path}: {error.message} (Kubernetes {version})"
    return None


def arguments(container, option):
    """The values of --option=VALUE."""
    given = [argument.partition("=") for argument in container.get("args", [])]
    return [value for name, _, value in given if name == f"--{option}"]


def pod_problems(pod):
    spec = pod["spec"]
    stage = next(container for container in spec["initContainers"] if "mount" in container.get("args", []))
    mapped = (arguments(stage, "workspace") or ["/harness"]) + arguments(stage, "shared-path")
    slots = dict(slot.split("=") for slot in arguments(stage, "slot"))
    mounts = {mount["name"]: mount for mount in stage["volumeMounts"]}
    if stage.get("restartPolicy") != "Always" or "startupProbe" not in stage:
        yield "the stage is no sidecar that is waited for: containers would be started before there are slots"
    if not stage["securityContext"].get("privileged") or mounts["slots"].get("mountPropagation") != "Bidirectional":
        yield "the stage cannot mount, or nobody sees it"
    if not all(path.startswith(mounts["slots"]["mountPath"] + "/") for path in slots.values()):
        yield "a slot lies outside of the volume for slots"
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    if "emptyDir" not in volumes[mounts["state"]["name"]]:
        yield "the state is in no emptyDir"
    taken = []
    for container in spec["containers"]:
        name = container["name"]
        bound = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        if sorted(bound) != sorted(mapped):
            yield f"{name}: {sorted(bound)} are bound, not the mapped paths {mapped}"
        slot = {mount.get("subPath", "").split("/")[0] for mount in bound.values()}
        taken += slot
        for path, mount in bound.items():
            directory = slots.get("".join(slot), "")
            if (mount["name"], f"{mounts['slots']['mountPath']}/{mount.get('subPath')}") != ("slots", directory + path):
                yield f"{name}: what is bound to {path} is not its place in one slot"
            if mount.get("mountPropagation") != "HostToContainer" or mount.get("readOnly"):
                yield f"{name}: nothing that is mounted later is seen at {path}"
        rights = container.get("securityContext", {})
        if rights.get("privileged") or rights.get("capabilities", {}).get("add") or rights.get("allowPrivilegeEscalation", True):
            yield f"{name}: a step needs no privileges"
    if sorted(taken) != sorted(slots):
        yield f"the slots {sorted(slots)} are not those that containers have: {sorted(taken)}"


def main(files):
    problems = []
    for file in files:
        with open(file) as text:
            manifests = list(yaml.safe_load_all(text))
        for manifest in manifests:
            for version in VERSIONS:
                problem = valid(manifest, version)
                problems += [f"{file}: {problem}"] if problem else []
                slip = copy.deepcopy(manifest)
                slip["spec"]["containers"][0]["volumeMounts"][0]["mountPropagtion"] = "HostToContainer"
                if valid(slip, version) is None:
                    problems.append(f"the schemas of {version} do not find a slip")
            if manifest["kind"] == "Pod":
                problems += [f"{file}: {problem}" for problem in pod_problems(manifest)]
    if not files:
        problems.append("no manifests")
    print("\n".join(problems) or f"{len(files)} valid in Kubernetes {' and '.join(VERSIONS)}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
