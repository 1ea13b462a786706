"""Training by conservative Q-learning with the regularization of features, from a folder of logged transitions."""

from behavior_models.offline.task_policy import TaskQPolicy
from behavior_models.trainers.options import DR3Options
from behavior_models.trainers.scaled_ql import train_scaled_ql


def train_dr3(options: DR3Options) -> TaskQPolicy:
    """Scaled Q-learning with the defaults of DR3."""
    return train_scaled_ql(options)
