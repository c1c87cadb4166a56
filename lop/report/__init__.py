"""The report of a run: the quality and cost of each method at each ratio, as a web page."""

from lop.report.page import write_report

__all__ = ["write_report"]
