"""Evolution and the comparison of programs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models.program_search.discriminator import DiscriminatorConfig, LearnedComparison, pair_loss
from behavior_models.program_search.domains.idm_law import SPACE, idm_law_domain
from behavior_models.program_search.evolution import NO_PARENT, Search, SearchConfig
from behavior_models.program_search.mutation import random_program
from behavior_models.program_search.program import interpret
from behavior_models.program_search.run import run_search
from behavior_models.training.devices import device_mesh

pytestmark = pytest.mark.compile_heavy

DISCRIMINATOR = DiscriminatorConfig(width=8, num_heads=2, num_layers=1, hidden=16, num_steps=4, batch_size=16)
CONFIG = SearchConfig(
    budget=60,
    population=12,
    tournament=4,
    num_tries=4,
    num_children=2,
    train_interval=20,
    train_from=20,
    discriminator=DISCRIMINATOR,
)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    return folder, run_search(folder, Search(idm_law_domain(), CONFIG), [0, 1], save_every=1)


def test_archive_holds_each_function_once_with_its_fitness(result):
    archive = result[1].archive
    domain = idm_law_domain()
    for seed in range(2):
        assert len({row.tobytes() for row in archive.identity[seed]}) == CONFIG.budget
        programs = jax.tree.map(lambda leaf, seed=seed: jnp.asarray(leaf[seed]), archive.programs)
        np.testing.assert_allclose(domain.evaluate(programs), archive.fitness[seed], atol=1e-5)
        assert all(
            SPACE.problem(jax.tree.map(lambda leaf, row=row: np.asarray(leaf[row]), programs)) is None
            for row in range(60)
        )


def test_parents_are_earlier_and_the_first_programs_have_none(result):
    archive = result[1].archive
    rows = np.arange(CONFIG.budget)
    assert (archive.parent < rows).all()
    is_first = archive.parent == NO_PARENT
    assert (is_first.sum(axis=1) > 0).all()
    assert (is_first.sum(axis=1) <= CONFIG.population).all()
    assert (np.diff(is_first.astype(int)) <= 0).all()
    assert set(np.unique(archive.decision)) <= {-1, 0, 1}
    # The discriminator decides nothing before its first training.
    assert (archive.decision[:, :20] == -1).all()
    assert (archive.decision[:, -5:] >= 0).all()


def test_curves_never_fall(result):
    curves = result[1].curves
    assert (np.diff(curves) >= 0).all()
    np.testing.assert_array_equal(curves[:, -1], result[1].archive.fitness.max(axis=1))
    assert result[1].best(0)[0][0] == curves[0, -1]


def test_an_ended_search_is_read_and_another_one_refused(result):
    folder, first = result
    again = run_search(folder, Search(idm_law_domain(), CONFIG), [0, 1])
    jax.tree.map(np.testing.assert_array_equal, again.archive, first.archive)
    with pytest.raises(ValueError, match="budget"):
        run_search(folder, Search(idm_law_domain(), dataclasses.replace(CONFIG, budget=61)), [0, 1])


def test_an_interrupted_search_continues_with_equal_results(result, tmp_path):
    class Killed(Exception):
        pass

    def interrupt(count, _):
        if count >= 30:
            raise Killed

    with pytest.raises(Killed):
        run_search(tmp_path, Search(idm_law_domain(), CONFIG), [0, 1], interrupt, save_every=1)
    resumed = run_search(tmp_path, Search(idm_law_domain(), CONFIG), [0, 1], save_every=1)
    jax.tree.map(np.testing.assert_array_equal, resumed.archive, result[1].archive)


@pytest.mark.slow
def test_devices_share_the_children_with_equal_results(tmp_path):
    assert jax.local_device_count() >= 2
    config = dataclasses.replace(CONFIG, budget=30, population=8, filter="none")
    searches = [Search(idm_law_domain(), config, device_mesh(2, count)) for count in (1, 2)]
    # The second one is left and continued.
    first = run_search(tmp_path / "two", searches[1], [0, 1], stop_at=10)
    assert 10 <= np.isfinite(first.archive.fitness).sum(axis=1).min() < 30
    named = zip(("one", "two"), searches, strict=True)
    archives = [run_search(tmp_path / name, own, [0, 1]).archive for name, own in named]
    jax.tree.map(np.testing.assert_array_equal, *archives)
    with pytest.raises(ValueError, match="shared equally by 2 devices"):
        device_mesh(3, 2)


def _encoded(comparison, count):
    keys = jax.random.split(jax.random.key(3), count)
    programs = jax.jit(jax.vmap(lambda key: random_program(SPACE, key)))(keys)
    descriptions = jax.jit(jax.vmap(idm_law_domain().probe))(programs)[1]
    return programs, descriptions


@pytest.mark.slow
def test_comparison_is_antisymmetric_and_learns():
    """It learns which program has the larger output at one state, which shuffled labels do not teach."""
    losses = {}
    state = jnp.asarray([5.0, 1.0, 20.0, 15.0, 1.0, 2.0])
    for shuffled in (False, True):
        config = dataclasses.replace(DISCRIMINATOR, shuffle_labels=shuffled, num_layers=2, learning_rate=1e-2)
        comparison = LearnedComparison(SPACE, idm_law_domain().num_features, config)
        programs, descriptions = _encoded(comparison, 128)
        fitness = jax.jit(jax.vmap(lambda one: jnp.tanh(interpret(SPACE, one, state)[0])))(programs)
        learner = jax.jit(comparison.init)(jax.random.key(0))
        features = jax.jit(comparison.encode)(learner[0], programs, descriptions)
        logits = comparison.compare(learner[0], features[:64], features[64:])
        np.testing.assert_allclose(logits, -comparison.compare(learner[0], features[64:], features[:64]), atol=1e-6)
        train = jax.jit(comparison.train)
        for step in range(100):
            learner, _ = train(learner, (programs, descriptions, fitness), jax.random.key(step))
        plain = dataclasses.replace(comparison, config=dataclasses.replace(config, shuffle_labels=False))
        losses[shuffled] = float(jax.jit(plain.loss)(learner[0], programs, descriptions, fitness, jax.random.key(0)))
    assert losses[False] < 0.3
    assert losses[True] > 0.6


def test_ties_do_not_count():
    logits = jnp.asarray([0.0, 50.0])
    loss = pair_loss(logits, jnp.asarray([1.0, 2.0]), jnp.asarray([0.0, 2.0]), 1e-4)
    assert float(loss) == pytest.approx(np.log(2.0), abs=1e-6)


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="tournament of 20"):
        SearchConfig(population=10, tournament=20)
    with pytest.raises(ValueError, match="budget=0"):
        SearchConfig(budget=0)
