"""The report: typed, as JSON, HTML and Markdown, and compared with an earlier one."""
