"""What a score is, and where it comes from."""
