"""What runs by itself, once somebody switches it on: on new, changed or removed corpus files, and by the clock."""
