"""The trainer's losses once more, the plain way, to compare with."""

import torch

from trainer.dataset.prepared import KIND_CONTEXT, Items


def naive_losses(model: torch.nn.Module, items: Items) -> tuple[float, float]:
    """Cross entropy over all logits, item by item, nothing packed: nats per trained token, and the users' mean."""
    users: dict[int | None, list[float]] = {}
    model.eval()
    for item in range(len(items)):
        tokens = torch.tensor([list(items.tokens(item))])
        trained = torch.tensor(list(items.kinds(item))[1:]).ne(KIND_CONTEXT)
        with torch.no_grad():
            logits = model(input_ids=tokens).logits[0, :-1]
        labels = tokens[0, 1:][trained]
        each = torch.nn.functional.cross_entropy(logits[trained].double(), labels, reduction="none").tolist()
        users.setdefault(items.user(item), []).extend(each)
    every = [loss for own in users.values() for loss in own]
    return sum(every) / len(every), sum(sum(own) / len(own) for own in users.values()) / len(users)
