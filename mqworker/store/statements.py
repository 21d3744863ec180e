"""A message's life in five guarded statements: claim, settle, renew, release, reclaim.

The rules that hold P3, P4 and P5 stand here and nowhere else:

* A claim takes *chats*. Of each it takes the head, by (priority DESC, seq), if nothing of the chat is in flight and
  the chat's and its account's ``next_at`` have passed. All of that is read in one snapshot.
* What the snapshot could not know is caught on the newest versions: the chat's row is locked and its gap looked at
  again, the head is locked and must still wait, and the unique index refuses a second message in flight.
  Locks are only tried (SKIP LOCKED): a locked head passes its whole chat over, never steps to the next message.
* A settle names its claim. A worker that lost its claim changes nothing.
* ``status COLLATE "C"`` is how the index ``message_queue_items_head`` spells it, and no other: with any statistics,
  or none, the planner has one index to find a head with.
* Times are PostgreSQL's own: ``statement_timestamp()`` to compare (stable, so an index can use it, and never late),
  ``clock_timestamp()`` to write.
"""

from __future__ import annotations

CLAIM = """
WITH heads AS MATERIALIZED (
    SELECT asked.place, asked.instance, asked.chat_id,
           head.id, head.executor,
           pace.next_at IS NOT NULL AS known,
           flight.id IS NOT NULL AS in_flight,
           CASE WHEN flight.id IS NOT NULL THEN flight.lease_expires_at
                ELSE GREATEST(pace.next_at, account.next_at, head.available_at, soon.due_at) END AS until,
           soon.id AS soon_id, soon.seq AS soon_seq, soon.priority AS soon_priority
    FROM unnest(CAST(%(instances)s AS text[]), CAST(%(chat_ids)s AS text[]))
         WITH ORDINALITY AS asked(instance, chat_id, place)
    LEFT JOIN LATERAL (
        SELECT i.id, i.lease_expires_at FROM message_queue_items i
        WHERE i.instance = asked.instance AND i.chat_id = asked.chat_id AND i.status = 'PROCESSING'
        LIMIT 1
    ) flight ON true
    LEFT JOIN LATERAL (
        SELECT c.next_at FROM message_queue_chats c
        WHERE c.instance = asked.instance AND c.chat_id = asked.chat_id
        LIMIT 1
    ) pace ON true
    LEFT JOIN LATERAL (
        SELECT a.next_at FROM message_queue_instances a WHERE a.instance = asked.instance LIMIT 1
    ) account ON true
    LEFT JOIN LATERAL (
        SELECT * FROM (
            (SELECT i.id, i.priority, i.seq, i.available_at, i.executor
             FROM message_queue_items i
             WHERE i.instance = asked.instance AND i.chat_id = asked.chat_id
               AND i.status COLLATE "C" = 'PENDING'
               AND COALESCE(i.scheduled_at, '-infinity'::timestamptz) = '-infinity'
             ORDER BY i.priority DESC, i.seq
             LIMIT 1)
            UNION ALL
            (SELECT i.id, i.priority, i.seq, i.available_at, i.executor
             FROM message_queue_items i
             WHERE i.instance = asked.instance AND i.chat_id = asked.chat_id
               AND i.status COLLATE "C" = 'PENDING'
               AND COALESCE(i.scheduled_at, '-infinity'::timestamptz) > '-infinity'
               AND COALESCE(i.scheduled_at, '-infinity'::timestamptz) <= statement_timestamp()
             ORDER BY i.priority DESC, i.seq
             LIMIT 1)
        ) due
        ORDER BY due.priority DESC, due.seq
        LIMIT 1
    ) head ON true
    -- Redis' clock or the producer's may run ahead: what is due in a moment is waited for. Told "empty", Redis
    -- would forget it just before its time.
    LEFT JOIN LATERAL (
        SELECT i.id, i.seq, i.priority, i.scheduled_at AS due_at FROM message_queue_items i
        WHERE head.id IS NULL AND i.instance = asked.instance AND i.chat_id = asked.chat_id
          AND i.status COLLATE "C" = 'PENDING'
          AND COALESCE(i.scheduled_at, '-infinity'::timestamptz) > statement_timestamp()
          AND COALESCE(i.scheduled_at, '-infinity'::timestamptz) <= statement_timestamp() + interval '1 minute'
        ORDER BY COALESCE(i.scheduled_at, '-infinity'::timestamptz)
        LIMIT 1
    ) soon ON true
),
may_go AS MATERIALIZED (
    SELECT * FROM heads
    WHERE id IS NOT NULL AND NOT in_flight AND executor = ANY(CAST(%(executors)s AS text[]))
      AND (until IS NULL OR until <= statement_timestamp())
),
-- Between the snapshot and now another worker may have sent to the chat. Its settle wrote the chat's row in the
-- same transaction, so the newest version of that row, locked, decides.
paced AS MATERIALIZED (
    SELECT m.id FROM may_go m
    CROSS JOIN LATERAL (
        SELECT 1 FROM message_queue_chats c
        WHERE c.instance = m.instance AND c.chat_id = m.chat_id AND c.next_at <= statement_timestamp()
        FOR UPDATE SKIP LOCKED
    ) free
    WHERE m.known
),
-- A chat never sent to has no row to lock: of two claimers the insert lets one through. Where a single insert
-- was refused all new chats of the batch wait a moment: to ask for each which one it was costs a join.
first AS (
    INSERT INTO message_queue_chats (instance, chat_id)
    SELECT instance, chat_id FROM may_go WHERE NOT known ORDER BY instance, chat_id
    ON CONFLICT DO NOTHING
    RETURNING 1
),
free AS (
    SELECT id FROM paced
    UNION ALL
    SELECT id FROM may_go
    WHERE NOT known AND (SELECT count(*) FROM first) = (SELECT count(*) FROM may_go WHERE NOT known)
),
locked AS MATERIALIZED (
    SELECT i.id FROM message_queue_items i
    WHERE i.id = ANY(ARRAY(SELECT id FROM free)) AND i.status COLLATE "C" = 'PENDING'
    ORDER BY i.id
    FOR UPDATE SKIP LOCKED
),
claimed AS (
    UPDATE message_queue_items i
    SET status = 'PROCESSING', claim_id = gen_random_uuid(), worker = %(worker)s,
        lease_expires_at = clock_timestamp() + make_interval(secs => %(lease_seconds)s),
        processing_started_at = clock_timestamp(), updated_at = clock_timestamp()
    WHERE i.id = ANY(ARRAY(SELECT id FROM locked))
    RETURNING i.id, i.claim_id, i.seq, i.client_id, i.payload::text AS payload, i.is_group, i.executor,
              i.priority, i.retry_count, i.max_retries, i.created_at,
              date_part('epoch', i.processing_started_at - GREATEST(i.created_at, i.scheduled_at)) AS waited_seconds
)
SELECT heads.instance, heads.chat_id,
       CASE WHEN heads.in_flight THEN 'in_flight'
            WHEN heads.id IS NULL AND heads.soon_id IS NULL THEN 'empty'
            WHEN heads.until > statement_timestamp() THEN 'waits'
            WHEN NOT heads.executor = ANY(CAST(%(executors)s AS text[])) THEN 'executor'
            ELSE 'contended' END AS verdict,
       CASE WHEN heads.until > statement_timestamp()
            THEN EXTRACT(EPOCH FROM LEAST(heads.until, statement_timestamp() + interval '1 day')
                                    - clock_timestamp()) END AS wait_seconds,
       heads.soon_id, heads.soon_seq, heads.soon_priority,
       -- Two times and not their difference: a chat's time that was set by hand to -infinity has none.
       date_part('epoch', statement_timestamp()) - date_part('epoch', heads.until) AS free_seconds,
       claimed.*
FROM heads LEFT JOIN claimed ON claimed.id = heads.id
ORDER BY heads.place
"""

