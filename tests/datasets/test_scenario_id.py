"""Scenario ids in a fixed number of bytes, and ids of scenes without one."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from waymax_sim.datasets.scenario_id import content_id, encode_id

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=80)


@given(st.lists(ANY_TEXT, min_size=2, max_size=4, unique=True))
def test_different_ids_stay_different(texts):
    encoded = [encode_id(text).tobytes() for text in texts]
    assert len(set(encoded)) == len(texts)
    assert all(len(data) == 64 for data in encoded)
    # An encoded id is text, and remains the same when it is encoded again.
    for data in encoded:
        assert encode_id(data.rstrip(b"\0").decode()).tobytes() == data


def test_ids_of_content_depend_on_the_content():
    ids = {content_id(np.arange(3.0), np.array([last])) for last in (True, False)}
    assert len(ids) == 2 and all(len(each) == 16 for each in ids)
    assert content_id(np.arange(4)[::2]) == content_id(np.array([0, 2]))
