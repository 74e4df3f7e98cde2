"""How many replicas there should be: by requests, as Ray counts them, and by jobs, which outlive their request."""

import math
from typing import Any

JOBS = "jobs"  # the name of the number that replicas report
JOBS_EACH = 2  # that wait or run: one that is painted and one that is next


def by_work(context: Any) -> tuple[int, dict[str, Any]]:
    """Replicas for the requests and the jobs of a `ray.serve.config.AutoscalingContext`, and Ray's notes.

    Ray adds delays, and keeps to the least and the most that are allowed.
    """
    reported = (context.aggregated_metrics or {}).get(JOBS, {})
    by_requests = context.total_num_requests / context.config.get_target_ongoing_requests()
    by_jobs = sum(reported.values()) / JOBS_EACH
    return math.ceil(max(by_requests, by_jobs)), context.policy_state
