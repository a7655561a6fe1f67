"""Results of a benchmark suite: methods compared on several data sets, with tests of their differences."""
