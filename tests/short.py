"""A model for which memory is short: more rows than it holds raise what a GPU would raise."""

from contextlib import contextmanager

import torch


@contextmanager
def memory_for(module, rows):
    """Inside, a module takes at most so many rows; yields the numbers of rows it was given."""
    seen = []

    def check(module, args, kwargs):
        given = next(v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor))
        seen.append(len(given))
        if len(given) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 10.00 GiB.")

    hook = module.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()


@contextmanager
def pictures_seen(model):
    """Yields the numbers of pictures that the vision tower is given, call by call."""
    seen = []
    hook = model.model.visual.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["grid_thw"])), with_kwargs=True
    )
    try:
        yield seen
    finally:
        hook.remove()
