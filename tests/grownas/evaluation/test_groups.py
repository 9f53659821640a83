"""The parts of a study are read whole, or refused in words."""

from __future__ import annotations

import json

import pytest

from grownas.errors import RunError
from grownas.evaluation.groups import read_part


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "not a finished part of a study: summary.json is missing; resume the study"),
        ("{", "damaged: Expecting property name"),
        ("[]", "damaged: 'list' object has no attribute 'keys'"),
        (json.dumps({"metric": "mse"}), "damaged: seed missing in summary.json; run it again"),
    ],
    ids=["missing", "cut", "list", "key"],
)
def test_a_part_that_cannot_be_compared_is_refused(text, words, tmp_path):
    if text is not None:
        (tmp_path / "summary.json").write_text(text)
    with pytest.raises(RunError, match=f"{tmp_path}: {words}"):
        read_part(tmp_path, {"metric", "seed"})


def test_a_part_may_have_further_entries(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps({"metric": "mse", "seed": 1}))
    assert read_part(tmp_path, {"metric"}) == {"metric": "mse", "seed": 1}
