"""Report of a run: tables, figures, the page, and terminal output."""
