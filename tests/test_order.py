"""The order of the data is a pure function of (seed, position)."""

import numpy as np

from keras_vae import data


def test_every_epoch_is_a_permutation_and_pieces_equal_the_whole():
    whole = data.order(3, 101, 0, 303)
    for epoch in range(3):
        assert sorted(whole[101 * epoch : 101 * (epoch + 1)]) == list(range(101))
    pieces = np.concatenate([data.order(3, 101, start, 50) for start in range(0, 300, 50)])
    assert np.array_equal(pieces, whole[:300])
    assert not np.array_equal(whole[:101], whole[101:202])
    assert not np.array_equal(data.order(4, 101, 0, 101), whole[:101])


def test_successive_epochs_do_not_correlate():
    epochs = data.order(0, 2000, 0, 4000).reshape(2, 2000)
    places = np.argsort(epochs, axis=1)
    assert abs(np.corrcoef(places)[0, 1]) < 0.1
