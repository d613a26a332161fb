"""`python -m pytest_quantcheck measure|compare|profiles …`: measure and judge outside pytest; look at profiles."""

import sys

from pytest_quantcheck.commands import main

if __name__ == "__main__":
    sys.exit(main())
