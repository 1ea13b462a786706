"""Regularized evolution whose mutations are filtered by a comparison of child and parent.

Each step draws a parent by tournament, tries mutations until the comparison expects one to be better than the parent,
evaluates it, and replaces the oldest member of the population. Functions that were evaluated before are neither tried
nor evaluated again. If no try is accepted, the best of them by the comparison is evaluated. Everything is one pure
function of the state, so seeds are batched by `vmap` and an interrupted search continues with equal results.

Sources: regularized evolution (Real et al. 2019), search of learning algorithms (Co-Reyes et al. 2021), and guided
evolution with binary discriminators (arXiv 2402.05821), called PAM-RT there.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Bool, Float, Int, Key, UInt

from behavior_models.program_search.discriminator import DiscriminatorConfig, LearnedComparison
from behavior_models.program_search.domain import Domain
from behavior_models.program_search.mutation import mutate, random_program
from behavior_models.program_search.program import Program
from behavior_models.training.devices import distribute, replicate
from waymax_sim.pytree import Array, pytree, tree_index

# Comparison of child and parent: none, a fair coin, the truth with some accuracy, or a learned discriminator.
Filter = Literal["none", "coin", "oracle", "learned"]
NO_PARENT = -1
# Decisions of the filter about evaluated programs.
NO_DECISION = -1
FALLBACK = 0
ACCEPTED = 1


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """Sizes of a search.

    Attributes:
      budget: Programs that are evaluated.
      population: Members of the population; as many random programs begin it.
      tournament: Members among which the parent is the best.
      num_tries: Largest number of mutations per child.
      num_children: Children per step, which are proposed from one population and evaluated together.
      filter: Comparison of child and parent.
      oracle_accuracy: Probability that the filter "oracle" is right.
      train_interval: Evaluations between two trainings of the discriminator.
      train_from: Evaluations before the first training.
      window: Last evaluated programs of which the discriminator learns.
      discriminator: Size and training of the discriminator.

    Raises:
      ValueError: A size is not positive, or sizes do not fit each other.
    """

    budget: int = 2500
    population: int = 100
    tournament: int = 10
    num_tries: int = 16
    num_children: int = 1
    filter: Filter = "learned"
    oracle_accuracy: float = 0.9
    train_interval: int = 50
    train_from: int = 100
    window: int = 1000
    discriminator: DiscriminatorConfig = DiscriminatorConfig()

    def __post_init__(self):
        for name in ("budget", "population", "tournament", "num_tries", "num_children", "train_interval"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        if self.tournament > self.population:
            raise ValueError(f"a tournament of {self.tournament} exceeds the population of {self.population}")

    @property
    def steps_per_block(self) -> int:
        """Steps between two trainings of the discriminator."""
        return max(self.train_interval // self.num_children, 1)


@pytree
class Archive:
    """Evaluated programs in the order of their evaluation, up to the budget B.

    Attributes:
      programs: Programs.
      fitness: Their fitness; -inf for unused rows.
      identity: Hashes of their functions.
      description: Descriptions of their functions.
      parent: Rows of their parents, -1 for random programs.
      decision: Whether the filter accepted them: -1 without a decision, 0 if they are the best that it rejected, or 1.
    """

    programs: Program
    fitness: Float[Array, " B"]
    identity: UInt[Array, "B 2"]
    description: Float[Array, "B F"]
    parent: Int[Array, " B"]
    decision: Int[Array, " B"]


@pytree
class SearchState:
    """A search between two blocks.

    Attributes:
      archive: Evaluated programs.
      population: Rows of the archive, the oldest replaced first.
      num_evaluated: Evaluated programs.
      num_steps: Children that were added to the population.
      key: Random key.
      learner: Parameters of the discriminator and state of its optimizer; empty without one.
      is_trained: Whether the discriminator has been trained.
    """

    archive: Archive
    population: Int[Array, " N"]
    num_evaluated: Int[Array, ""]
    num_steps: Int[Array, ""]
    key: Key[Array, ""]
    learner: Any
    is_trained: Bool[Array, ""]


@pytree
class Proposal:
    """A child before its evaluation. Attributes as in `Archive`."""

    program: Program
    identity: UInt[Array, "*lead 2"]
    description: Float[Array, "*lead F"]
    parent: Int[Array, "*lead"]
    decision: Int[Array, "*lead"]


@dataclasses.dataclass(frozen=True)
class Search:
    """A search; its functions are pure.

    Attributes:
      domain: Programs and fitness.
      config: Sizes.
      mesh: Devices that share the children of a step (`device_mesh`); None for one device. Results do not depend on it.
    """

    domain: Domain
    config: SearchConfig = SearchConfig()
    mesh: Mesh | None = None

    @property
    def comparison(self) -> LearnedComparison:
        """The discriminator without parameters."""
        return LearnedComparison(self.domain.space, self.domain.num_features, self.config.discriminator)

    def init(self, key: Key[Array, ""]) -> SearchState:
        """The state before the first evaluation."""
        config, space = self.config, self.domain.space
        own, learner = jax.random.split(key)
        budget, zero = config.budget, jnp.zeros((), jnp.int32)
        programs = Program(
            jnp.zeros((budget, space.num_nodes), jnp.int32),
            jnp.zeros((budget, space.num_nodes, 2), jnp.int32),
            jnp.zeros((budget, len(space.constants))),
        )
        archive = Archive(
            programs,
            jnp.full(budget, -jnp.inf),
            jnp.zeros((budget, 2), jnp.uint32),
            jnp.zeros((budget, self.domain.num_features)),
            jnp.full(budget, NO_PARENT, jnp.int32),
            jnp.full(budget, NO_DECISION, jnp.int32),
        )
        state = self.comparison.init(learner) if config.filter == "learned" else ()
        population = jnp.zeros(config.population, jnp.int32)
        return SearchState(archive, population, zero, zero, own, state, jnp.zeros((), bool))

    def block(self, state: SearchState) -> SearchState:
        """`steps_per_block` steps, followed by a training of the discriminator."""
        state, _ = jax.lax.scan(lambda state, _: (self.step(state), None), state, length=self.config.steps_per_block)
        return self._train(state) if self.config.filter == "learned" else state

    def step(self, state: SearchState) -> SearchState:
        """Proposes, evaluates and inserts the children of one step. Nothing changes after the budget is spent."""
        key, own = jax.random.split(state.key)
        keys = jax.random.split(own, self.config.num_children)
        proposals = jax.vmap(self._propose, in_axes=(None, 0, 0))(state, jnp.arange(len(keys)), keys)
        fitness = self._evaluate(proposals.program)
        state = dataclasses.replace(state, key=key)

        def insert(state: SearchState, child: tuple[Proposal, Array]) -> tuple[SearchState, None]:
            return self._insert(state, *child), None

        return jax.lax.scan(insert, state, (proposals, fitness))[0]

    def _evaluate(self, programs: Program) -> Float[Array, " M"]:
        """Fitness of the children; each device evaluates its share of them."""
        if self.mesh is None:
            return self.domain.evaluate(programs)
        own = PartitionSpec(*self.mesh.axis_names)
        evaluate = jax.shard_map(self.domain.evaluate, mesh=self.mesh, in_specs=own, out_specs=own, check_vma=False)
        return replicate(evaluate(distribute(programs, self.mesh)), self.mesh)

    def _propose(self, state: SearchState, index: Int[Array, ""], key: Key[Array, ""]) -> Proposal:
        """One child: random programs at first, then filtered mutations of the best of a tournament."""
        keys = jax.random.split(key, 5)
        archive, config = state.archive, self.config
        members = jax.random.permutation(keys[0], state.population)[: config.tournament]
        parent = members[jnp.argmax(archive.fitness[members])]
        number = state.num_steps + index
        is_random = number < config.population
        tries = self._tries(tree_index(archive.programs, parent), number, keys[1])
        identity, description = jax.vmap(self.domain.probe)(tries)
        is_new = ~jax.vmap(lambda own: _is_known(state, own))(identity)
        score, decides = self._score(state, tries, description, parent, keys[2])
        decides = decides & ~is_random
        accepted = is_new & (score > 0)
        # Without a decision the first new try is taken.
        best = jnp.argmax(jnp.where(is_new, score, -jnp.inf))
        chosen = jnp.where(decides, jnp.where(jnp.any(accepted), jnp.argmax(accepted), best), jnp.argmax(is_new))
        decision = jnp.where(decides, jnp.any(accepted).astype(jnp.int32), NO_DECISION)
        return Proposal(
            tree_index(tries, chosen),
            identity[chosen],
            description[chosen],
            jnp.where(is_random, NO_PARENT, parent),
            decision,
        )

    def _tries(self, parent: Program, number: Int[Array, ""], key: Key[Array, ""]) -> Program:
        """Mutations of the parent; for the first children the given programs, then random ones."""
        space, keys = self.domain.space, jax.random.split(key, self.config.num_tries)
        mutations = jax.vmap(lambda key: mutate(space, parent, self.domain.mutation, key))(keys)
        random = jax.vmap(lambda key: random_program(space, key))(keys)
        first = self.domain.first
        if first:
            given = jax.tree.map(lambda *leaves: jnp.stack(leaves)[jnp.minimum(number, len(first) - 1)], *first)
            random = jax.tree.map(lambda one, many: jnp.where(number < len(first), one[None], many), given, random)
        is_random = number < self.config.population
        return jax.tree.map(lambda new, old: jnp.where(is_random, new, old), random, mutations)

    def _score(
        self, state: SearchState, tries: Program, description: Array, parent: Array, key: Key[Array, ""]
    ) -> tuple[Float[Array, " M"], Bool[Array, ""]]:
        """Scores of the tries, positive if they are expected to be better than the parent, and whether they count."""
        num_tries, archive = self.config.num_tries, state.archive
        match self.config.filter:
            case "none":
                return jnp.zeros(num_tries), jnp.zeros((), bool)
            case "coin":
                return jax.random.uniform(key, (num_tries,), minval=-1.0), jnp.ones((), bool)
            case "oracle":
                difference = self.domain.evaluate(tries) - archive.fitness[parent]
                is_right = jax.random.uniform(key, (num_tries,)) < self.config.oracle_accuracy
                # A try that is no better is worse, also if it is equal.
                sign = jnp.where(difference > 0, 1.0, -1.0) * jnp.where(is_right, 1.0, -1.0)
                # Among rejected tries the order is random: only the answer is known.
                return sign * jax.random.uniform(key, (num_tries,), minval=0.5), jnp.ones((), bool)
            case "learned":
                comparison, params = self.comparison, state.learner[0]
                features = comparison.encode(params, tries, description)
                own = jax.tree.map(lambda leaf: leaf[parent][None], (archive.programs, archive.description))
                reference = jnp.broadcast_to(comparison.encode(params, *own), features.shape)
                return comparison.compare(params, features, reference), state.is_trained

    def _insert(self, state: SearchState, child: Proposal, fitness: Float[Array, ""]) -> SearchState:
        """Adds a child to the population, and to the archive unless its function is known."""
        archive, budget = state.archive, self.config.budget
        is_known = _is_known(state, child.identity)
        is_full = state.num_evaluated >= budget
        known_row = jnp.argmax(_matches(state, child.identity))
        # Rows beyond the archive are dropped.
        row = jnp.where(is_known | is_full, budget, state.num_evaluated)
        values = child.program, fitness, child.identity, child.description, child.parent, child.decision
        stored = archive.programs, archive.fitness, archive.identity, archive.description
        stored = *stored, archive.parent, archive.decision
        new = jax.tree.map(lambda old, value: old.at[row].set(value, mode="drop"), stored, values)
        member_index = jnp.where(is_full, self.config.population, state.num_steps % self.config.population)
        member = jnp.where(is_known, known_row, row).astype(jnp.int32)
        return dataclasses.replace(
            state,
            archive=Archive(*new),
            population=state.population.at[member_index].set(member, mode="drop"),
            num_evaluated=state.num_evaluated + (~is_known & ~is_full),
            num_steps=state.num_steps + ~is_full,
        )

    def _train(self, state: SearchState) -> SearchState:
        """Gradient steps of the discriminator on the last programs and their parents."""
        key, own = jax.random.split(state.key)
        config, comparison = self.config, self.comparison

        def step(learner: Any, key: Key[Array, ""]) -> tuple[Any, None]:
            keys = jax.random.split(key, 3)
            low = jnp.maximum(state.num_evaluated - config.window, 0)
            shape = (config.discriminator.batch_size,)
            rows = jax.random.randint(keys[0], shape, low, state.num_evaluated)
            others = jax.random.randint(keys[1], shape, low, state.num_evaluated)
            parents = state.archive.parent[rows]
            rows = jnp.concatenate([rows, jnp.where(parents == NO_PARENT, others, parents)])
            batch = state.archive.programs, state.archive.description, state.archive.fitness
            return comparison.train(learner, jax.tree.map(lambda leaf: leaf[rows], batch), keys[2])[0], None

        enough = (state.num_evaluated >= config.train_from) & (state.num_evaluated < config.budget)
        trained, _ = jax.lax.scan(step, state.learner, jax.random.split(own, config.discriminator.num_steps))
        learner = jax.tree.map(lambda new, old: jnp.where(enough, new, old), trained, state.learner)
        return dataclasses.replace(state, key=key, learner=learner, is_trained=state.is_trained | enough)


def _matches(state: SearchState, identity: UInt[Array, "2"]) -> Bool[Array, " B"]:
    """Rows of the archive with the same function."""
    used = jnp.arange(len(state.archive.fitness)) < state.num_evaluated
    return used & jnp.all(state.archive.identity == identity[None], axis=-1)


def _is_known(state: SearchState, identity: UInt[Array, "2"]) -> Bool[Array, ""]:
    return jnp.any(_matches(state, identity))
