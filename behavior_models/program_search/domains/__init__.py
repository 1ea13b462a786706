"""Domains of the search over programs: inputs, operators and fitness."""

from behavior_models.program_search.domain import Domain


def load_domain(name: str, data: str) -> Domain:
    """A domain by name.

    Args:
      name: Name.
      data: Scenes, see `waymax_sim.load`; domains without scenes ignore it.

    Raises:
      ValueError: There is no such domain, or its data cannot be used.
    """
    # Imported on use: each domain needs other parts of the package.
    match name:
        case "follower":
            import waymax_sim as ws
            from behavior_models.program_search.domains.follower import find_episodes, follower_domain

            return follower_domain(find_episodes(ws.load(data, pad_to_bucket=False)))
        case "idm_law":
            from behavior_models.program_search.domains.idm_law import idm_law_domain

            return idm_law_domain()
        case "optimizer":
            from behavior_models.program_search.domains.optimizer import optimizer_domain

            return optimizer_domain()
        case "reward":
            import waymax_sim as ws
            from behavior_models.program_search.domains.reward import find_situations, reward_domain

            return reward_domain(find_situations(ws.load(data)))
        case "rl_loss":
            from behavior_models.program_search.domains.rl_loss import rl_loss_domain

            return rl_loss_domain()
    raise ValueError(f"there is no domain {name!r}")
