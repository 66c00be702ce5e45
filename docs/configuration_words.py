"""What the reference of the experiment file says beside its schema: units, and what each change takes."""

from typing import Final

# Of every number: what it is a number of, by its name, or by its section's too where two have one. Those without one
# are numbers alone.
UNITS: Final = {
    "LastCheckpoints.number": "states",
    "apart": "share of the steps",
    "beta1": "",
    "beta2": "",
    "boilerplate_share": "share of the bytes",
    "checkpoint_minutes": "minutes",
    "context_characters": "characters",
    "continuation_characters": "characters",
    "epsilon": "",
    "expected_tokens": "tokens",
    "final_learning_rate_share": "share",
    "fresh_within_hours": "hours",
    "gradient_clip": "",
    "held_out_share": "share",
    "keep_fraction": "share",
    "keep_runs": "runs",
    "limit": "documents",
    "Training.num_processes": "processes",
    "StudentTraining.num_processes": "processes",
    "max_difference_nats_per_token": "nats a token",
    "max_document_bytes": "bytes",
    "max_flip_share": "share",
    "max_loss_rise_nats_per_token": "nats a token",
    "max_mean_difference_nats_per_token": "nats a token",
    "max_rank_correlation_with_one_model": "correlation",
    "max_rejected_share": "share of the rows",
    "max_share_below_zero": "share",
    "megabytes": "10^6 bytes",
    "min_rank_correlation": "correlation",
    "min_similarity": "share",
    "min_spread_nats_per_token": "nats a token",
    "ngram": "words",
    "noise_share": "share of the bytes",
    "num_around_cutoff": "sequences",
    "num_documents": "documents",
    "num_evaluations": "evaluations",
    "num_fewshot": "examples",
    "num_held_out_sequences": "sequences",
    "num_nodes": "nodes",
    "num_parameters": "parameters",
    "num_permutations": "permutations, a byte each",
    "num_processes": "corpus files at once",
    "models_at_once": "models",
    "num_random": "sequences",
    "num_sampled_tokens": "tokens",
    "num_shards": "files",
    "num_workers": "workers",
    "number": "ids a token",
    "peak_learning_rate": "",
    "pretraining_weight": "",
    "prompt_tokens": "tokens",
    "quiet_seconds": "seconds",
    "reference": "share of the documents",
    "requests_per_batch": "requests",
    "seconds_between_looks": "seconds",
    "seed": "",
    "seeds": "",
    "sequence_length": "tokens",
    "sequences_per_batch": "sequences",
    "sequences_per_device": "sequences",
    "sequences_per_part": "sequences",
    "sequences_per_step": "sequences",
    "share": "share",
    "shingle_words": "words",
    "teacher": "share of the documents",
    "teacher_mix": "share",
    "temperature": "",
    "tensor_parallel_size": "devices",
    "token_budget": "tokens",
    "tokens_per_batch": "tokens",
    "top_k": "tokens",
    "top_p": "probability",
    "validation": "share of the documents",
    "vocab_size": "tokens",
    "warmup_share": "share of the steps",
    "weight": "share",
    "weight_decay": "",
    "within_nats": "nats, as rank_by says",
}

# In the order of the pipeline: what is made anew first, and what that takes.
STAGES: Final = {
    "listing": "Seconds. Files are known by their content: those that hold the same are not read again.",
    "documents": "Reading and cleaning, no model; then all that follows: the dearest change there is.",
    "tokenizer": "Seconds to minutes, no model; then all that follows.",
    "sequences": "Packing, no model; then models that are trained here, scores, selections, students.",
    "models": "A model that is trained here is trained anew, one of a hub or a folder copied; then what it scores.",
    "scores": "One pass of the model over all candidates, device hours on a large corpus; then selections, students.",
    "selection": "SQL over the stored scores: no score, no model; then the students that learn from it.",
    "proxy": "The share that is scored, the proxy, its predictions; then the selection.",
    "rescoring": "The band around the cutoff is scored; then the selection.",
    "generation": "The teacher writes the corpus anew; then the students that learn from it.",
    "student": "That student is trained, each of its seeds, and measured.",
    "evaluation": "Students are measured anew; none is trained.",
    "tasks": "Students answer the tasks anew; none is trained.",
    "pilot": "The pilot's share, or its verdict alone where a limit moves. No result hangs on it: it is a gate.",
    "agreement": "A thousand sequences, or the verdict alone where a limit moves. No result hangs on it: it is a gate.",
    "contamination": "Texts are compared, no model.",
    "export": "Files are copied.",
    "comparison": "Seconds, from what is stored.",
    "report": "Seconds, from what is stored.",
    "nothing": "What is stored is found as it is.",
}
# What hangs on these is judged or shown by the others, so that they are told only where nothing else is made.
BESIDE: Final = ("proxy", "pilot", "agreement", "contamination", "export", "comparison", "report")
STAGE_OF_KIND: Final = {
    "raw_corpus": "listing",
    "documents": "documents",
    "protected_ngrams": "contamination",
    "contaminated_documents": "contamination",
    "tokenizer": "tokenizer",
    "token_counts": "selection",
    "sequences": "sequences",
    "teacher_model": "models",
    "reference_model": "models",
    "pilot": "pilot",
    "pilot_teacher_scores": "pilot",
    "pilot_reference_scores": "pilot",
    "rescored_teacher_scores": "rescoring",
    "rescored_reference_scores": "rescoring",
    "sampled_teacher_scores": "proxy",
    "sampled_reference_scores": "proxy",
    "proxy_model": "proxy",
    "proxy_agreement": "proxy",
    "proxy_differences": "proxy",
    "agreement_teacher_scores": "agreement",
    "agreement_reference_scores": "agreement",
    "score_agreement": "agreement",
    "refined_sequences": "student",
    "student_evaluation": "evaluation",
    "text_evaluation": "evaluation",
    "student_tasks": "tasks",
    "exported_student": "export",
    "exported_corpus": "export",
    "report": "report",
    "warehouse_catalog": "report",
}
STAGE_OF_SECTION: Final = {
    "teacher": "scores",
    "reference": "scores",
    "selection": "selection",
    "generation": "generation",
    "student": "student",
    "text": "evaluation",
    "tasks": "tasks",
    "reports": "comparison",
}

INTRODUCTION: Final = """\
<!-- Written by `python -m docs.write_configuration`; a test holds it against the code. -->
# Configuration: every key of the experiment file

One YAML file is an experiment. What is wrong in it is said at its line, all at once. An editor with a YAML language
server (VS Code's YAML extension, Neovim, JetBrains) completes its keys and marks what is wrong where the first line is

```yaml
# yaml-language-server: $schema=experiment.schema.json
```

with the path of [experiments/experiment.schema.json](../experiments/experiment.schema.json), which
`python -m miniplm_assets schema` prints, too. The files in `experiments/` have that line.

NAME stands for a name of your own: letters, digits and `_`. Relative paths are relative to the file; `~` and
`$VARIABLE` are expanded. Digits may be parted (`100_000`). Keys at the top that begin with `x-` are left alone, so that
YAML anchors have a place to stand. A default of `-` is nothing: the key is left out.

## What a change costs

The last column of every table says what is made anew first where the setting changes: that, and what hangs on it.
Everything else is found, and so is the old result when the setting changes back. `python -m miniplm_assets plan` says
it of your experiment, with tokens, FLOPs and time.

| made anew | what that takes |
|---|---|"""
