"""Classes are matched by name, whatever their order and spelling."""

import json
import re

import pytest
import torch

from snvideo.errors import SnvideoError
from snvideo.models import create_model
from snvideo.models.pretrained.name_mapping import match_classes, read_classes
from tests.models.pretrained.nets import CLASSES, blank, source, take

NAME = "i3d_tiny"
THEIRS = create_model(NAME, len(CLASSES)).state_dict()


def rows(ours: torch.nn.Module) -> list[int | None]:
    """For each class of ours its row of their classifier; None for one that stayed as it was."""
    head = ours.blocks[-1].proj
    weight, bias = (THEIRS[f"blocks.6.proj.{field}"] for field in ("weight", "bias"))
    found = []
    for own, own_bias in zip(head.weight, head.bias, strict=True):
        same = [number for number, row in enumerate(weight) if torch.equal(row, own)]
        assert len(same) == 1 or (own.isnan().all() and own_bias.isnan())
        assert not same or own_bias == bias[same[0]]
        found.append(same[0] if same else None)
    return found


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("\n".join(CLASSES))
    return path


@pytest.mark.parametrize(
    "own, expected, said",
    [
        (CLASSES, [0, 1, 2, 3, 4], []),
        (CLASSES[::-1], [4, 3, 2, 1, 0], []),
        (CLASSES[3:], [3, 4], ["3 of the source's 5 classes are not used"]),
        (
            ("abseiling", "yoga", "zumba"),
            [None, 4, None],
            [
                "2 of 3 classes are new and start anew",
                "4 of the source's 5 classes are not used",
            ],
        ),
        ((*CLASSES, "zumba"), [0, 1, 2, 3, 4, None], ["1 of 6 classes are new"]),
        (
            ("Tap_Dancing", "'washing-dishes'", ' "yoga"\t', "Juggling  Balls"),
            [2, 3, 4, 1],
            ["1 of the source's"],
        ),
    ],
)
def test_rows_go_by_name(file, own, expected, said):
    ours = blank(NAME, classes=len(own))
    report = take(ours, source(THEIRS), own, classes=file)
    assert rows(ours) == expected
    text = "\n".join(report.table())
    assert all(words in text for words in said)
    assert said or "classes" not in text


@pytest.mark.parametrize(
    "own, expected",
    [
        ("massaging person's head", "massaging_persons_head"),
        ("massaging person\u2019s head", '"massaging person\'s head"'),
        ("pull-ups", "Pull Ups"),
        ("Straße", "STRASSE"),
    ],
)
def test_spellings_of_one_name(own, expected):
    assert match_classes([own], [expected], "there") == [0]


@pytest.mark.parametrize("theirs", [("yoga", "juggling", "yoga"), ("yoga", "'Yoga'")])
def test_two_classes_of_one_name_are_refused(theirs):
    with pytest.raises(SnvideoError, match=r"^there names the class '.*' twice$"):
        match_classes(["yoga"], theirs, "there")


def test_a_classifier_of_which_nothing_is_known_is_refused(file):
    ours = blank(NAME, classes=2)
    with pytest.raises(SnvideoError, match=r"has none of the 2 classes .* such as 'abseiling'"):
        take(ours, source(THEIRS), ("abseiling", "zumba"), classes=file)
    assert all(tensor.isnan().all() for tensor in ours.parameters())
    report = take(ours, source(THEIRS), ("abseiling", "zumba"), head="new")
    assert report.count("reset") == report.count("dropped") == 2
    assert rows(ours) == [None, None]


def test_names_have_to_be_known():
    with pytest.raises(SnvideoError, match=r"does not name its 5 classes: .*classes=FILE, or"):
        take(blank(NAME), source(THEIRS))


@pytest.mark.parametrize("names", [CLASSES[:-1], (*CLASSES, "zumba")])
def test_names_have_to_be_as_many_as_logits(file, names):
    file.write_text("\n".join(names))
    said = f"{re.escape(str(file))} names {len(names)} classes, the classifier of .* has 5"
    with pytest.raises(SnvideoError, match=said):
        take(blank(NAME), source(THEIRS), classes=file)


NUMBERS = {name: number for number, name in enumerate(CLASSES)}


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(CLASSES),
        "\ufeff" + "\r\n".join(CLASSES) + "\r\n\r\n",
        json.dumps(CLASSES),
        json.dumps(NUMBERS),
        json.dumps(dict(reversed(NUMBERS.items())), indent=1),
        json.dumps({"labels": list(CLASSES), "rows": 64, "videos": "/data"}),
    ],
)
def test_files_of_names(file, text):
    file.write_bytes(text.encode())
    assert read_classes(file) == CLASSES


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2]",
        '["a", null]',
        '{"a": 0, "b": 2}',
        '{"a": 0, "b": 0}',
        '{"a": "first"}',
        '{"a": [0]}',
        '{"a": 0',
        '{"labels": [["a"]]}',
        "\ud8ff",
    ],
)
def test_files_without_names_are_one_line(file, text):
    file.write_bytes(text.encode(errors="surrogatepass"))
    said = rf"^class names {re.escape(str(file))}: expected a name a line, or JSON: [^\n]*$"
    with pytest.raises(SnvideoError, match=said):
        read_classes(file)


def test_files_that_cannot_be_read_are_one_line(tmp_path):
    for path, why in (
        (tmp_path / "none.txt", "No such file"),
        (tmp_path, "Is a directory"),
    ):
        with pytest.raises(SnvideoError, match=f"^cannot read class names {path}: {why}"):
            read_classes(path)
