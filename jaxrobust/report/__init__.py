"""The report of a run: one self-contained page, its markdown twin and the figures.

`write_report` is a pure function of the run directory, so a page can be rebuilt at
any time from what the run left behind. A section shows itself only where its data are.
"""

from jaxrobust.report.write import write_report

__all__ = ["write_report"]
