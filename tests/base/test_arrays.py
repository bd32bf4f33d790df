"""NumPy's files in threads."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from monai_ext.base.arrays import load_array, load_arrays

FILES = 400


def test_threads_do_not_disturb_each_other(tmp_path):
    """CPython 3.11 raises SystemError now and then where threads parse headers at the same time."""
    for number in range(FILES):
        np.save(tmp_path / f"{number}.npy", np.full((2, 3), number, np.int16))
    with ThreadPoolExecutor(8) as pool:
        arrays = list(pool.map(lambda n: load_array(tmp_path / f"{n}.npy"), range(FILES)))
    assert [int(array[1, 2]) for array in arrays] == list(range(FILES))


def test_nothing_is_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", a=np.array([{}], dtype=object), b=np.ones(3))
    with pytest.raises(ValueError, match="Python objects"):
        load_array(tmp_path / "a.npy")
    with pytest.raises(ValueError, match="allow_pickle"):
        load_arrays(tmp_path / "a.npz", ["a"])
    assert load_arrays(tmp_path / "a.npz", ["b"])[0].tolist() == [1, 1, 1]
