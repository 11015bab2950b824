"""What became of every tensor is said.

That no tensor of either side is left out is asserted wherever the tests here take weights over.
"""

import json

import torch

from snvideo.models import create_model
from tests.models.pretrained.nets import CLASSES, blank, own_source, source, take

NAME = "i3d_tiny"


def test_the_numbers_add_up_and_reasons_are_given(tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("\n".join(CLASSES))
    theirs = create_model(NAME, len(CLASSES), "bn")
    ours = blank(NAME, "sn", classes=2)
    report = take(ours, source(theirs.state_dict()), ("zumba", "yoga"), classes=names, norms="new")
    assert report.table() == [
        "weights from weights.pth (pytorchvideo): 19 loaded, 0 inflated, 102 reset, 68 dropped",
        "102 reset: norms are to start anew",
        "68 dropped: norms are to start anew",
        "2 loaded: 1 of 2 classes are new and start anew, 4 of the source's 5 classes are not used",
    ]


def test_a_batch_normalization_that_becomes_switchable_says_so():
    theirs = create_model(NAME, len(CLASSES), "bn")
    ours = create_model(NAME, len(CLASSES), "sn", start="batch")
    report = take(ours, source(theirs.state_dict()), head="new")
    assert {
        entry.name.rpartition(".")[2] for entry in report.entries if entry.status == "reset"
    } == {
        *("mean_logits", "var_logits"),
        *("weight", "bias"),  # of the classifier
    }
    assert "34 reset: importance logits start at the batch part" in report.table()


def test_its_facts_are_plain_values():
    theirs = create_model(NAME, len(CLASSES))
    report = take(blank(NAME), own_source(theirs, NAME, "bn")._replace(sha256="ab" * 32))
    facts = json.loads(json.dumps(report.to_dict()))
    count = len([name for name in theirs.state_dict() if "num_batches" not in name])
    assert {key: facts[key] for key in report.summary()} == {
        "origin": "weights.pth",
        "format": "snvideo",
        "sha256": "ab" * 32,
        **{"loaded": count, "inflated": 0, "reset": 0, "dropped": 0},
    }
    assert len(facts["tensors"]) == count
    stem = torch.Size([16, 3, 5, 7, 7]).numel()
    assert {"name": "blocks.0.conv.weight", "fate": "loaded", "values": stem, "why": ""} in facts[
        "tensors"
    ]
