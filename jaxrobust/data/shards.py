"""Several arrays read as one, without copying them together."""

from collections.abc import Sequence
from typing import Any

import numpy as np


class Shards:
    """The concatenation of `parts` ([N_i,H,W,C] each) along the first axis, lazily.

    Indexed by a number, a slice or an index array like the array it stands for; what
    comes out is an ordinary array. Parts must share [H,W,C] and dtype.
    """

    def __init__(self, parts: Sequence[np.ndarray]):
        self.parts = tuple(parts)
        self.ends = np.cumsum([len(part) for part in self.parts])
        self.dtype = self.parts[0].dtype
        self.shape = (int(self.ends[-1]), *self.parts[0].shape[1:])

    @property
    def ndim(self) -> int:
        """The rank of the whole."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        if isinstance(key, slice):
            index = np.arange(*key.indices(len(self)))
        else:
            index = np.asarray(key)
            index = np.flatnonzero(index) if index.dtype == bool else index
        flat = np.where(index < 0, index + len(self), index).reshape(-1)
        if flat.size and not 0 <= flat.min() <= flat.max() < len(self):
            raise IndexError(f"index out of range for {len(self)} images")
        out = np.empty((flat.size, *self.shape[1:]), self.dtype)
        owner = np.searchsorted(self.ends, flat, side="right")
        for number in np.unique(owner):
            part, mine = self.parts[number], owner == number
            out[mine] = part[flat[mine] - (self.ends[number] - len(part))]
        return out.reshape(index.shape + self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("shards lie apart: joining them makes a copy")
        return np.concatenate(self.parts).astype(dtype or self.dtype, copy=False)
