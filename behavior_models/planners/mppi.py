"""A planner by random search: many action sequences are foreseen, and the better ones are averaged."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Key

from behavior_models.planners.action_sequence import NUM_KNOTS, Search, changes, no_plan, shifted
from behavior_models.planners.pdm import action_of_ego, unless_emergency
from behavior_models.planners.prediction import BICYCLE, Outlook, Rollouts, outlook_of, roll, serve
from behavior_models.planners.proposals import last_action, proposals, smooth
from behavior_models.planners.scoring import cost_of, terms_of
from behavior_models.traffic.car_following import HARDEST_ACCELERATION, HARDEST_BRAKING
from behavior_models.traffic.idm import SHARPEST
from waymax_sim.datatypes.state import Action
from waymax_sim.env import Observation, Policy
from waymax_sim.pytree import Array, static_record


@static_record
class MPPI(Policy):
    """Model predictive path integral control for the ego (Williams et al. 2017, Information theoretic MPC).

    At every step, action sequences around the last plan are rolled forward with the bicycle for 4 s, while others are
    thought to keep their velocity. The new plan is their mean, weighted by exp(-cost / temperature); its first action
    is driven. Costs are those of `cost_of`. The proposals of `PDM` are among the sequences (as in Biased-MPPI, Trevisan
    and Alonso-Mora 2024), so the search starts from something sensible. If even the best sequence runs into somebody
    within 2 s, the ego brakes hard.

    It drives the sdc alone: other agents get no action, and coast where they are handed to it.

    Attributes:
      num_samples: Disturbed sequences.
      temperature: What differences of cost count; the colder, the nearer to the best sequence.
      acceleration: Standard deviation of accelerations, m/s^2.
      lateral: Standard deviation of the acceleration to the side that curvatures cause, m/s^2.
      num_elites: If not 0, the plan is the plain mean of so many of the best sequences (cross-entropy method).
    """

    num_samples: int = 48
    temperature: float = 0.02
    acceleration: float = 0.8
    lateral: float = 0.5
    num_elites: int = 0
    dynamics = BICYCLE

    def init(self, observation: Observation, key: Key[Array, ""]) -> Search:
        """No plan yet."""
        return no_plan()

    def act(self, observation: Observation, carry: Search, key: Key[Array, ""]) -> tuple[Action, Search]:
        """The first action of the new plan."""
        outlook = outlook_of(observation, jnp.argmax(observation.info.is_sdc), carry.served)
        plan, contact = self.improve(observation, outlook, shifted(carry.plan), key)
        value = unless_emergency(outlook, contact, plan[0])
        return action_of_ego(observation, value), Search(plan=plan, served=serve(outlook, carry.served))

    def improve(
        self, observation: Observation, outlook: Outlook, plan: Float[Array, "T 2"], key: Key[Array, ""]
    ) -> tuple[Float[Array, "T 2"], Float[Array, ""]]:
        """A better plan, and when the best sequence ends in a contact (s)."""
        rollouts = self._candidates(outlook, plan, key)
        terms = terms_of(observation, outlook, rollouts)
        cost = cost_of(terms, rollouts)
        if self.num_elites:
            weight = (jnp.argsort(jnp.argsort(cost)) < self.num_elites).astype(jnp.float32) / self.num_elites
        else:
            weight = jax.nn.softmax(-cost / self.temperature)
        return jnp.sum(weight[None, :, None] * rollouts.value, axis=1), terms.contact[jnp.argmin(cost)]

    def _candidates(self, outlook: Outlook, plan: Float[Array, "T 2"], key: Key[Array, ""]) -> Rollouts:
        """The plan, disturbed plans, and the proposals."""
        value = self._disturbed(outlook.speed, plan, key)
        num = value.shape[1]

        def decide(moment, last, step):
            chosen = smooth(value[step], last, jnp.maximum(moment.speed, 0.0), outlook.dt)
            return chosen, chosen

        first = jnp.broadcast_to(last_action(outlook)[None], (num, 2))
        parts = roll(outlook, decide, first, num), proposals(outlook)
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), *parts)

    def _disturbed(
        self, speed: Float[Array, ""], plan: Float[Array, "T 2"], key: Key[Array, ""]
    ) -> Float[Array, "T K 2"]:
        knots = jax.random.normal(key, (NUM_KNOTS, self.num_samples, 2))
        noise = changes(knots, speed, self.acceleration, self.lateral)
        value = jnp.concatenate([plan[:, None], plan[:, None] + noise], axis=1)
        limits = jnp.asarray([[-HARDEST_BRAKING, -SHARPEST], [HARDEST_ACCELERATION, SHARPEST]])
        return jnp.clip(value, limits[0][None, None], limits[1][None, None])
