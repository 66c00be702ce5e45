"""Everything that this project raises for the person who runs it.

    MiniplmError
    ├── ExperimentError       the experiment file is wrong: which key, what was expected
    ├── CorpusError           a source file cannot be read, or holds nothing to work with
    │   └── CorpusChangedError    a source file is not the one that the run works on any more
    ├── ModelError            a model or tokenizer cannot be found, built or used as asked
    ├── ScoringError          a score is not finite, or a sequence cannot be scored
    ├── TaskError             a task cannot be found, read or evaluated as asked
    ├── TrainingError         a model cannot be trained, or resumed, as asked
    ├── SqlError              a model or test of dbt_like_sql is wrong
    ├── PublishingError       something cannot be exported, or sent to a hub, as asked
    ├── StoreError            the warehouse cannot be written or read
    │   ├── MissingResultError    what is needed has not been materialised yet
    │   └── DamagedResultError    a stored file is not what its manifest says
    └── TransientError        a network or a server failed; another try may succeed
        ├── UnreachableModelError     is a ModelError too
        ├── UnreachableTaskError      is a TaskError too
        ├── UnreachableStoreError     is a StoreError too
        └── UnreachableCorpusError    is a CorpusError too

All are ValueErrors: the input, not the program, has to change; after a TransientError perhaps only the time.
Each message names the file, shard, row or key, what was expected, what was found, and what to do.
"""


class MiniplmError(ValueError):
    """Base of all errors of this project."""


class ExperimentError(MiniplmError):
    """The experiment file is wrong."""


class CorpusError(MiniplmError):
    """A source file cannot be read, or holds nothing to work with."""


class CorpusChangedError(CorpusError):
    """A source file changed, or went, since the run looked at the corpus."""


class ModelError(MiniplmError):
    """A model or tokenizer cannot be found, built or used as asked."""


class ScoringError(MiniplmError):
    """A score is not finite, or a sequence cannot be scored."""


class TaskError(MiniplmError):
    """A task cannot be found, read or evaluated as asked."""


class TrainingError(MiniplmError):
    """A model cannot be trained, or resumed, as asked."""


class SqlError(MiniplmError):
    """A model or test of dbt_like_sql is wrong."""


class PublishingError(MiniplmError):
    """Something cannot be exported, or sent to a hub, as asked."""


class StoreError(MiniplmError):
    """The warehouse cannot be written or read."""


class MissingResultError(StoreError):
    """What is needed has not been materialised yet."""


class DamagedResultError(StoreError):
    """A stored file is not what its manifest says."""


class TransientError(MiniplmError):
    """A network or a server failed; another try may succeed."""


class UnreachableModelError(ModelError, TransientError):
    """A model or tokenizer is out of reach."""


class UnreachableTaskError(TaskError, TransientError):
    """The data set of a task is out of reach."""


class UnreachableStoreError(StoreError, TransientError):
    """The object store of the warehouse is out of reach."""


class UnreachableCorpusError(CorpusError, TransientError):
    """A source file is out of reach."""
