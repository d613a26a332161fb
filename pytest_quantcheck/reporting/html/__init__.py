"""The page `report.html`, one file for people; needs the extra `report`."""

from pytest_quantcheck.reporting.html.page import html_report

__all__ = ["html_report"]
