-- One row a patient with copies of the transgene measured on or after index: how far the cells expanded, and
-- how long they were seen. Before the first measurement 0 on day 0, straight lines between the days.
with point as (
    select
        study,
        patient_id,
        day,
        copies
    from cohort.copies_by_day
    union all
    select
        study,
        patient_id,
        0 as day,
        0.0 as copies
    from cohort.copies_by_day
    group by study, patient_id
    having min(day) > 0
),

segment as (
    select
        study,
        patient_id,
        day as to_day,
        copies as to_copies,
        lag(day) over (partition by study, patient_id order by day) as from_day,
        lag(copies) over (partition by study, patient_id order by day) as from_copies
    from point
),

cut as (
    select
        study,
        patient_id,
        from_day,
        least(to_day, 28) as until_day,
        from_copies,
        case
            when to_day <= 28 then to_copies
            else from_copies + (to_copies - from_copies) * (28 - from_day) / (to_day - from_day)
        end as until_copies
    from segment
    where from_day < 28
),

area as (
    select
        study,
        patient_id,
        max(until_day) as until_day,
        cast(
            sum(
                cast((from_copies + until_copies) / 2 * (until_day - from_day) as decimal(38, 9))
            ) as double
        ) as copies_days
    from cut
    group by study, patient_id
),

peak as (
    select
        study,
        patient_id,
        copies_unit,
        day,
        copies,
        row_number() over (partition by study, patient_id order by copies desc, day asc) as precedence
    from cohort.copies_by_day
),

span as (
    select
        study,
        patient_id,
        count(*) as n_days,
        max(day) as last_measured_day,
        max(case when copies > 0 then day end) as last_detectable_day
    from cohort.copies_by_day
    group by study, patient_id
)

select
    p.study, -- The study.
    p.patient_id, -- The patient.
    p.copies_unit, -- The protocol's unit of copies.
    cast(s.n_days as integer) as n_days, -- Days with a measurement.
    p.copies as peak_copies, -- Highest of the days' values.
    cast(p.day as integer) as peak_day, -- Days from index to the first of the highest.
    case
        when a.until_day = 28 then a.copies_days
    end as auc_0_28, -- Area from day 0 to 28, copies times days (trapezoids); null if measured for less.
    cast(
        s.last_detectable_day as integer
    ) as last_detectable_day, -- Days from index to the last value above 0; null if there was none.
    cast(s.last_measured_day as integer) as last_measured_day -- Days from index to the last measurement.
from peak as p
inner join span as s on p.study = s.study and p.patient_id = s.patient_id
left join area as a on p.study = a.study and p.patient_id = a.patient_id
where p.precedence = 1
