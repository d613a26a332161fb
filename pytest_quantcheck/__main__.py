"""`python -m pytest_quantcheck measure|merge|compare|dequantize|profiles|doctor …`: what can be done without pytest."""

import sys

from pytest_quantcheck.commands import main

if __name__ == "__main__":
    sys.exit(main())
