-- How long was follow-up, by the reason why it ended?
select
    study,
    end_reason,
    count(*) as patients,
    min(time_days) as shortest_days,
    quantile_cont(time_days, 0.25) as lower_quartile_days,
    median(time_days) as median_days,
    quantile_cont(time_days, 0.75) as upper_quartile_days,
    max(time_days) as longest_days
from cohort.survival
group by study, end_reason
order by study, end_reason
