"""Whether a selection fits the rest of an experiment, and its settings each other."""

from collections.abc import Collection, Iterator
from functools import partial
from typing import TYPE_CHECKING, Final

from miniplm_assets.experiment.selections import DIFFERENCE, MODELS_OF_SCORE, PER_BYTE
from miniplm_assets.experiment.settings import unknown

if TYPE_CHECKING:  # the schema checks itself by this
    from miniplm_assets.experiment.schema import Experiment
    from miniplm_assets.experiment.scoring import Rescoring
    from miniplm_assets.experiment.selections import Selection

# In which a second pass is as the first: all but what it is for.
_SAME_IN_BOTH: Final = ("teacher", "reference", "keep_fraction", "token_budget", "rank_by")
_PLAIN: Final = (
    "the highest differences of all candidates: no rank_by nats_per_byte, order, scale_correction, temperature, "
    "within, pre_filter, proxy"
)


class SelectionCheck:
    """The checks of one selection.

    Args:
        file: the experiment.
        name: of the selection.
        left_out: names of others that are wrong in themselves; nothing is said of what they are named for.
    """

    def __init__(self, file: "Experiment", name: str, left_out: Collection[str]) -> None:
        self._file = file
        self._name = name
        self._selection: Selection = file.selections[name]
        self._where = f"selections.{name}"
        self._unknown = partial(unknown, left_out=left_out)

    def problems(self) -> Iterator[str]:
        """Say what does not fit together, each at its key."""
        yield from self._model_problems()
        yield from self._unread_settings()
        selection = self._selection
        if selection.pre_filter is not None:
            yield from self._pre_filter_problems(f"{self._where}.pre_filter", selection.pre_filter)
        if selection.proxy is not None:
            yield from self._proxy_problems(f"{self._where}.proxy")
        if selection.rescoring is not None:
            yield from self._rescoring_problems(f"{self._where}.rescoring.around", selection.rescoring)
        if selection.agreement is not None and not selection.is_plain:
            yield (
                f"{self._where}.agreement: a sample is held against the cutoff of {_PLAIN}; put it at such a selection "
                "of the same teacher and reference, whose scores are the same"
            )
        yield from self._pair_problems()

    def _model_problems(self) -> Iterator[str]:
        selection = self._selection
        asked = MODELS_OF_SCORE[selection.score]
        for who, known in (("teacher", self._file.teachers), ("reference", self._file.references)):
            name, where = getattr(selection, who), f"{self._where}.{who}"
            if who in asked:
                yield from self._named(where, name, known)
            elif name is not None:
                yield f"{where} '{name}' is not asked by score {selection.score}; leave it out, or {self._fitting()}"
        where = f"{self._where}.tokenizer"
        if not asked:
            yield from self._named(where, selection.tokenizer, self._file.tokenizers)
        elif selection.tokenizer is not None:
            yield f"{where} '{selection.tokenizer}': the sequences are those of its models' tokenizer; leave it out"

    def _named(self, where: str, name: str | None, known: Collection[str]) -> Iterator[str]:
        if name is None:
            names = ", ".join(sorted(known)) or "none"
            yield f"{where}: score {self._selection.score} needs one, and none is named; known: {names}"
        else:
            yield from self._unknown(where, name, known)

    def _fitting(self) -> str:
        """Return the score that asks exactly the models that are named."""
        named = {who for who in ("teacher", "reference") if getattr(self._selection, who) is not None}
        return next(f"write score: {score}" for score, asked in MODELS_OF_SCORE.items() if set(asked) == named)

    def _unread_settings(self) -> Iterator[str]:
        """Say which settings nothing would read."""
        selection, score = self._selection, self._selection.score
        if not MODELS_OF_SCORE[score] and "rank_by" in selection.model_fields_set:
            yield f"{self._where}.rank_by {selection.rank_by}: score {score} is in no nats; leave it out"
        if score != DIFFERENCE and selection.scale_correction != "none":
            yield (
                f"{self._where}.scale_correction {selection.scale_correction}: it brings two models to one scale, and "
                f"score {score} is no difference of two; leave it out, or write score: {DIFFERENCE}"
            )
        if selection.rank_by == PER_BYTE and selection.scale_correction != "none":
            yield (
                f"{self._where}.scale_correction {selection.scale_correction}: it is of values per token or per "
                f"sequence, and rank_by is {PER_BYTE}; leave one of the two out"
            )
        if score == "random" and selection.temperature is not None:
            yield f"{self._where}.temperature {selection.temperature:g}: score random is drawn already; leave it out"
        if score != "random" and selection.unwanted_domains:
            yield (
                f"{self._where}.unwanted_domains: they come last in a random order, and score {score} has one of its "
                "own; leave them out, or write score: random"
            )
        if selection.seed is not None and not selection.is_drawn:
            yield (
                f"{self._where}.seed {selection.seed}: nothing is drawn here; leave it out, or write score: random or "
                "a temperature"
            )

    def _pre_filter_problems(self, where: str, named: str) -> Iterator[str]:
        if named not in self._file.selections:
            yield from self._unknown(where, named, self._file.selections)
            return
        if "teacher" not in MODELS_OF_SCORE[self._selection.score]:
            yield (
                f"{where} '{named}': it spares the teacher what it does not keep, and score {self._selection.score} "
                "asks no teacher; leave it out"
            )
        way, free = self._way_of_pre_filters(named), ", ".join(self._without_pre_filter()) or "none"
        if way[-1] == self._name:
            yield f"{where} '{named}': {' -> '.join(way)} is a circle; name a selection without pre_filter: {free}"
        mine, theirs = (self._file.selection_tokenizer(one) for one in (self._name, named))
        if mine is not None and theirs is not None and mine != theirs:
            fitting = [one for one in self._without_pre_filter() if self._file.selection_tokenizer(one) == mine]
            yield (
                f"{where} '{named}' keeps sequences of tokenizer {theirs}, this selection ranks those of {mine}; name "
                f"one of the same: {', '.join(fitting) or 'none'}"
            )

    def _way_of_pre_filters(self, named: str) -> list[str]:
        """Return the selections from this one by pre_filter, up to the first that is there twice, or has none."""
        way: list[str] = [self._name]
        following: str | None = named
        while following is not None and following in self._file.selections and following not in way:
            way.append(following)
            following = self._file.selections[following].pre_filter
        return [*way, following] if following in way and following is not None else way

    def _without_pre_filter(self) -> list[str]:
        selections = self._file.selections.items()
        return sorted(name for name, one in selections if one.pre_filter is None and name != self._name)

    def _proxy_problems(self, where: str) -> Iterator[str]:
        """Say what a selection asks that a predicted difference does not have."""
        selection = self._selection
        if selection.score != DIFFERENCE:
            yield (
                f"{where}: it learns the difference of two models, and score {selection.score} is none; leave it out, "
                f"or write score: {DIFFERENCE}"
            )
        if selection.scale_correction != "none":
            yield (
                f"{where}: it predicts differences, and scale_correction {selection.scale_correction} needs what each "
                "model says of every candidate; leave one of the two out"
            )
        if selection.rank_by == PER_BYTE:
            yield (
                f"{where}: it predicts differences per token, and rank_by is {PER_BYTE}; write rank_by: "
                "nats_per_token, or leave the proxy out"
            )
        if selection.pre_filter is not None:
            yield (
                f"{where}: pre_filter '{selection.pre_filter}' and a proxy both say what the teacher is spared; leave "
                "one of the two out (a selection with a proxy may be the pre_filter of another)"
            )

    def _pair_problems(self) -> Iterator[str]:
        """Say why a teacher and a reference do not make a pair."""
        selection = self._selection
        teacher = self._file.teachers.get(selection.models.get("teacher", ""))
        reference = self._file.references.get(selection.models.get("reference", ""))
        if teacher is None or reference is None:
            return
        if teacher.tokenizer != reference.tokenizer:
            yield from self._problems_of_two_tokenizers(teacher.tokenizer, reference.tokenizer)
        if teacher.scoring.score_after_end_of_document != reference.scoring.score_after_end_of_document:
            yield (
                f"{self._where}: score_after_end_of_document differs between teacher and reference; their sums would "
                "cover different tokens"
            )
        if selection.agreement is not None:
            other = selection.agreement
            if all(
                one.scoring.by(other.backend, other.dtype) == one.scoring.by(None, None) for one in (teacher, reference)
            ):
                yield (
                    f"{self._where}.agreement: teacher and reference are scored by {teacher.scoring.backend} in "
                    f"{teacher.scoring.dtype} already; name another backend or dtype"
                )

    def _problems_of_two_tokenizers(self, of_teacher: str, of_reference: str) -> Iterator[str]:
        """Say what needs the same tokens from both models."""
        selection = self._selection
        remedy = "or name two models of the same tokenizer"
        models = (
            f"teacher {selection.teacher} uses tokenizer {of_teacher}, reference {selection.reference} uses "
            f"{of_reference}"
        )
        if selection.rank_by == "nats_per_token":
            yield (
                f"{self._where}.rank_by nats_per_token: {models}; a difference per token exists only over the same "
                f"tokens. Write rank_by: {PER_BYTE}, for the same text in the tokens of each, {remedy}"
            )
        for setting, why in (
            ("proxy", "it predicts from the tokens of both"),
            ("agreement", "it holds scores of the same tokens against each other"),
            ("rescoring", "it puts scores of the same tokens in the place of others"),
        ):
            if getattr(selection, setting) is not None:
                yield f"{self._where}.{setting}: {why}, and {models}; leave it out, {remedy}"
        if self._file.pilot is not None:
            yield (
                f"{self._where}: the pilot compares both models on the same tokens, and {models}; leave the pilot out, "
                f"{remedy}"
            )

    def _rescoring_problems(self, where: str, rescoring: "Rescoring") -> Iterator[str]:
        first = self._file.selections.get(rescoring.around)
        if first is None:
            yield from self._unknown(where, rescoring.around, self._file.selections)
            return
        if first.rescoring is not None:
            yield f"{where}: '{rescoring.around}' is a second pass itself; name a selection without rescoring"
        for which, one in (("this selection", self._selection), (f"'{rescoring.around}'", first)):
            if not one.is_plain:
                yield f"{where}: a second pass moves {_PLAIN}; {which} ranks in another way"
        for name in _SAME_IN_BOTH:
            mine, theirs = getattr(self._selection, name), getattr(first, name)
            if mine != theirs:
                yield (
                    f"{where}: '{rescoring.around}' has {name} {theirs}, this selection {mine}; a second pass moves "
                    "scores, not what they are for, so that both need the same"
                )
