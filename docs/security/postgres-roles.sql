-- Three roles: mq_owner migrates, mq_app is what producers and workers are, mq_readonly looks and sees no payload.
--
-- Run it with psql as a superuser (or a role that may create roles and owns the database), in the queue's database:
--
--     export MQ_OWNER_PASSWORD=... MQ_APP_PASSWORD=... MQ_READONLY_PASSWORD=...
--     psql -v ON_ERROR_STOP=1 -f postgres-roles.sql
--     MQWORKER_DATABASE_URL=postgresql://mq_owner:...@host/name mqworker migrate
--     psql ... -f postgres-roles.sql        -- once more: now there are tables to give rights to
--
-- Run it again after each upgrade. Producers and workers then get postgresql://mq_app:...@host/name.
-- From the environment (psql 14 or later): a command line can be read by everybody on the machine. A password left out
-- is a syntax error. A server with log_statement = 'ddl' writes passwords into its log: give
-- SCRAM verifiers instead of them there, or set them with \password. pg_hba.conf must ask these roles for scram-sha-256.

\getenv owner_password MQ_OWNER_PASSWORD
\getenv app_password MQ_APP_PASSWORD
\getenv readonly_password MQ_READONLY_PASSWORD

SELECT format('CREATE ROLE %I', name)
FROM unnest(ARRAY['mq_owner', 'mq_app', 'mq_readonly']) AS name
WHERE NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = name)
\gexec

-- A worker and a producer hold at most 5 connections each; these limits are an example.
ALTER ROLE mq_owner LOGIN NOINHERIT CONNECTION LIMIT 5 PASSWORD :'owner_password';
ALTER ROLE mq_app LOGIN NOINHERIT CONNECTION LIMIT 150 PASSWORD :'app_password';
ALTER ROLE mq_readonly LOGIN NOINHERIT CONNECTION LIMIT 10 PASSWORD :'readonly_password';

-- pg_temp last: nobody's temporary table can stand in for one of ours.
ALTER ROLE mq_owner SET search_path = public, pg_temp;
ALTER ROLE mq_app SET search_path = public, pg_temp;
ALTER ROLE mq_readonly SET search_path = public, pg_temp;

-- Against accidents, not against an attacker: a session may set them otherwise. All that a worker does takes
-- milliseconds, a batch of 10,000 messages some seconds; a statement that is cut off is repeated or reported.
ALTER ROLE mq_app SET statement_timeout = '30s';
ALTER ROLE mq_app SET lock_timeout = '5s';
ALTER ROLE mq_app SET idle_in_transaction_session_timeout = '60s';
ALTER ROLE mq_readonly SET statement_timeout = '30s';
ALTER ROLE mq_readonly SET lock_timeout = '5s';
ALTER ROLE mq_readonly SET idle_in_transaction_session_timeout = '60s';
ALTER ROLE mq_readonly SET default_transaction_read_only = on;

-- What everybody has by default. In a database that your application shares with the queue, give the application's
-- own roles CONNECT, TEMPORARY and their rights in public first.
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database())
\gexec
SELECT format('GRANT CONNECT ON DATABASE %I TO mq_owner, mq_app, mq_readonly', current_database())
\gexec
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO mq_owner;
GRANT USAGE ON SCHEMA public TO mq_app, mq_readonly;

SELECT to_regclass('public.message_queue_items') IS NOT NULL AS migrated
\gset
\if :migrated

-- The identity column's sequence needs no right of its own.
-- DELETE: the workers remove finished rows after their retention, producers may (clean_old_messages). It gives away
-- little: who may UPDATE a message's state can keep it from being sent anyway.
GRANT SELECT, INSERT, UPDATE, DELETE ON message_queue_items, message_queue_chats TO mq_app;
GRANT SELECT, INSERT, UPDATE ON message_queue_instances, message_queue_duties TO mq_app;
GRANT SELECT ON message_queue_version TO mq_app;

-- Columns, not a view: a view would stand in the way of later migrations. A new column is hidden until it is named
-- here. chat_id is a telephone number with most providers.
GRANT SELECT (
    id, seq, instance, chat_id, client_id, status, priority, is_group, executor, retry_count, max_retries, error,
    provider_id, claim_id, worker, lease_expires_at, scheduled_at, available_at, cancel_requested_at, created_at,
    updated_at, processing_started_at, processed_at
) ON message_queue_items TO mq_readonly;
GRANT SELECT ON message_queue_chats, message_queue_instances, message_queue_duties, message_queue_version
    TO mq_readonly;

\endif
