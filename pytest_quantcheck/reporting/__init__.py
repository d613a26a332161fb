"""What a run says: sentences, a table, a file and progress lines; nothing here writes but what it is handed."""

from pytest_quantcheck.reporting.control_results import control_lines, control_message
from pytest_quantcheck.reporting.json_report import Report, encode_certificate, encode_report, schema_text
from pytest_quantcheck.reporting.markdown import fitted, markdown_lines
from pytest_quantcheck.reporting.progress_line import ProgressLine
from pytest_quantcheck.reporting.properties import verdict_properties
from pytest_quantcheck.reporting.terminal import WIDEST, remark_lines, summary_lines
from pytest_quantcheck.reporting.wording import printable

__all__ = [
    "WIDEST",
    "ProgressLine",
    "Report",
    "control_lines",
    "control_message",
    "encode_certificate",
    "encode_report",
    "fitted",
    "markdown_lines",
    "printable",
    "remark_lines",
    "schema_text",
    "summary_lines",
    "verdict_properties",
]
