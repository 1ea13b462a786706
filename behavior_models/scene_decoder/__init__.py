"""A decoder of scene tokens: traffic of all agents as the continuation of a sequence."""
