"""What a worker still holds for others when it ends: work it has promised, and records."""
