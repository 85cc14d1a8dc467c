"""The report: as plain values, HTML and Markdown, and compared with an earlier one."""
