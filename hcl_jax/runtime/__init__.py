"""The life of a run's processes: how they start, agree, are told to stop, and are found to be stuck."""
