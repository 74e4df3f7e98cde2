"""Which replica a request goes to: one about a job to where the job is, any other to a replica with few to do."""

import random

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica


class JobRouter(RequestRouter):
    """Of two replicas drawn by chance, Ray takes the one with the shorter queue (Mitzenmacher 2001)."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Ranks of replicas, one rank here. A job whose replica is gone is in the store, which any other reads."""
        wanted = pending_request.metadata.session_id if pending_request is not None else ""
        home = [replica for replica in candidate_replicas if replica.replica_id.unique_id == wanted]
        return [home or random.sample(candidate_replicas, min(2, len(candidate_replicas)))]
