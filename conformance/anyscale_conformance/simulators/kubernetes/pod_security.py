"""Pod Security Admission: what the standard that a namespace enforces refuses of a Pod.

Source: kubernetes.io/docs/concepts/security/pod-security-standards. Of the standard "baseline" the host's namespaces, paths and
ports, privileged containers and added capabilities are looked at; of "restricted" all but the users by number.
"""

from collections.abc import Iterator, Mapping
from typing import Any

LABEL = "pod-security.kubernetes.io/enforce"
BASELINE_CAPABILITIES = frozenset({
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP", "SETGID",
    "SETPCAP", "SETUID", "SYS_CHROOT",
})  # fmt: skip
RESTRICTED_VOLUMES = frozenset({
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
})  # fmt: skip
SECCOMP = ("RuntimeDefault", "Localhost")


def violations(spec: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    """Return why the namespace of these labels does not take a Pod; empty when it does."""
    level = labels.get(LABEL, "privileged")
    version = labels.get(f"{LABEL}-version", "latest")
    found = [*(_baseline(spec) if level != "privileged" else ()), *(_restricted(spec) if level == "restricted" else ())]
    return f'violates PodSecurity "{level}:{version}": {", ".join(found)}' if found else ""


def _baseline(spec: Mapping[str, Any]) -> Iterator[str]:
    host = [f"{word}=true" for word in ("hostNetwork", "hostPID", "hostIPC") if spec.get(word)]
    if host:
        yield f"host namespaces ({', '.join(host)})"
    paths = [volume["name"] for volume in spec.get("volumes") or () if "hostPath" in volume]
    if paths:
        yield f"hostPath volumes ({_volumes(paths)})"
    for container in _containers(spec):
        name, context = container["name"], container.get("securityContext") or {}
        ports = [str(port["hostPort"]) for port in container.get("ports") or () if port.get("hostPort")]
        if ports:
            yield f'hostPort (container "{name}" uses hostPort {", ".join(ports)})'
        if context.get("privileged"):
            yield f'privileged (container "{name}" must not set securityContext.privileged=true)'
        added = set((context.get("capabilities") or {}).get("add") or ()) - BASELINE_CAPABILITIES
        if added:
            words = ", ".join(f'"{one}"' for one in sorted(added))
            yield f'non-default capabilities (container "{name}" must not include {words} in securityContext.capabilities.add)'


def _restricted(spec: Mapping[str, Any]) -> Iterator[str]:
    pod = spec.get("securityContext") or {}
    for container in _containers(spec):
        name, context = f'container "{container["name"]}"', container.get("securityContext") or {}
        capabilities = context.get("capabilities") or {}
        if context.get("allowPrivilegeEscalation") is not False:
            yield f"allowPrivilegeEscalation != false ({name} must set securityContext.allowPrivilegeEscalation=false)"
        if "ALL" not in (capabilities.get("drop") or ()):
            yield f'unrestricted capabilities ({name} must set securityContext.capabilities.drop=["ALL"])'
        elif set(capabilities.get("add") or ()) - {"NET_BIND_SERVICE"}:
            yield f"unrestricted capabilities ({name} must not add capabilities)"
        if not context.get("runAsNonRoot", pod.get("runAsNonRoot")):
            yield f"runAsNonRoot != true (pod or {name} must set securityContext.runAsNonRoot=true)"
        if (context.get("seccompProfile") or pod.get("seccompProfile") or {}).get("type") not in SECCOMP:
            yield (
                f"seccompProfile (pod or {name} must set securityContext.seccompProfile.type to "
                '"RuntimeDefault" or "Localhost")'
            )
    strange = [
        volume["name"] for volume in spec.get("volumes") or () if set(volume) - {"name"} - RESTRICTED_VOLUMES
    ]  # fmt: skip
    if strange:
        yield f"restricted volume types ({_volumes(strange)})"


def _containers(spec: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from spec.get("initContainers") or ()
    yield from spec.get("containers") or ()


def _volumes(names: list[str]) -> str:
    return f"volume{'s' if names[1:] else ''} " + ", ".join(f'"{name}"' for name in names)
