"""Every numeric test runs on every case."""

from __future__ import annotations

import pytest
from cases import PARAMETERS, Case, token_sequences
from harness import Fitted, encoded, fit_factors, make_replica, operator_of


@pytest.fixture(scope="session", params=PARAMETERS)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(scope="session")
def fitted(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    replica, sequences = make_replica(case), token_sequences()
    folder = tmp_path_factory.mktemp(case.name)
    factors = fit_factors(replica, sequences, folder)
    queries = [
        encoded(tokens, first)
        for tokens, first in zip(token_sequences(1, (6, 8, 4)), (1, 5, 3), strict=True)
    ]
    operator = operator_of(factors)
    return Fitted(case, replica, sequences, queries, factors, operator, folder)
