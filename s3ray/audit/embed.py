"""Texts as points: the mean of the last layer's states of the student's base checkpoint, before any training."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer

from s3ray.audit.measures import Points
from s3ray.config import StudentConfig
from s3ray.weights import resolve_model

BATCH_SIZE = 64


def embed(config: StudentConfig, texts: Sequence[str], device: torch.device) -> Points:
    """A point of length 1 for each text, in order; what is longer than ``student.max_length`` tokens is cut.

    Raises:
        InputError: the model is not there.
    """
    folder = resolve_model(config.model)
    options = {"trust_remote_code": config.trust_remote_code}
    tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    model = AutoModel.from_pretrained(folder, use_safetensors=True, dtype=torch.float32, **options).to(device)
    model.train(mode=False)
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    points = np.empty((len(texts), model.config.hidden_size), dtype=np.float32)
    with torch.inference_mode():
        for first in range(0, len(order), BATCH_SIZE):
            places = order[first : first + BATCH_SIZE]
            batch = tokenizer(
                [texts[place] for place in places],
                padding=True,
                truncation=True,
                max_length=config.max_length,
                return_tensors="pt",
            ).to(device)
            states = model(**batch).last_hidden_state
            inside = batch["attention_mask"].unsqueeze(-1)
            mean = (states * inside).sum(dim=1) / inside.sum(dim=1).clamp(min=1)
            points[places] = normalize(mean, dim=1).cpu().numpy()
    return points
