"""Runs Pods that have a node: phases, conditions, containers and their restarts, by the clock; deletion with its grace.

A container of a cluster that does not boot runs until a hand ends it; in one that boots it is a process (``booting``).
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Protocol

import attrs

from anyscale_conformance.simulators.kubernetes import deletion, events, mounts
from anyscale_conformance.simulators.kubernetes.conditions import with_condition
from anyscale_conformance.simulators.kubernetes.settings import Settings
from anyscale_conformance.simulators.kubernetes.store import Change, Entry
from anyscale_conformance.simulators.kubernetes.world import World, instant

ENDED = ("Succeeded", "Failed")
BACKOFF, LONGEST_BACKOFF = timedelta(seconds=10), timedelta(minutes=5)
UNREADY = {"Succeeded": "PodCompleted", "Failed": "PodFailed"}
"""Why a Pod that has ended is not ready."""
RETRY = timedelta(seconds=2)
"""How often what could not be mounted or pulled is tried again."""


class Runtime(Protocol):
    """What runs containers."""

    def address(self) -> str:
        """Return an address for a new Pod."""
        ...

    def start(self, pod: Entry, container: Mapping[str, Any]) -> None:
        """Start a container. Raises OSError when its command cannot be run."""
        ...

    def stop(self, pod: Entry) -> bool:
        """Ask a Pod's containers to end; return whether they have."""
        ...

    def remove(self, uid: str) -> None:
        """End a Pod's containers at once, and take away what they left."""
        ...

    def log(self, pod: Entry) -> str:
        """Return what a Pod has printed."""
        ...

    def ended(self) -> list[tuple[str, str, int]]:
        """Return the uids, containers and exit codes of what has ended since the last look."""
        ...


@attrs.define(kw_only=True)
class _Sight:
    """What the kubelet remembers of a Pod."""

    is_stopping: bool = False
    held_until: datetime | None = None
    restarts: dict[str, int] = attrs.field(factory=dict)


