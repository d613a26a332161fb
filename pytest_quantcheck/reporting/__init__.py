"""Reports of a run as text: sentences, tables, JSON, HTML and progress lines."""

from pytest_quantcheck.errors import printable
from pytest_quantcheck.reporting.control_results import control_lines, control_message
from pytest_quantcheck.reporting.json_report import encode_certificate, encode_report, schema_text
from pytest_quantcheck.reporting.markdown import markdown_lines, truncate_lines
from pytest_quantcheck.reporting.progress_line import ProgressLine
from pytest_quantcheck.reporting.properties import ungated_properties, verdict_properties
from pytest_quantcheck.reporting.report import Report, RunOutcome
from pytest_quantcheck.reporting.terminal import WIDEST, remark_lines, summary_lines
from pytest_quantcheck.reporting.wording import nothing_judged

__all__ = [
    "WIDEST",
    "ProgressLine",
    "Report",
    "RunOutcome",
    "control_lines",
    "control_message",
    "encode_certificate",
    "encode_report",
    "markdown_lines",
    "nothing_judged",
    "printable",
    "remark_lines",
    "schema_text",
    "summary_lines",
    "truncate_lines",
    "ungated_properties",
    "verdict_properties",
]
