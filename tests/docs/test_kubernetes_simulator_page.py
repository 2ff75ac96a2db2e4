"""What the page of the simulated Kubernetes cluster says it has, it has; and the other way round."""

import re

from anyscale_conformance.simulators.kubernetes import Cluster
from anyscale_conformance.simulators.kubernetes.hands import Hands
from anyscale_conformance.simulators.kubernetes.kinds import KINDS

from tests.docs.pages import read

PAGE = read("docs/kubernetes-simulator.md")
OF_THE_SERVER = {"delay_of", "meet", "end_machines"}


def section(title: str) -> str:
    return PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_every_hand_is_in_the_table_and_every_word_of_the_table_is_one() -> None:
    rows = [line for line in section("Hands").splitlines() if line.startswith("| `")]
    named = {word for row in rows for word in re.findall(r"`(\w+)`", row.split("|")[1])}
    hands = {
        name for name, value in vars(Hands).items() if callable(value) and not name.startswith("_")
    } - OF_THE_SERVER
    assert named == hands | {"add_user", "requests"}
    assert hasattr(Cluster, "add_user")


def test_the_kinds_of_the_page_are_those_that_are_kept() -> None:
    words = set(re.findall(r"\b[A-Z]\w+", section("What it does").partition("\nKinds: ")[2].partition("`Settings")[0]))
    assert words == {kind.kind for kind in KINDS if not kind.is_review}
