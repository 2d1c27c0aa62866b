"""A look at data before a run: a page of what a source holds, what is odd in it, and what each evaluator will use."""
