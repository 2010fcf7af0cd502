"""Runs as one HTML page that needs no network. Imports no torch."""

from imgcls.reports.page import report_page

__all__ = ["report_page"]
