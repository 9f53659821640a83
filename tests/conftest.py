"""What all tests share."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# A first call of torch takes seconds and machines are noisy: no deadline. The same examples in every run, so that a red
# one is about the change.
settings.register_profile("grownas", deadline=None, derandomize=True)
settings.load_profile("grownas")
torch.set_num_threads(1)  # small tensors; also keeps sums in one order


@pytest.fixture(scope="session")
def following():
    """The module `following`: test files cannot import from this folder."""
    spec = importlib.util.spec_from_file_location("following", Path(__file__).with_name("following.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def followed(following):
    """The class `Followed`."""
    return following.Followed


@pytest.fixture(scope="session")
def followed_words(following):
    """The class `FollowedWords`."""
    return following.FollowedWords
