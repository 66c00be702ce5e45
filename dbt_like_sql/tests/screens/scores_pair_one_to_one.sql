-- Proves the pairing of the differences already written by counting, without a join of all three tables: they are as
-- many as the candidates, and no two are of one sequence, so that each candidate has exactly one score by each model;
-- and the scores beyond those are of validation sequences. A shortcut rests on it, too: that each stands above the one
-- before says that its rows are in order.
with

difference_scores as (
    select * from {{ ref('difference_scores') }}
),

sequences as (
    select * from {{ ref('sequences') }}
),

teacher_scores as (
    select * from {{ ref('stg_teacher_scores') }}
),

reference_scores as (
    select * from {{ ref('stg_reference_scores') }}
),

candidates as (
    select * from {{ ref('stg_candidates') }}
),

differences_after_another as (
    select
        sequence_id,
        lag(sequence_id) over () as previous_sequence_id
    from difference_scores
),

validation_sequences as (
    select sequence_id from sequences
    where split = 'validation'
),

counts as (
    select
        (select count(*) from difference_scores) as num_differences,
        (select count(*) from differences_after_another where sequence_id <= previous_sequence_id) as num_not_above,
        (select count(*) from difference_scores semi join validation_sequences using (sequence_id))
            as num_of_validation_sequences,
        (select count(*) from candidates) as num_candidates,
        (select count(*) from teacher_scores) as num_teacher_scores,
        (select count(*) from reference_scores) as num_reference_scores,
        (select count(*) from teacher_scores semi join validation_sequences using (sequence_id))
            as num_teacher_validation_scores,
        (select count(*) from reference_scores semi join validation_sequences using (sequence_id))
            as num_reference_validation_scores
),

final as (
    select * from counts
    where
        num_not_above > 0
        or num_of_validation_sequences > 0
        or num_candidates != num_differences
        or num_teacher_scores != num_differences + num_teacher_validation_scores
        or num_reference_scores != num_differences + num_reference_validation_scores
)

select * from final
