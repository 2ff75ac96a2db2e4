"""The setting ``sight: watch``: what is shown is the server's word of the last seconds, whatever befalls the watch."""

from collections.abc import Callable
from functools import partial
from typing import Any

from anyscale_conformance.simulators.kubernetes.problems import Problem
from anyscale_kubernetes.cluster import KubernetesCluster
from anyscale_kubernetes.testing import OWNER, Land, eventually, specified

from anyscale_core.errors import CloudError
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Created, Instance


def make(land: Land, name: str) -> Instance:
    (outcome,) = land.cluster().create([specified(name)], token=Token(name), deadline=land.soon())
    assert isinstance(outcome, Created)
    return outcome.instance


def names(driver: KubernetesCluster, land: Land) -> set[str]:
    return {instance.name for instance in driver.list(OWNER, deadline=land.soon())}


def shows(driver: KubernetesCluster, land: Land, wanted: set[str]) -> Callable[[], bool]:
    return lambda: names(driver, land) == wanted


def is_a(verb: str, request: Any) -> bool:
    """Tell whether a request is a ``list`` or a ``watch`` of Pods."""
    what = "watch" if request.query.get("watch") else "list"
    return request.method == "GET" and request.path.endswith("/pods") and what == verb


def asked(land: Land, verb: str) -> int:
    """Return how many lists, or watches, of Pods the cluster has been asked for."""
    return sum(is_a(verb, request) for request in land.simulated.requests)


def test_what_comes_and_goes_is_shown_through_cuts_and_a_forgotten_past(land: Land) -> None:
    driver = land.cluster(sight="watch")
    make(land, "one")
    eventually(shows(driver, land, {"one"}))
    befalls = () if land.simulated is None else (land.simulated.cut_watches, land.simulated.compact)
    wanted = {"one"}
    for number, befall in enumerate(befalls):
        befall()
        wanted.add(f"more{number}")
        make(land, f"more{number}")
        eventually(shows(driver, land, set(wanted)))
    driver.close()


def test_a_pod_that_is_gone_is_shown_no_longer(living: Land) -> None:
    driver = living.cluster(sight="watch", grace_seconds=0)
    instance = make(living, "one")
    make(living, "two")
    eventually(shows(driver, living, {"one", "two"}))
    living.cluster().delete([instance.id], owner=OWNER, deadline=living.soon())
    eventually(shows(driver, living, {"two"}), 90)
    driver.close()


def test_a_cluster_at_rest_is_looked_at_without_a_list(living: Land) -> None:
    if living.simulated is None:
        return
    make(living, "one")
    driver = living.cluster(sight="watch")
    eventually(shows(driver, living, {"one"}))
    eventually(lambda: asked(living, "watch") >= 1)
    before, watches = asked(living, "list"), asked(living, "watch")
    eventually(lambda: names(driver, living) == {"one"} and asked(living, "watch") >= watches + 2)
    assert asked(living, "list") == before, "each watch that ends in its time says that nothing has changed"
    driver.close()


def test_a_watch_that_is_held_up_is_not_believed(living: Land) -> None:
    if living.simulated is None:
        return
    driver = living.cluster(sight="watch")
    make(living, "one")
    eventually(shows(driver, living, {"one"}))
    living.simulated.delay(30.0, count=100, matches=partial(is_a, "watch"))
    before = asked(living, "list")
    eventually(lambda: names(driver, living) and asked(living, "list") > before + 2)
    make(living, "two")
    assert names(driver, living) == {"one", "two"}, "the server is asked as long as its watch is silent"
    driver.close()


def test_a_refused_watch_leaves_the_list_to_tell_why(living: Land) -> None:
    if living.simulated is None:
        return
    driver = living.cluster(sight="watch")
    make(living, "one")
    living.simulated.refuse(Problem(403, "Forbidden", "said the suite"), count=1000, matches=partial(is_a, "watch"))
    eventually(shows(driver, living, {"one"}))
    living.simulated.refuse(Problem(403, "Forbidden", "said the suite"), count=1000, matches=partial(is_a, "list"))

    def is_told() -> bool:
        try:
            names(driver, living)
        except CloudError as error:
            return "said the suite" in error.message
        return False

    eventually(is_told)
    driver.close()