# Rows are looked up one by one, in id order, with what is told of them at hand: between two sets of unknown size the
# planner expects a handful and compares each with each, 20 ms for a batch of 250.
SETTLE = """
WITH told AS MATERIALIZED (
    SELECT * FROM unnest(
        CAST(%(ids)s AS uuid[]), CAST(%(claim_ids)s AS uuid[]), CAST(%(statuses)s AS text[]),
        CAST(%(attempts)s AS int[]), CAST(%(backoffs)s AS float8[]), CAST(%(gaps)s AS float8[]),
        CAST(%(instance_waits)s AS float8[]), CAST(%(errors)s AS text[]), CAST(%(provider_ids)s AS text[])
    ) WITH ORDINALITY AS t(id, claim_id, status, attempts, backoff, gap, instance_wait, error, provider_id, place)
    ORDER BY id
),
locked AS MATERIALIZED (
    SELECT told.*, row.status AS was, row.cancel_requested_at FROM told
    CROSS JOIN LATERAL (
        SELECT i.status, i.cancel_requested_at FROM message_queue_items i
        WHERE i.id = told.id AND i.claim_id = told.claim_id
        FOR UPDATE
    ) row
),
settled AS (
    UPDATE message_queue_items i
    SET -- A cancel that came while the message was in flight wins over every end but "sent".
        status = CASE WHEN locked.cancel_requested_at IS NOT NULL AND locked.status <> 'COMPLETED'
                      THEN 'CANCELLED' ELSE locked.status END,
        retry_count = LEAST(i.retry_count, 2147483646) + locked.attempts,
        error = locked.error,
        provider_id = COALESCE(locked.provider_id, i.provider_id),
        lease_expires_at = NULL,
        available_at = CASE WHEN locked.backoff > 0
                            THEN clock_timestamp() + make_interval(secs => locked.backoff) END,
        processed_at = CASE WHEN locked.status <> 'PENDING' OR locked.cancel_requested_at IS NOT NULL
                            THEN clock_timestamp() END,
        updated_at = clock_timestamp()
    FROM locked
    WHERE i.id = locked.id AND locked.was = 'PROCESSING'
    RETURNING locked.place, i.status, i.instance, i.chat_id, locked.gap, locked.instance_wait
),
paced AS (
    INSERT INTO message_queue_chats AS chats (instance, chat_id, next_at)
    SELECT instance, chat_id, clock_timestamp() + make_interval(secs => gap)
    FROM settled
    WHERE gap IS NOT NULL
    ORDER BY instance, chat_id
    ON CONFLICT (instance, chat_id) DO UPDATE SET next_at = GREATEST(chats.next_at, EXCLUDED.next_at)
),
held AS (
    -- Whose account it is, only initialize says.
    INSERT INTO message_queue_instances AS accounts (instance, next_at)
    SELECT instance, clock_timestamp() + make_interval(secs => max(instance_wait))
    FROM settled
    WHERE instance_wait > 0
    GROUP BY instance
    ORDER BY instance
    ON CONFLICT (instance) DO UPDATE SET next_at = GREATEST(accounts.next_at, EXCLUDED.next_at)
)
SELECT place, status FROM settled
UNION ALL
-- A repeat after a broken connection finds its own claim settled already: that is no late settle.
SELECT place, was FROM locked WHERE was <> 'PROCESSING'
"""

