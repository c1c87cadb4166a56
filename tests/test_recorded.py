"""FFNs alone give the plans, rewards and checkpoints that they gave before attention was a site."""

import json
from pathlib import Path

import pytest
from recorded import cases


def test_ffns_alone_are_as_they_were():
    expected = json.loads(Path(__file__).with_name("recorded.json").read_text())
    found = json.loads(json.dumps(cases()))
    assert found.pop("reward") == pytest.approx(expected.pop("reward"), abs=1e-5)
    assert found == expected
