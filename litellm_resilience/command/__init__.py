"""What the user types: the entry, its options, and what only answers a question."""
