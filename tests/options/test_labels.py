"""How a profile is named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantcheck.options.labels import read_label


@given(st.from_regex(r"\A[a-zA-Z0-9_][\w-]{0,63}\Z", alphabet=st.characters(codec="ascii")), st.integers(1, 10**9 - 1))
def test_a_label_reads_back(name, version):
    """A name with or without a version is taken apart as it was put together."""
    assert read_label(name) == (name, None)
    assert read_label(f"{name}@{version}") == (name, version)


@pytest.mark.parametrize("text", ["", "-x", "a/b", "..", "a@", "a@01", "a@1@2", "a b", "a\n", "é", "@1", "a" * 65])
def test_what_is_no_label_is_refused_as_it_came(text):
    """The sentence shows what is expected and what came."""
    with pytest.raises(ValueError, match=r"expected NAME or NAME@VERSION, such as strict or strict@2") as refused:
        read_label(text)
    assert str(refused.value).endswith(f"got {text!r}")
