"""What checkpoints are worth: answers, size, memory, speed, and how far apart methods are."""
