"""Selectors: read as Kubernetes reads them, refused with a remedy, and true to what sets of values say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyscale_core.models.selector import Operator, Selector, Term

KEYS = st.sampled_from(["user", "project", "workload-type"])
VALUES = st.sampled_from(["a", "b", "ann@example.com", "x-1"])
TERMS = st.builds(Term, KEYS, st.sampled_from(Operator), st.frozensets(VALUES, min_size=1, max_size=3))
LABELS = st.dictionaries(KEYS, VALUES)


def written(term: Term) -> str:
    match term.operator:
        case Operator.EXISTS:
            return term.key
        case Operator.ABSENT:
            return f"!{term.key}"
    return f"{term.key} {term.operator.value} ({', '.join(sorted(term.values))})"


@given(st.lists(TERMS, max_size=4), LABELS)
def test_a_selector_fits_exactly_when_each_of_its_terms_does(terms: list[Term], labels: dict[str, str]) -> None:
    selector = Selector.parse(", ".join(map(written, terms)))
    expected = True
    for term in terms:
        have = labels.get(term.key)
        expected &= {
            Operator.IN: have in term.values, Operator.NOT_IN: have not in term.values,
            Operator.EXISTS: have is not None, Operator.ABSENT: have is None,
        }[term.operator]  # fmt: skip
    assert selector.fits(labels) is expected
    assert selector.keys == {term.key for term in terms}


@pytest.mark.parametrize(
    ("selector", "fits"),
    [
        ("", True), ("  ", True), ("user=ann@example.com", True), ("user==ann@example.com", True), ("user!=bob", True),
        ("project!=x", True), ("project", False), ("!project", True), ("project=", False), ("user in (b,ann@example.com)", True),
        ("user notin (bob)", True), ("user in(bob)", False), ("user=ann@example.com,project=nlp", False),
    ],
)  # fmt: skip
def test_each_form_is_read(selector: str, fits: bool) -> None:
    assert Selector.parse(selector).fits({"user": "ann@example.com"}) is fits


@pytest.mark.parametrize(
    "selector", [",", "a,", ",a", "a in b", "a in (b", "a=b c", "a=(b)", "!", "a ! b", "=b", "a=b=c"]
)
def test_what_is_no_selector_is_refused_with_the_remedy(selector: str) -> None:
    with pytest.raises(ValueError, match=r"is not a selector; write a in \(x, y\)"):
        Selector.parse(selector)
