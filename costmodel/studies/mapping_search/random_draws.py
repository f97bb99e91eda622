"""Random search: every gene of every genome drawn evenly; no memory. The baseline that any method has to beat."""

import dataclasses

from jaxtyping import PRNGKeyArray

from costmodel.studies.mapping_search.methods import CHUNK, Batch, repeated, tried
from costmodel.studies.mapping_search.spaces import SearchSpace


@dataclasses.dataclass(frozen=True)
class RandomDraws:
    """Random search; `rounds` chunks of genomes in one call."""

    rounds: int = 16

    def begin(self, space: SearchSpace, key: PRNGKeyArray) -> tuple[None, Batch]:
        return self._draw(space, key, 1)

    def advance(self, space: SearchSpace, state: None, key: PRNGKeyArray) -> tuple[None, Batch]:
        return self._draw(space, key, self.rounds)

    def finished(self, evaluations: float) -> bool:
        return False

    def _draw(self, space: SearchSpace, key: PRNGKeyArray, rounds: int) -> tuple[None, Batch]:
        def step(_: None, key: PRNGKeyArray) -> tuple[None, Batch]:
            genes = space.draw(key, CHUNK)
            return None, tried(space, genes, space.scores(genes).value)

        return repeated(step, None, key, rounds)
