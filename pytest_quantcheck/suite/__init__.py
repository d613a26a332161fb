"""The packaged suite: what pytest collects, runs, gathers and prints for a gate."""
