-- A failure means: other candidates survive than the pre_filter keeps.
-- model: surviving_sequences
-- severity: stop
with

surviving_sequences as (
    select * from {{ ref('surviving_sequences') }}
),

selection_cutoff as (
    select * from {{ ref('selection_cutoff') }}
),

counted as (
    select
        count(*) as num_surviving,
        coalesce(sum(num_tokens), 0) as num_surviving_tokens
    from surviving_sequences
    where split = 'candidate'
),

final as (
    select
        format('{} candidates of {} tokens survive, and the pre_filter keeps {} of {}. Materialise its tables again',
            num_surviving, num_surviving_tokens, num_kept, num_kept_tokens) as problem
    from selection_cutoff
    cross join counted
    where num_kept != num_surviving or num_kept_tokens != num_surviving_tokens
)

select * from final
