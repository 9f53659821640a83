"""What all tests share."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings

from support import following

# A first call of torch takes seconds and machines are noisy: no deadline. The same examples in every run, so that a red
# one is about the change.
settings.register_profile("grownas", deadline=None, derandomize=True)
settings.load_profile("grownas")
torch.set_num_threads(1)  # small tensors; also keeps sums in one order


@pytest.fixture(scope="session")
def followed():
    """The class `Followed`."""
    return following.Followed


@pytest.fixture(scope="session")
def followed_words():
    """The class `FollowedWords`."""
    return following.FollowedWords
