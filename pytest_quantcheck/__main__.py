"""`python -m pytest_quantcheck profiles show|diff|check`: look at threshold profiles, and check them."""

import sys

from pytest_quantcheck.profiles.command import main

if __name__ == "__main__":
    sys.exit(main())
