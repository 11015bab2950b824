"""Publishing of a finished run on the Hugging Face Hub."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from snvideo.engine.results import read_results
from snvideo.errors import SnvideoError
from snvideo.extras import require
from snvideo.models.pretrained import WEIGHTS_FILE, WeightsMetadata, load_model
from snvideo.models.pretrained.hugging_face import PREFIX, one_line_errors
from snvideo.models.pretrained.model_card import model_card

PREPROCESSING = "preprocessing.json"


def push(run: Path, repo: str, private: bool | None = None) -> str:
    """Publish the weights of a finished run, as one commit of a repository.

    It has the weights as safetensors, a model card, the config and the preprocessing with the
    classes. No path of a home folder is published as such.

    Args:
        run: folder of the run.
        repo: `USER/NAME`, or `NAME` of one's own; it is made if it is not there.
        private: of a repository that is made; None: as the account makes them.

    Returns:
        the address of the commit.

    Raises:
        SnvideoError: if the run is not finished or its files are damaged, there is no token, or the
            Hub does not take it.
    """
    require("hub", "uploads to the Hugging Face Hub")
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    if not (run / "config.yaml").exists():
        raise SnvideoError(f"{run} is not the folder of a run: it has no config.yaml")
    if read_results(run) is None:
        raise SnvideoError(f"{run} is not finished, so it has no results: snvideo train {run}")
    metadata = load_model(run).metadata  # which checks the file
    if get_token() is None:
        raise SnvideoError("no token of the Hugging Face Hub: 'hf auth login', or set HF_TOKEN")
    config = (run / "config.yaml").read_text(encoding="utf-8").replace(f"{Path.home()}/", "~/")
    with one_line_errors(repo):
        api = HfApi()
        name = api.create_repo(repo.removeprefix(PREFIX), private=private, exist_ok=True).repo_id
        texts = {
            "README.md": _front_matter(metadata) + model_card(metadata, PREFIX + name, config),
            "config.yaml": config,
            PREPROCESSING: _preprocessing(metadata),
        }
        files = [CommitOperationAdd(WEIGHTS_FILE, str(run / WEIGHTS_FILE))]
        files += [CommitOperationAdd(file, text.encode()) for file, text in texts.items()]
        message = f"{metadata.architecture} with {metadata.norm}, trained with snvideo"
        return api.create_commit(name, files, commit_message=message).commit_url


def _front_matter(metadata: WeightsMetadata) -> str:
    """Metadata by which the Hub finds a model card, in YAML."""
    values = {
        "library_name": "snvideo",
        "pipeline_tag": "video-classification",
        "tags": ["snvideo", "action-recognition", metadata.architecture, metadata.norm],
    }
    return f"---\n{yaml.safe_dump(values, sort_keys=False)}---\n\n"


def _preprocessing(metadata: WeightsMetadata) -> str:
    """Preprocessing and classes, which a program needs beside the network, as JSON."""
    values = metadata.preprocessing.model_dump(mode="json")
    values |= {"classes": metadata.classes, "activation": metadata.activation}
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"
