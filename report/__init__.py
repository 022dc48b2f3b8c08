"""The report and the README: text that lives once, numbers that come from the results by name."""