class Kubelet:
    """The kubelets of all nodes of a world."""

    def __init__(self, world: World, settings: Settings, runtime: Runtime) -> None:
        self._world, self._settings, self._runtime = world, settings, runtime
        self._sights: dict[str, _Sight] = {}
        self.bad_images: dict[str, str] = {}
        world.reactors.append(self._react)
        world.pollers.append(self._collect)
        world.log_of = runtime.log

    def end(self, pod: Entry, container: str, code: int) -> None:
        """Let a container end with a code: it is restarted, or the Pod ends, as its restart policy says."""
        spec = pod.obj["spec"]
        status = pod.obj.get("status", {})
        if not any(
            one["name"] == container and "running" in one["state"] for one in status.get("containerStatuses", ())
        ):
            return
        policy = spec.get("restartPolicy", "Always")
        restarts = policy == "Always" or (policy == "OnFailure" and code != 0)
        if "deletionTimestamp" in pod.meta:
            restarts = False
        containers = [
            self._after(one, container, code, restarts=restarts, pod=pod) for one in status.get("containerStatuses", ())
        ]
        ended = [one["state"].get("terminated") for one in containers]
        phase = "Running"
        if all(ended):
            phase = "Failed" if any(one["exitCode"] for one in ended) else "Succeeded"
        changed = self._write(pod, containers, phase=phase, is_ready=False)
        if restarts:
            self._restart_later(changed, container)

    def fail(self, pod: Entry, *, reason: str, message: str) -> Entry:
        """End a Pod as a kubelet does that needs its room (``Evicted``) or whose node goes down (``Terminated``)."""
        self._runtime.remove(pod.uid)
        status = pod.obj.get("status", {})
        containers = [
            self._after(one, one["name"], 137, restarts=False, pod=pod) for one in status.get("containerStatuses", ())
        ]
        pod = self._write(pod, containers, phase="Failed", is_ready=False)
        return self._world.write(pod, status=pod.obj["status"] | {"reason": reason, "message": message})

    def hold(self, uid: str, until: datetime) -> None:
        """Let a Pod that is to go run until its end has come, however soon it could."""
        self._sights.setdefault(uid, _Sight()).held_until = until

    def forget(self, uid: str) -> None:
        """End what a Pod runs, without a word to anyone."""
        self._runtime.remove(uid)
        self._sights.pop(uid, None)

    def _react(self, change: Change) -> None:
        if change.last.kind.plural != "pods":
            return
        after = change.after
        if after is None:
            self.forget(change.last.uid)
            return
        if not after.obj["spec"].get("nodeName"):
            return
        sight = self._sights.get(after.uid)
        if sight is None:
            sight = self._sights[after.uid] = _Sight()
            self._world.soon(lambda: self._admit(after.namespace, after.name, after.uid))
        before = change.before
        if before is not None and _deadline(before) != _deadline(after):
            self._limit(after)
        # A second delete may have made the grace shorter, so every one is looked at.
        if "deletionTimestamp" in after.meta and (
            not sight.is_stopping
            or (
                before is not None
                and before.meta.get("deletionGracePeriodSeconds") != after.meta.get("deletionGracePeriodSeconds")
            )
        ):
            sight.is_stopping = True
            self._world.soon(lambda: self._stop(after.namespace, after.name, after.uid))

    def _admit(self, namespace: str, name: str, uid: str) -> None:
        pod = self._current(namespace, name, uid)
        if pod is None or pod.obj.get("status", {}).get("phase") in ENDED:
            return
        containers = [_waiting(container, "ContainerCreating") for container in pod.obj["spec"]["containers"]]
        status = pod.obj.get("status", {}) | {
            "startTime": self._world.stamp,
            "hostIP": "127.0.0.1",
            "hostIPs": [{"ip": "127.0.0.1"}],
        }
        pod = self._world.write(pod, status=status)
        self._write(pod, containers, phase="Pending", is_ready=False)
        self._world.later(self._settings.starts, lambda: self._start(namespace, name, uid))
        self._limit(pod)

    def _start(self, namespace: str, name: str, uid: str) -> None:
        pod = self._current(namespace, name, uid)
        if pod is None or "deletionTimestamp" in pod.meta or pod.obj.get("status", {}).get("phase") in ENDED:
            return
        if problem := mounts.missing(self._world, pod):
            events.record(
                self._world, pod, reason="FailedMount", message=problem, source="kubelet", sort=events.Sort.WARNING
            )
            self._world.later(RETRY, lambda: self._start(namespace, name, uid))
            return
        status = pod.obj.get("status", {})
        if not status.get("podIP"):
            address = self._runtime.address()
            pod = self._world.write(pod, status=status | {"podIP": address, "podIPs": [{"ip": address}]})
        containers, is_whole = [], True
        for container in pod.obj["spec"]["containers"]:
            shown, reason = self._run(pod, container)
            containers.append(shown)
            is_whole &= not reason
        phase = "Running" if any("running" in one["state"] for one in containers) else "Pending"
        self._write(pod, containers, phase=phase, is_ready=is_whole)
        if not is_whole:
            self._world.later(RETRY, lambda: self._start(namespace, name, uid))

    def _run(self, pod: Entry, container: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
        """Run a container unless it runs; return its status and why it does not run."""
        there = next(
            (one for one in pod.obj["status"].get("containerStatuses", ()) if one["name"] == container["name"]), None
        )
        if there is not None and "waiting" not in there["state"]:
            return there, ""
        restarts = self._sights[pod.uid].restarts.get(container["name"], 0)
        image = container.get("image", "")
        pull = next((reason for part, reason in self.bad_images.items() if part in image), "")
        if pull:
            was = ((there or {}).get("state", {}).get("waiting") or {}).get("reason")
            reason = "ImagePullBackOff" if was == pull else pull
            message = (
                f'Back-off pulling image "{image}"' if reason != pull else f'failed to pull image "{image}": not found'
            )
            events.record(
                self._world,
                pod,
                reason="Failed",
                message=f"Error: {reason}",
                source="kubelet",
                sort=events.Sort.WARNING,
            )
            return _waiting(container, reason, message, restarts), reason
        if problem := mounts.missing_variable(self._world, pod, container):
            return _waiting(container, "CreateContainerConfigError", problem, restarts), problem
        try:
            self._runtime.start(pod, container)
        except OSError as error:
            return _waiting(container, "RunContainerError", str(error), restarts), str(error)
        return {
            "name": container["name"], "image": image, "imageID": image, "containerID": f"simulated://{pod.uid}", "ready": True,
            "started": True, "restartCount": restarts, "lastState": (there or {}).get("lastState", {}),
            "state": {"running": {"startedAt": self._world.stamp}},
        }, ""  # fmt: skip

    def _stop(self, namespace: str, name: str, uid: str) -> None:
        """Begin to end a Pod that is to go: when its containers have ended, or its grace has, it goes."""
        pod = self._current(namespace, name, uid)
        if pod is None:
            return
        grace = timedelta(seconds=pod.meta.get("deletionGracePeriodSeconds", 0))
        held = self._sights[uid].held_until
        if held is not None and self._world.now < held and grace > timedelta():
            self._sights[uid].held_until = None
            self._world.later(held - self._world.now, lambda: self._stop(namespace, name, uid))
            return
        self._runtime.stop(pod)
        left = max(timedelta(), instant(pod.meta["deletionTimestamp"]) - self._world.now)
        wait = min(grace, left, self._settings.stops) if not self._settings.boots else timedelta()
        end = self._world.now + grace
        self._world.later(wait, lambda: self._finish(namespace, name, uid, end))

    def _finish(self, namespace: str, name: str, uid: str, end: datetime) -> None:
        pod = self._current(namespace, name, uid)
        if pod is None:
            return
        if self._world.now < end and not self._runtime.stop(pod):
            self._world.later(timedelta(seconds=0.1), lambda: self._finish(namespace, name, uid, end))
            return
        self.forget(uid)
        self._sights[uid] = _Sight(is_stopping=True)
        deletion.finish(self._world, pod)

    def _limit(self, pod: Entry) -> None:
        """Let a Pod fail when its deadline has passed, counted from its start, whenever the deadline was set."""
        seconds, began = pod.obj["spec"].get("activeDeadlineSeconds"), pod.obj.get("status", {}).get("startTime")
        if seconds is None or began is None:
            return
        left = datetime.fromisoformat(began) + timedelta(seconds=seconds) - self._world.clock.now()
        namespace, name, uid = pod.namespace, pod.name, pod.uid
        self._world.later(max(left, timedelta()), lambda: self._expire(namespace, name, uid))

    def _expire(self, namespace: str, name: str, uid: str) -> None:
        pod = self._current(namespace, name, uid)
        if pod is not None and pod.obj["status"].get("phase") not in ENDED:
            self.fail(
                pod, reason="DeadlineExceeded", message="Pod was active on the node longer than the specified deadline"
            )

    def _restart_later(self, pod: Entry, container: str) -> None:
        sight = self._sights.setdefault(pod.uid, _Sight())
        count = sight.restarts.get(container, 0)
        sight.restarts[container] = count + 1
        delay = min(BACKOFF * 2 ** (count - 1), LONGEST_BACKOFF) if count else timedelta()
        namespace, name, uid = pod.namespace, pod.name, pod.uid
        self._world.later(delay, lambda: self._start(namespace, name, uid))

    def _after(
        self, shown: Mapping[str, Any], container: str, code: int, *, restarts: bool, pod: Entry
    ) -> dict[str, Any]:
        if shown["name"] != container or "running" not in shown["state"]:
            return dict(shown)
        ended = {
            "terminated": {
                "exitCode": code, "reason": "Completed" if code == 0 else "Error",
                "startedAt": shown["state"]["running"]["startedAt"], "finishedAt": self._world.stamp,
                "containerID": f"simulated://{pod.uid}",
            }
        }  # fmt: skip
        if not restarts:
            return dict(shown) | {"state": ended, "ready": False, "started": False}
        waiting = {
            "waiting": {"reason": "CrashLoopBackOff", "message": f"back-off restarting failed container {container}"}
        }
        return dict(shown) | {
            "state": waiting, "lastState": ended, "ready": False, "started": False, "restartCount": shown["restartCount"] + 1,
        }  # fmt: skip

    def _write(self, pod: Entry, containers: list[dict[str, Any]], *, phase: str, is_ready: bool) -> Entry:
        status = pod.obj.get("status", {})
        conditions = list(status.get("conditions", ()))
        has_begun = any(
            "waiting" not in one["state"] or one["state"]["waiting"]["reason"] != "ContainerCreating"
            for one in containers
        )
        reason = "" if is_ready else UNREADY.get(phase, "ContainersNotReady")
        unready = [one["name"] for one in containers if not one["ready"]]
        message = f"containers with unready status: [{' '.join(unready)}]" if reason == "ContainersNotReady" else ""
        for type, holds, why in (
            ("PodReadyToStartContainers", has_begun and phase not in ENDED, False), ("Initialized", True, False),
            ("Ready", is_ready, True), ("ContainersReady", is_ready, True),
        ):  # fmt: skip
            conditions = with_condition(
                conditions, type, "True" if holds else "False", stamp=self._world.stamp, reason=reason if why else "",
                message=message if why else "",
            )  # fmt: skip
        return self._world.write(
            pod, status=status | {"phase": phase, "conditions": conditions, "containerStatuses": containers}
        )

    def _collect(self) -> None:
        """Take note of processes that have ended."""
        for uid, container, code in self._runtime.ended():
            pod = next((one for one in self._world.entries("pods") if one.uid == uid), None)
            if pod is not None:
                self.end(pod, container, code)

    def _current(self, namespace: str, name: str, uid: str) -> Entry | None:
        pod = self._world.get("pods", namespace, name)
        return pod if pod is not None and pod.uid == uid else None


def _waiting(container: Mapping[str, Any], reason: str, message: str = "", restarts: int = 0) -> dict[str, Any]:
    waiting = {"reason": reason} | ({"message": message} if message else {})
    return {
        "name": container["name"], "image": container.get("image", ""), "imageID": "", "ready": False, "started": False,
        "restartCount": restarts, "lastState": {}, "state": {"waiting": waiting},
    }  # fmt: skip


def _deadline(pod: Entry) -> int | None:
    found: int | None = pod.obj["spec"].get("activeDeadlineSeconds")
    return found
