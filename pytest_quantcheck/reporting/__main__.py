"""Print the schema of report.json, as `report.schema.json` holds it; with `certificate` that of certificate.json."""

import sys

from pytest_quantcheck.reporting.json_report import schema_text

if __name__ == "__main__":
    sys.stdout.write(schema_text(*sys.argv[1:2]))
