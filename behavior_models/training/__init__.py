"""Parts that all learners share: collection of transitions, the loop, checkpoints, logs. They know no algorithm."""
