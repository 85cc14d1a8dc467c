"""Batches of pairs for PyTorch, and errors of the worker processes that make them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from lpx.card import ModelCard
from lpx.data.images.decode import Image, fit
from lpx.data.pseudo_fakes.training_pairs import Pairs
from lpx.errors import LpxError
from lpx.interrupts import follow_parent

# Normalised faces and their labels: [2, 3, S, S] and [2], with a leading B in a batch.
Pair = tuple[Tensor, Tensor]


class PairDataset(Dataset[Pair | LpxError]):
    """Pair number -> (normalised float32 [2, 3, S, S], labels [2]), the real face first.

    Args:
        pairs: Source of the images.
        card: Card of the model, for its input size and normalisation.
        length: Number of pairs.
    """

    def __init__(self, pairs: Pairs, card: ModelCard, length: int) -> None:
        self.pairs, self.card, self.length = pairs, card, length

    def __len__(self) -> int:
        """Return the number of pairs."""
        return self.length

    def __getitem__(self, number: int) -> Pair | LpxError:
        """Make a pair, or return the error that prevents it."""
        try:
            images = [self.pairs.real(number), self.pairs.fake(number)]
        except LpxError as error:
            # PyTorch would send an error that is raised here as the text of its traceback. As a
            # value it arrives in the training process whole; `opened` raises it there.
            return error
        return normalised(images, self.card), torch.tensor([0.0, 1.0])


def normalised(images: Sequence[Image], card: ModelCard) -> Tensor:
    """Return crops as the network expects them, float32 [B, 3, S, S].

    Args:
        images: uint8 RGB [H, W, 3] each.
        card: Card of the model, for its input size and normalisation.
    """
    offset, scale = card.normalisation()
    pixels = np.stack([fit(image, card.input_size) for image in images]).astype(np.float32)
    faces = ((pixels - offset) * scale).transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(faces))


def collate(items: list[Pair | LpxError]) -> Pair | LpxError:
    """Stack pairs to a batch; the first error takes the place of the whole batch."""
    for item in items:
        if isinstance(item, LpxError):
            return item
    batch = default_collate(items)
    return batch[0], batch[1]


def opened(batch: Pair | LpxError) -> Pair:
    """Return a batch as (faces float32 [2 B, 3, S, S], labels [2 B]).

    Raises:
        LpxError: A worker could not make one of its images.
    """
    if isinstance(batch, LpxError):
        raise batch
    images, labels = batch
    return images.flatten(0, 1), labels.flatten()


def loader(
    dataset: PairDataset,
    workers: int,
    *,
    batch_size: int = 1,
    batches: Iterable[list[int]] | None = None,
) -> DataLoader[Pair | LpxError]:
    """Return a loader of pairs in a fixed order, whatever the number of workers.

    Args:
        dataset: Makes the pairs.
        workers: Processes that make images; 0 for none but this one.
        batch_size: Pairs per batch, if `batches` does not say which.
        batches: Numbers of the pairs of each batch; None for all of the dataset in order.
    """
    return DataLoader(
        dataset,
        # Beside a sampler of batches, PyTorch takes only its default of 1.
        batch_size=batch_size if batches is None else 1,
        batch_sampler=None if batches is None else list(batches),
        num_workers=workers,
        worker_init_fn=follow_parent,
        collate_fn=collate,
    )
