"""Print the JSON Schema of report.json, or of certificate.json.

The argument is `report`, the default, or `certificate`.
"""

import sys

from pytest_quantcheck.reporting.json_report import schema_text

if __name__ == "__main__":
    sys.stdout.write(schema_text(*sys.argv[1:2]))
