"""Simulated annotators at work in a store: the same claims, the same events as people's, marked as oracle."""

import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np

from visionsam_hf.annotation.export import candidate_masks, truth_of
from visionsam_hf.annotation.oracle import annotate, criteria_table
from visionsam_hf.annotation.ranking import identical_groups
from visionsam_hf.annotation.store import Store, Work
from visionsam_hf.annotation.submission import Submission
from visionsam_hf.annotation.users import add_oracle
from visionsam_hf.errors import UserError

_CLAIM = 20


def rank_in_store(
    store: Store, datasets: Mapping[str, Any], *, annotators: int, noise: float, flip_rate: float, seed: int
) -> int:
    """Let `annotators` simulated annotators rank all that the store still wants of them; returns how many answers.

    Args:
        datasets: the splits of the candidate set, images undecoded, with a truth in every row.
        noise, flip_rate, seed: as in `oracle.annotate`.
    """
    answered = 0
    for number in range(annotators):
        user = add_oracle(store.engine, f"oracle-{number + 1}")
        while work := store.claim(user, _CLAIM):
            for item in work:
                ranking, criterion = _judge(item, datasets, number, noise, flip_rate, seed)
                store.submit(
                    user,
                    Submission(
                        uuid=str(uuid.uuid4()),
                        assignment=item.public,
                        kind="submit",
                        ranking=[ranking[place] for place in item.order],
                        criterion=criterion,  # type: ignore[arg-type]  # pydantic checks it
                    ),
                )
                answered += 1
    return answered


def _judge(
    item: Work, datasets: Mapping[str, Any], annotator: int, noise: float, flip_rate: float, seed: int
) -> tuple[list[int], str | None]:
    row = datasets[item.split][item.row]
    truth = truth_of(row)
    if truth is None:
        raise UserError(f"row {item.row} of split '{item.split}' has no truth for the oracle to judge by")
    masks = candidate_masks(row)
    answer = annotate(
        criteria_table(masks, truth),
        identical_groups(np.stack(masks)),
        annotator=annotator,
        # A task that comes again gets new noise, as a person's second look does.
        task=f"{item.split}/{item.row}" + (f"/{item.round}" if item.round else ""),
        seed=seed,
        noise=noise,
        flip_rate=flip_rate,
    )
    return answer.ranking, answer.deciding_criterion
