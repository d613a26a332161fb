"""The page's table of larger models is what follows from its measured and assumed numbers."""

import re
from pathlib import Path

from tests.studies.on_paper import rows

PAGE = Path(__file__).parents[2] / "docs/how-to/cluster.md"


def test_page_has_the_table():
    """Row by row."""
    table = [line for line in PAGE.read_text().splitlines() if re.fullmatch(r"\| .+ s(\*\*)? \|", line)]
    assert table == list(rows())
