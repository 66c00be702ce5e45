"""What came of it: held-out losses, students side by side, the outcome in words and in pictures."""
