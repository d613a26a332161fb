"""Places where a run's report goes: a directory, and the summary of a step in GitHub Actions."""
