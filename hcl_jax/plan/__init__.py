"""What a step needs on chips that are not there: memory, time, traffic and cost, read from its compiled program."""
