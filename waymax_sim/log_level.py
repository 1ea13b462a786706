"""The log level of XLA, which it reads once, when jax is imported. Imported before all other modules."""

import os

# XLA logs long compilations and long constant folding as errors, although nothing is wrong; the commands announce
# compilations themselves. Errors are also raised as exceptions, and fatal ones are logged at this level too.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
