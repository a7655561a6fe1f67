"""A suite's results: methods side by side on several data sets, with what chance leaves of their differences."""
