"""Leader to follower without recording, and the way to sleep."""
