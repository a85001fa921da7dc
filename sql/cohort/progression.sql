-- One row a patient whose disease surely progressed after index: the first day by which it surely had.
-- A progression on or before the index day is what the index treatment was given for, and one known only to
-- a month or year counts where all of it lies after index: from its last day on, or from death if that is in
-- it. What remains unsure is counted by the check `undated_progression`.
with progressed as (
    select
        s.study,
        s.patient_id,
        s.status_date,
        s.earliest_day,
        case
            when date_diff('day', i.index_date, d.death_date) between s.earliest_day and s.latest_day
                then date_diff('day', i.index_date, d.death_date)
            else s.latest_day
        end as sure_day
    from cohort.disease_status as s
    inner join cohort.index_event as i on s.study = i.study and s.patient_id = i.patient_id
    left join cohort.death as d on s.study = d.study and s.patient_id = d.patient_id
    where s.status = 'progressed' and s.earliest_day > 0
),

ranked as (
    select
        *,
        row_number() over (
            partition by study, patient_id order by sure_day asc, status_date asc nulls last, earliest_day asc
        ) as precedence
    from progressed
)

select
    ranked.study, -- The study.
    ranked.patient_id, -- The patient.
    ranked.status_date as progression_date, -- The day; null where it is known to the month or year.
    cast(ranked.sure_day as integer) as progression_day -- Days from index, above 0: progressed by then.
from ranked
where ranked.precedence = 1
