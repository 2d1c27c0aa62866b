"""Claims as programs: what a paper says, the runs that test it, the threshold written before them, the verdict."""
