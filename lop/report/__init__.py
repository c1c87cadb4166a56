"""The page a person reads after a run: what each method keeps at each ratio, and what it costs."""

from lop.report.page import write_report

__all__ = ["write_report"]
