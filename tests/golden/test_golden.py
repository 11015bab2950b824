"""Today's code comes to the numbers of the code that recorded them, and goes on with its run."""

import json

import numpy as np
import pytest

from tests.golden import record

EXPECTED = json.loads((record.RECORDED / "expected.json").read_text())


def assert_as_recorded(found: dict, expected: dict) -> None:
    """Equal to the bit on a machine like the one that recorded, and up to rounding on others."""
    assert found["losses"][0] == pytest.approx(expected["losses"][0], rel=1e-5)
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-2)
    if record.machine() == EXPECTED["machine"]:
        assert found == expected


@pytest.mark.parametrize("norm", record.NORMS)
def test_training_from_scratch(norm):
    with record.working_copy():
        assert_as_recorded(record.run_from_scratch(norm), EXPECTED[norm])


def test_a_recorded_run_is_gone_on_with():
    with record.working_copy():
        assert_as_recorded(record.resumed_run(), EXPECTED["resumed"])


def test_a_recorded_run_is_evaluated():
    with record.working_copy():
        found = record.evaluated_run()
    # Recorded anew, on another machine than the rest, when a test left the statistics of frozen
    # parts as they are.
    assert np.asarray(found) == pytest.approx(np.asarray(EXPECTED["evaluated"]), abs=1e-3)
