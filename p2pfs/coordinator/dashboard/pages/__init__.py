"""One module a page: reports in, markup out, nothing else."""
