"""What is known of a map before the first step, and the questions asked of it at every step."""
