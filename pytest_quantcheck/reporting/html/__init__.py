"""`report.html`: the same run for people, in one file; needs the extra `report`."""

from pytest_quantcheck.reporting.html.page import html_report

__all__ = ["html_report"]