RENEW = """
WITH locked AS MATERIALIZED (
    SELECT i.id FROM message_queue_items i
    WHERE i.id = ANY(CAST(%(ids)s AS uuid[])) AND i.claim_id = ANY(CAST(%(claim_ids)s AS uuid[]))
      AND i.status = 'PROCESSING'
    ORDER BY i.id
    FOR UPDATE
)
UPDATE message_queue_items i
-- Renewed or not, no claim outlives stale_after.
SET lease_expires_at = LEAST(clock_timestamp() + make_interval(secs => %(lease_seconds)s),
                             i.processing_started_at + make_interval(secs => %(stale_after_seconds)s))
WHERE i.id = ANY(ARRAY(SELECT id FROM locked))
RETURNING i.claim_id
"""

RELEASE_STRAYS = """
WITH strays AS MATERIALIZED (
    SELECT i.id FROM message_queue_items i
    WHERE i.status = 'PROCESSING' AND i.worker = %(worker)s
      AND NOT i.claim_id = ANY(CAST(%(claim_ids)s AS uuid[]))
    ORDER BY i.id
    FOR UPDATE
)
UPDATE message_queue_items i
SET status = CASE WHEN i.cancel_requested_at IS NOT NULL THEN 'CANCELLED' ELSE 'PENDING' END,
    processed_at = CASE WHEN i.cancel_requested_at IS NOT NULL THEN clock_timestamp() END,
    error = NULL, lease_expires_at = NULL, available_at = NULL, updated_at = clock_timestamp()
WHERE i.id = ANY(ARRAY(SELECT id FROM strays))
RETURNING i.id
"""

RECLAIM = """
WITH expired AS MATERIALIZED (
    SELECT i.id FROM message_queue_items i
    WHERE i.status = 'PROCESSING'
      AND COALESCE(i.lease_expires_at,
                   i.processing_started_at + make_interval(secs => %(stale_after_seconds)s),
                   i.updated_at + make_interval(secs => %(stale_after_seconds)s)) < statement_timestamp()
      -- After a restart of PostgreSQL the workers that live on must have had the time to renew.
      AND pg_postmaster_start_time() + make_interval(secs => %(lease_seconds)s) < statement_timestamp()
    ORDER BY i.id
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
),
reclaimed AS (
    UPDATE message_queue_items i
    -- One row with a count at its end, put in by hand, must not stop the sweep for all.
    SET status = CASE WHEN i.cancel_requested_at IS NOT NULL THEN 'CANCELLED'
                      WHEN i.retry_count >= i.max_retries - 1::bigint THEN 'FAILED'
                      ELSE 'PENDING' END,
        retry_count = LEAST(i.retry_count, 2147483646) + 1,
        error = 'LeaseExpired: ' || COALESCE(i.worker, 'a worker') || ' stopped renewing its claim',
        processed_at = CASE WHEN i.cancel_requested_at IS NOT NULL OR i.retry_count >= i.max_retries - 1::bigint
                            THEN clock_timestamp() END,
        claim_id = NULL, lease_expires_at = NULL, available_at = NULL, updated_at = clock_timestamp()
    WHERE i.id = ANY(ARRAY(SELECT id FROM expired))
    RETURNING i.id, i.seq, i.instance, i.chat_id, i.status, i.priority, i.retry_count
),
drawn AS MATERIALIZED (
    SELECT *, %(gap_min)s + random() * %(gap_span)s AS wait_seconds FROM reclaimed
),
paced AS (
    INSERT INTO message_queue_chats AS chats (instance, chat_id, next_at)
    SELECT instance, chat_id, clock_timestamp() + make_interval(secs => wait_seconds)
    FROM drawn
    ORDER BY instance, chat_id
    ON CONFLICT (instance, chat_id) DO UPDATE SET next_at = GREATEST(chats.next_at, EXCLUDED.next_at)
)
SELECT * FROM drawn
"""
