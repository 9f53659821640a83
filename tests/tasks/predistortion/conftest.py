"""Measured recordings, where they lie beside the checkout or are installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from grownas.tasks.predistortion.reading import from_folder

DPD = Path(__file__).parents[3].parent / "shared" / "data" / "dpd"


@pytest.fixture(scope="session", params=["DPA_200MHz", "APA_200MHz"])
def recording(request):
    """A measured recording."""
    if not (DPD / request.param).is_dir():
        pytest.skip("the measured amplifiers are not beside this checkout")
    return from_folder(DPD / request.param)
