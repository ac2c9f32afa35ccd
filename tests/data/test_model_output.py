from concurrent.futures import ThreadPoolExecutor

import jax.numpy as jnp
import numpy as np

from step1x_jax.data.model_output import ModelOutput


def test_rows_exclude_padding_and_are_cut_to_their_lengths():
    values = np.arange(4 * 5 * 2, dtype=np.float32).reshape(4, 5, 2)
    rows = ModelOutput(jnp.asarray(values), 3, np.array([5, 2, 0, 4], np.int32)).rows()
    assert [row.fetch().shape for row in rows] == [(5, 2), (2, 2), (0, 2)]
    np.testing.assert_array_equal(rows[1].fetch(), values[1, :2].astype(jnp.bfloat16))
    whole = ModelOutput(values, 2).rows()
    assert len(whole) == 2
    np.testing.assert_array_equal(whole[1].fetch(), values[1].astype(jnp.bfloat16))


def test_an_output_is_moved_to_the_host_once():
    moves = []

    class Values:
        def __array__(self, dtype=None, copy=None):
            moves.append(1)
            return np.eye(8, dtype=np.float32)

    output = ModelOutput(Values(), 8)
    rows = output.rows()
    with ThreadPoolExecutor(8) as threads:
        fetched = list(threads.map(lambda row: row.fetch(), reversed(rows)))
    np.testing.assert_array_equal(np.stack(fetched), np.eye(8)[::-1])
    assert moves == [1]
    output.wait()  # nothing is left on the devices
    assert rows[3].fetch() is rows[3].fetch()
